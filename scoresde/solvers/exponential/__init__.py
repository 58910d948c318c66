"""Exponential integrators: one multistep and one single-step family, many published names."""

from .multistep import ExponentialMultistep as ExponentialMultistep
from .presets import *  # noqa: F403
from .single_step import ExponentialRK as ExponentialRK
