"""Exponential multistep methods: one family, many published names."""

from .multistep import ExponentialMultistep
from .single_step import ExponentialRK

__all__ = ["ExponentialMultistep", "ExponentialRK"]
