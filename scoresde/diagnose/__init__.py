"""What a network can do, found out by asking it: whether it is wrapped rightly, and the noise
levels at which it can be trusted.
"""

from .check import check_model
from .levels import noise_range
from .verdict import Finding, LevelLoss, ModelCheck

__all__ = ["Finding", "LevelLoss", "ModelCheck", "check_model", "noise_range"]
