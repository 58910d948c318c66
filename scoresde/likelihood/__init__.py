"""Exact likelihoods: log-densities in nats, and bits per dimension of integer data."""

from .bounds import Bound, ddpm_bound, measured_times, variational_bound
from .calibrate import calibrated_grid
from .control_variate import chosen_control
from .dataset import nll_dataset
from .dequantization import (
    Dequantization,
    NoDequantization,
    Reconstruction,
    TruncatedNormal,
    Uniform,
    Variational,
)
from .discrete_data import bits_per_dim
from .divergence import Divergence, Exact, Hutchinson
from .error_budget import AccuracyWarning, BitsPerDim
from .fallback import Fallback
from .fixed_grid import FixedGrid
from .frame import Frame, NoFrame, Whitened
from .frame_estimate import estimate_frame
from .log_density import LogLikelihood, PrecisionWarning, TimeRangeWarning, log_likelihood
from .method import Method
from .method_choice import Choice, choose_method, round_off
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
    "Fallback",
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
    "PrecisionWarning",
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
