"""Tests for your own solver: does it keep the contract of `scoresde.solvers.Solver`?

>>> from scoresde.testing import check_solver
>>> print(check_solver(MySolver()))
>>> check_solver(MySolver()).raise_if_failed()
"""

from .contract import check_solver
from .findings import Finding, Report
from .problem import Bimodal

__all__ = ["Bimodal", "Finding", "Report", "check_solver"]
