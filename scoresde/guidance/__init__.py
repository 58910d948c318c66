"""Guidance: wrappers of models, which work with every solver and likelihood."""

from .cfg import CFG

__all__ = ["CFG"]
