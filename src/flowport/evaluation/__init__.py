"""Evaluation of trained flows on held-out data: metrics, tables and pictures."""
