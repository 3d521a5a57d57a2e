"""Other tools, measured beside edgecls."""
