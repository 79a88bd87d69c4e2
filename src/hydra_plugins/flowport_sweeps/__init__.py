"""Hydra's plugins of flowport, in the one package in which Hydra looks for them."""
