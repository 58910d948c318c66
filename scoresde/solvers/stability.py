"""How long the steps of a stochastic method may be before it amplifies noise.

At noise levels far above the data a perfect network says x0 = 0, and the state over sigma keeps
the variance 1. Published methods that read eps multiply errors there: with steps of h in half
log-SNR the variance grows to a limit V(h), or without one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from ..grid import Grid
from ..noise import NoiseStream
from ..prediction import Prediction
from ..sde import EDMSDE
from ..sde.knot import Knot
from .stages import StagedSDE

_MOST = 1.5
"""Largest factor between V(h) and 1 that is called stable: a deviation 22 % off."""


def longest_step(grid: Grid) -> float:
    """Longest step in half log-SNR, without those from alpha = 0 and to sigma = 0."""
    steps = [float(s.lam - t.lam) for t, s in pairwise(grid.knots)]
    return max((step for step in steps if math.isfinite(step)), default=0.0)


@lru_cache(maxsize=64)
def longest_stable_step(solver: StagedSDE) -> float:
    """The shortest step, to .01, at which V(h) is 1.5 times too large or too small; inf where no
    step up to 3 is.
    """
    for k in range(1, 301):
        if not 1 / _MOST <= limit_of_variance(solver, 0.01 * k) <= _MOST:
            return 0.01 * k
    return math.inf


def limit_of_variance(solver: StagedSDE, h: float) -> float:
    """V(h); inf where the variance grows without end."""
    sde = EDMSDE()
    t, s = sde.at_lambda(-2.0), sde.at_lambda(-2.0 + h)
    draws = len(solver.nodes) + 1
    # The step is linear in the state and in the noise: rows of unit vectors give its coefficients.
    unit = torch.eye(draws + 1, dtype=torch.float64)
    out, _ = solver.step(_Nothing(), unit[0], t, s, None, _Units(unit[1:]))
    a, *b = (out / float(s.sigma)).tolist()
    a *= float(t.sigma)
    return sum(each * each for each in b) / (1 - a * a) if abs(a) < 1 else math.inf


class _Nothing:
    """The model of data that are all 0."""

    sde = EDMSDE()

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        return Prediction(x, knot, torch.zeros_like(x), "x0")

    def rows(self, index: Tensor) -> _Nothing:
        return self


class _Units(NoiseStream):
    def __init__(self, draws: Tensor) -> None:
        self.draws = iter(draws.unbind())

    def normal(self) -> Tensor:
        return next(self.draws)
