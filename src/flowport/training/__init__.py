"""Training with Lightning: the LightningModules, composition, learning-rate schedulers, callbacks."""
