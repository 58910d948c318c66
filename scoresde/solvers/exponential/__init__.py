"""Exponential integrators: one multistep and one single-step family, many published names."""

from .multistep import ExponentialMultistep
from .presets import (
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
    SASolver,
    UniPC,
)
from .single_step import ExponentialRK

__all__ = [
    "DEIS",
    "DPM2",
    "IPNDM",
    "LMS",
    "PNDM",
    "RES2",
    "DPMSolver",
    "DPMSolverMultistep",
    "DPMSolverPP",
    "ExponentialAB",
    "ExponentialMultistep",
    "ExponentialRK",
    "SASolver",
    "UniPC",
]
