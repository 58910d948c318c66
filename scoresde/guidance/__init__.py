"""Wrappers that take a predictor and are one: they compose with every solver."""

from .cfg import CFG

__all__ = ["CFG"]
