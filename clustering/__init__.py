"""Escalations to clusters: embed, cluster, describe, target."""
