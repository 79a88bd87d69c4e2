"""Data for training: batches of coupled source and target points, indexed by step."""
