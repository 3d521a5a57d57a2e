"""The stream in a browser."""
