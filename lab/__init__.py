"""The embedded default world: generated traffic, a small base model, an embedder and a loopback flagship."""
