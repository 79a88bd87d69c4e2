"""Reward fine-tuning of a trained flow: methods, adapters, the lean adjoint, certificates."""
