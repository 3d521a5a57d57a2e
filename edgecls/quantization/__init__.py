"""Int8: recipes, calibration, and the search for the recipe that is accurate and fast."""
