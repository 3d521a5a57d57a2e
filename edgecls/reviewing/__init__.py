"""Labelling the frames of a pool, and looking again at labels that may be wrong, in a page and by keyboard."""
