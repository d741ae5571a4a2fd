"""Clusters to a training set to an adapter: training set, preflight, LoRA."""
