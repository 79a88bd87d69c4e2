"""Data for training: pairs of source and target points, coupled and indexed by step."""
