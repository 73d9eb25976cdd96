"""The trainer: one training from configuration to checkpoints."""
