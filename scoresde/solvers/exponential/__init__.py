"""Exponential integrators: a multistep and a single-step family, and published presets."""

from .multistep import ExponentialMultistep as ExponentialMultistep
from .presets import *  # noqa: F403
from .single_step import ExponentialRK as ExponentialRK
