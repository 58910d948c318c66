"""Exact likelihoods: log-densities in nats, and bits per dimension of integer data."""

from .bits_per_dim import bits_per_dim
from .bounds import Bound, ddpm_bound, measured_times, variational_bound
from .budget import AccuracyWarning, BitsPerDim
from .calibrate import calibrated_grid
from .choose import Choice, choose_method, round_off
from .control import chosen_control
from .dequantization import (
    Dequantization,
    NoDequantization,
    Reconstruction,
    TruncatedNormal,
    Uniform,
    Variational,
)
from .divergence import Divergence, Exact, Hutchinson
from .estimate import estimate_frame
from .fixed_grid import FixedGrid
from .frame import Frame, NoFrame, Whitened
from .jobs import nll_dataset
from .log_likelihood import LogLikelihood, TimeRangeWarning, log_likelihood
from .method import Method
from .per_sample import PerSample
from .pixels import Pixels
from .prior import MomentMatched, Prior
from .two_phase import TwoPhase

__all__ = [
    "AccuracyWarning",
    "BitsPerDim",
    "Bound",
    "Choice",
    "Dequantization",
    "Divergence",
    "Exact",
    "FixedGrid",
    "Frame",
    "Hutchinson",
    "LogLikelihood",
    "Method",
    "MomentMatched",
    "NoDequantization",
    "NoFrame",
    "PerSample",
    "Pixels",
    "Prior",
    "Reconstruction",
    "TimeRangeWarning",
    "TruncatedNormal",
    "TwoPhase",
    "Uniform",
    "Variational",
    "Whitened",
    "bits_per_dim",
    "calibrated_grid",
    "choose_method",
    "chosen_control",
    "ddpm_bound",
    "estimate_frame",
    "log_likelihood",
    "measured_times",
    "nll_dataset",
    "round_off",
    "variational_bound",
]
