"""Training: losses, the training loop, small networks, data sets, and checkpoint files."""
