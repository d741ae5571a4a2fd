"""What is being improved: tiers, verifiers, calibration, cost, and the traces they leave."""
