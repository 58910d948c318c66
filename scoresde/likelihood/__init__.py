"""Exact likelihoods: log-densities in nats, and bits per dimension of integer data."""

from .bits_per_dim import BitsPerDim, bits_per_dim
from .dequantization import Dequantization, NoDequantization, Uniform
from .divergence import Divergence, Exact, Hutchinson
from .log_likelihood import LogLikelihood, TimeRangeWarning, log_likelihood
from .pixels import Pixels
from .prior import MomentMatched, Prior

__all__ = [
    "BitsPerDim",
    "Dequantization",
    "Divergence",
    "Exact",
    "Hutchinson",
    "LogLikelihood",
    "MomentMatched",
    "NoDequantization",
    "Pixels",
    "Prior",
    "TimeRangeWarning",
    "Uniform",
    "bits_per_dim",
    "log_likelihood",
]
