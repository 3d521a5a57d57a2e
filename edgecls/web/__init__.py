"""What every page shares: guards, limits, login, look, endless answers, and the server in a thread."""
