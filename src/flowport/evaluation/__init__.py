"""Evaluation of trained flows: metrics on held-out data, tables, pictures."""
