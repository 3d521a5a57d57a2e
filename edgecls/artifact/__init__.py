"""The contract between the machine that makes a model and the one that runs it."""
