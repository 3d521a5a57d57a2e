"""How fast a model is: one clock, and a comparison of bundles."""
