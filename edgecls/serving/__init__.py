"""Answers for other programs: a server of the Open Inference Protocol, and model repositories for other servers."""
