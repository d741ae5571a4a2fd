"""Scripts that make every number in the README; each prints a table and names its command."""
