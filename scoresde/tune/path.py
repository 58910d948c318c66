r"""Grids read off a table of local errors: one by equidistribution, one by dynamic programming.

*Equidistribution.* Where a step of length h has the error c h^(p+1), the sum over n steps is least
where all steps have the same share, so that knots are quantiles of the density c^(1/(p+1)) (de
Boor, "Good Approximation by Splines with Variable Knots", 1973).

*Dynamic programming.* Among all subsequences of the fine knots of n steps, the one whose errors sum
to the least is a shortest path (compare Pei et al., "Optimal Stepsize for Diffusion Sampling",
2025; Chen et al., "On the Trajectory Regularity of ODE-based Diffusion Sampling", 2024, section 4).
The error of a step is that of the solver's own rule, whose past is taken to be evenly spaced.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def equidistributed(table: Array, steps: int, order: float) -> Array:
    """Places along the fine knots (real numbers) of `steps` knots, from 0 to the last."""
    longest, count = table.shape[0] - 1, table.shape[1]
    gap = min(max(1, round(count / steps)), longest)
    found = table[gap, : count - gap]
    density = np.maximum(found, 1e-6 * found.max()) ** (1.0 / (order + 1.0))
    at = np.arange(len(density)) + 0.5 * gap
    fine = np.arange(count, dtype=float)
    mass = np.concatenate([[0.0], np.cumsum(np.interp(fine, at, density))])[:count]
    places: Array = np.interp(np.linspace(0, mass[-1], steps), mass, fine)
    return places


def shortest(table: Array, last: Array, steps: int) -> Array:
    """Places of `steps` knots, the first being 0, from which a further step goes to sigma = 0."""
    longest, count = table.shape[0] - 1, table.shape[1]
    into = np.full((count, count), np.inf)  # into[i, j]: the step from i to j
    for gap in range(1, longest + 1):
        i = np.arange(count - gap)
        into[i, i + gap] = table[gap, i]
    best = np.full(count, np.inf)
    best[0] = 0.0
    came: list[NDArray[np.intp]] = []
    for step in range(1, steps):
        total = best[:, None] + into
        if step == steps - 1:  # the step to sigma = 0 depends on the gap before it
            for gap in range(1, longest + 1):
                j = np.arange(gap, count)
                total[j - gap, j] += last[gap, j]
        came.append(total.argmin(0))
        best = total.min(0)
    places = [int(best.argmin())]
    for back in reversed(came):
        places.append(int(back[places[-1]]))
    return np.array(places[::-1], dtype=float)
