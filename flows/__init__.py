"""Prefect flows, config composition, run directory, reports, command line."""
