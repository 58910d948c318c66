"""The probability flow as an ODE, and the solvers of other libraries that integrate it."""

from .backend import Backend, Field, Parts, Solved, integrate_rows
from .clocks import Clock, clock
from .scipy_backend import SciPy
from .torchdiffeq_backend import TorchDiffEq
from .vector_field import VectorField

__all__ = [
    "Backend",
    "Clock",
    "Field",
    "Parts",
    "SciPy",
    "Solved",
    "TorchDiffEq",
    "VectorField",
    "clock",
    "integrate_rows",
]
