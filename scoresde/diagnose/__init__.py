"""What a network can do, found out by asking it: the noise levels at which it can be trusted."""

from .levels import noise_range

__all__ = ["noise_range"]
