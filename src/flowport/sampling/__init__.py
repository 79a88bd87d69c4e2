"""Sampling a trained field: dynamics, solvers, time grids, volatilities, translation and likelihood."""
