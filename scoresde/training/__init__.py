"""Training: losses, the loop, the library's networks and data sets, and checkpoints in one file."""
