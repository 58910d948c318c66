"""Solvers: rules for going from one knot of a grid to the next, one family a file."""

from .ancestral import Ancestral
from .base import Carry, Solver
from .corrector import Corrector
from .ddim import DDIM
from .euler_maruyama import EulerMaruyama
from .heun import Heun
from .langevin import AnnealedLangevin, Langevin
from .predictor_corrector import PredictorCorrector
from .probability_flow import ProbabilityFlow
from .reverse_diffusion import ReverseDiffusion

__all__ = [
    "DDIM",
    "Ancestral",
    "AnnealedLangevin",
    "Carry",
    "Corrector",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "Solver",
]
