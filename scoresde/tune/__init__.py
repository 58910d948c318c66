r"""Tune a time grid, or a solver and its grid, to a model and a budget.

A grid of n steps has n - 1 free knots between t_max and sigma = 0. The search has three stages:

1. Candidates are stock grids, and grids from local errors along reference trajectories
   (`local_errors`, `shortest_path`).
2. The best candidates are improved: their endpoint errors are made small on some starts
   (`gauss_newton`, `basin_hopping`).
3. Other starts decide between all candidates and the default (`by_endpoints`).

For solvers that draw noise, a bound on the KL divergence replaces endpoint errors (`by_bound`).
For any solver, a metric of samples can replace them (`by_metric`). docs/tuned_grids.md has the
mathematics.
"""

from .result import Tuned, TunedGridWarning, TuningWarning, load
from .search import tune

__all__ = ["Tuned", "TunedGridWarning", "TuningWarning", "load", "tune"]
