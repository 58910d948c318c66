"""Score-based SDEs and ODEs in PyTorch: processes, samplers, exact likelihoods."""

from __future__ import annotations

from .analytic import Gaussian, GaussianMixture, diagonal, full, isotropic, low_rank
from .errors import ScoreSDEError
from .grid import (
    Grid,
    from_lambdas,
    from_times,
    karras,
    leading,
    power,
    trailing,
    uniform_lambda,
    uniform_t,
)
from .model import Predictor, ScoreModel, shared
from .noise import BatchSeed, BrownianPath, Predrawn, SampleSeeds
from .prediction import Parametrization, Prediction, PredictsF
from .reverse import ReverseSDE
from .sampling import SampleResult, StepInfo, iterate, sample
from .sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    DiscreteVPSDE,
    FlowSDE,
    Knot,
    SubVPSDE,
    cosine_betas,
    linear_betas,
    sigmoid_betas,
)
from .solvers import DDIM, EulerMaruyama, Solver
from .time_input import index, scaled

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "BatchSeed",
    "BrownianPath",
    "CosineVPSDE",
    "DiscreteVPSDE",
    "EulerMaruyama",
    "FlowSDE",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "Knot",
    "Parametrization",
    "Prediction",
    "Predictor",
    "PredictsF",
    "Predrawn",
    "ReverseSDE",
    "SampleResult",
    "SampleSeeds",
    "ScoreModel",
    "ScoreSDEError",
    "Solver",
    "StepInfo",
    "SubVPSDE",
    "cosine_betas",
    "diagonal",
    "from_lambdas",
    "from_times",
    "full",
    "index",
    "isotropic",
    "iterate",
    "karras",
    "leading",
    "linear_betas",
    "low_rank",
    "power",
    "sample",
    "scaled",
    "shared",
    "sigmoid_betas",
    "trailing",
    "uniform_lambda",
    "uniform_t",
]
