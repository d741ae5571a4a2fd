"""Report to decision to registry: the gate, the registry and the way back."""
