"""Answers for other programs: a server of the open inference protocol, and model repositories for other servers."""
