"""Steps against quality: which solver, on which grid, at which budget."""

from .budget import GridMaker, grid_for
from .compare import compare, environment
from .reference import Reference, solve_reference
from .report import recommendations, write
from .table import Cell, Setup, Table

__all__ = [
    "Cell",
    "GridMaker",
    "Reference",
    "Setup",
    "Table",
    "compare",
    "environment",
    "grid_for",
    "recommendations",
    "solve_reference",
    "write",
]
