"""From a run to verified bundles."""
