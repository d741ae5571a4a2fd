"""The commands of `cascade-distill`, one file per area; flows/cli.py puts them together."""
