"""Exponential multistep methods: one family, many published names."""

from .multistep import ExponentialMultistep

__all__ = ["ExponentialMultistep"]
