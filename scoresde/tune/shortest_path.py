r"""Grids from a table of local errors: one by equidistribution, one by dynamic programming.

*Equidistribution.* Let a step of length h have the error c h^(p+1). The sum over n steps is
smallest if all steps have equal errors. Knots are then quantiles of the density c^(1/(p+1)) (de
Boor, "Good Approximation by Splines with Variable Knots", 1973).

*Dynamic programming.* A grid of n steps is a subsequence of the fine knots. The grid with the
smallest sum of errors is a shortest path (compare Pei et al., "Optimal Stepsize for Diffusion
Sampling", 2025; Chen et al., "On the Trajectory Regularity of ODE-based Diffusion Sampling", 2024,
section 4). The error of a step is that of the solver's own rule, under the assumption that its
earlier steps are evenly spaced.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def equidistributed(into: Array, steps: int, order: float) -> Array:
    """Places along the fine knots (real numbers) of `steps` knots, from 0 to the last.

    `into` has the errors of steps from i to j, shape (M, M).
    """
    gap = max(1, round(len(into) / steps))
    found = np.diagonal(into, gap)
    density = np.maximum(found, 1e-6 * found.max()) ** (1.0 / (order + 1.0))
    fine = np.arange(len(into), dtype=float)
    along = np.interp(fine, np.arange(len(density)) + 0.5 * gap, density)
    mass = np.concatenate([[0.0], np.cumsum(along)])[: len(fine)]
    places: Array = np.interp(np.linspace(0, mass[-1], steps), mass, fine)
    return places


def shortest(into: Array, ends: Array, steps: int) -> Array:
    """Places of `steps` knots, the first at 0, with the smallest sum of costs.

    Args:
        into: cost of a step from i to j, shape (M, M).
        ends: additional cost of a path that ends with a step from i to j, shape (M, M); infinite
            if the path may not end there.
        steps: number of knots, 2 or more.
    """
    best = np.full(len(into), np.inf)
    best[0] = 0.0
    came: list[NDArray[np.intp]] = []
    for step in range(1, steps):
        total = best[:, None] + into + (ends if step == steps - 1 else 0.0)
        came.append(total.argmin(0))
        best = total.min(0)
    places = [int(best.argmin())]
    for back in reversed(came):
        places.append(int(back[places[-1]]))
    return np.array(places[::-1], dtype=float)
