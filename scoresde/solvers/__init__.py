"""Solvers: rules for going from one knot of a grid to the next, one family a file."""

from .base import Carry, Solver
from .ddim import DDIM
from .euler_maruyama import EulerMaruyama
from .heun import Heun

__all__ = ["DDIM", "Carry", "EulerMaruyama", "Heun", "Solver"]
