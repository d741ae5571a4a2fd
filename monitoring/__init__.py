"""Traces since the last promotion -> checks -> findings: what has changed in a cascade that nobody is looking at."""
