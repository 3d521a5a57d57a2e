"""From files and frames to the raw network input (h, w, 3) uint8 RGB."""
