"""Compare solvers and grids: quality of samples against network evaluations."""

from ..sampling.choose import GridMaker, grid_for
from .comparison import compare, environment
from .named_metrics import METRICS
from .protocol import Against, Starts
from .reference import Reference, ReferencePath, solve_reference
from .report import recommendations, write
from .store import StoreWarning
from .table import Cell, Setup, Table
from .tasks import Fixed, Peer

__all__ = [
    "METRICS",
    "Against",
    "Cell",
    "Fixed",
    "GridMaker",
    "Peer",
    "Reference",
    "ReferencePath",
    "Setup",
    "Starts",
    "StoreWarning",
    "Table",
    "compare",
    "environment",
    "grid_for",
    "recommendations",
    "solve_reference",
    "write",
]
