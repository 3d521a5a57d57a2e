"""A run learns again: from new images beside its old ones, and only what is no worse is kept."""
