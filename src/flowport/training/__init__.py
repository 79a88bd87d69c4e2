"""Training with Lightning: LightningModules, composition of a flow, learning-rate schedulers and callbacks."""
