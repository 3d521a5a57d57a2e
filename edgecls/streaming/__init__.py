"""Frames in, decisions out: sources, the loop, and sinks."""
