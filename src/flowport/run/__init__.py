"""Runs on disk: build, train, fine-tune, evaluate and translate from a config, and the command line."""
