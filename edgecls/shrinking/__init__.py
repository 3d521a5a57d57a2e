"""Making a run faster with a smaller input, narrower layers or a smaller network."""
