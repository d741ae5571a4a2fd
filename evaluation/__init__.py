"""Adapter to report: paired replay, grading, metrics with intervals."""
