"""Collecting labelled images from a camera."""
