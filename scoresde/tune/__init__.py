r"""Time grids, and solvers, tuned to a model and a budget.

A grid of n steps has n - 1 free knots between t_max and sigma = 0. Candidates come from stock
grids and from a pilot of reference trajectories (`pilot`, `path`); those that do best are improved
against reference endpoints (`refine`); other starts decide among all of them and the default
(`by_endpoints`). For solvers that draw noise a bound on the KL divergence takes the place of
endpoint errors (`by_bound`); a metric of samples may, for any solver (`by_metric`).
docs/tuned_grids.md has the mathematics.
"""

from .result import Tuned, TunedGridWarning, TuningWarning, load
from .search import tune

__all__ = ["Tuned", "TunedGridWarning", "TuningWarning", "load", "tune"]
