"""Score-based SDEs and ODEs in PyTorch: processes, samplers, exact likelihoods."""

from __future__ import annotations

from .analytic import Gaussian, GaussianMixture, diagonal, full, isotropic, low_rank
from .checkpoint import load_pretrained
from .errors import ScoreSDEError
from .grid import (
    Grid,
    focused,
    from_lambdas,
    from_times,
    karras,
    leading,
    power,
    trailing,
    uniform_lambda,
    uniform_t,
)
from .guidance import CFG
from .latents import decode, encode
from .likelihood import Exact, Hutchinson, MomentMatched, bits_per_dim, log_likelihood
from .model import Predictor, ScoreModel, shared
from .noise import BatchSeed, BrownianPath, Predrawn, SampleSeeds
from .ode import SciPy, TorchDiffEq
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
from .solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Heun,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Solver,
)
from .time_input import index, scaled

__version__ = "0.1.0"

__all__ = [
    "CFG",
    "DDIM",
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "Ancestral",
    "AnnealedLangevin",
    "BatchSeed",
    "BrownianPath",
    "CosineVPSDE",
    "DiscreteVPSDE",
    "EulerMaruyama",
    "Exact",
    "FlowSDE",
    "Gaussian",
    "GaussianMixture",
    "Grid",
    "Heun",
    "Hutchinson",
    "Knot",
    "Langevin",
    "MomentMatched",
    "Parametrization",
    "Prediction",
    "Predictor",
    "PredictorCorrector",
    "PredictsF",
    "Predrawn",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "ReverseSDE",
    "SampleResult",
    "SampleSeeds",
    "SciPy",
    "ScoreModel",
    "ScoreSDEError",
    "Solver",
    "StepInfo",
    "SubVPSDE",
    "TorchDiffEq",
    "bits_per_dim",
    "cosine_betas",
    "decode",
    "diagonal",
    "encode",
    "focused",
    "from_lambdas",
    "from_times",
    "full",
    "index",
    "isotropic",
    "iterate",
    "karras",
    "leading",
    "linear_betas",
    "load_pretrained",
    "log_likelihood",
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
