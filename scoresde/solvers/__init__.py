"""Solvers: rules that take the state from one knot of a grid to the next."""

from .analytic_dpm import AnalyticDPM
from .ancestral import Ancestral
from .corrector import Corrector
from .ddim import DDIM
from .dpm_adaptive import DPMSolverAdaptive
from .dpmpp_ancestral import DPMSolverPP2SAncestral
from .er_sde import ERSDE
from .euler_maruyama import EulerMaruyama
from .exponential import (
    DEIS,
    DPM2,
    IPNDM,
    LMS,
    PNDM,
    RES2,
    DPMSolver,
    DPMSolverMultistep,
    DPMSolverPP,
    ExponentialAB,
    ExponentialMultistep,
    ExponentialRK,
    SASolver,
    UniPC,
)
from .gotta_go_fast import GottaGoFast
from .heun import Heun
from .kinetic import KineticLangevin
from .langevin import AnnealedLangevin, Langevin
from .legs import evaluations
from .predictor_corrector import PredictorCorrector
from .probability_flow import ProbabilityFlow
from .reverse_diffusion import ReverseDiffusion
from .seeds_sde import SEEDS2, SEEDS3, DPMSolverPPSDE, StochasticHeun
from .solver import Carry, Solver
from .torchsde_solver import TorchSDE

__all__ = [
    "DDIM",
    "DEIS",
    "DPM2",
    "ERSDE",
    "IPNDM",
    "LMS",
    "PNDM",
    "RES2",
    "SEEDS2",
    "SEEDS3",
    "AnalyticDPM",
    "Ancestral",
    "AnnealedLangevin",
    "Carry",
    "Corrector",
    "DPMSolver",
    "DPMSolverAdaptive",
    "DPMSolverMultistep",
    "DPMSolverPP",
    "DPMSolverPP2SAncestral",
    "DPMSolverPPSDE",
    "EulerMaruyama",
    "ExponentialAB",
    "ExponentialMultistep",
    "ExponentialRK",
    "GottaGoFast",
    "Heun",
    "KineticLangevin",
    "Langevin",
    "PredictorCorrector",
    "ProbabilityFlow",
    "ReverseDiffusion",
    "SASolver",
    "Solver",
    "StochasticHeun",
    "TorchSDE",
    "UniPC",
    "evaluations",
]
