"""What label tools write for classification, and our own manifest: one module for each format, all in `registry`."""
