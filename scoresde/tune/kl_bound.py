r"""Grids for solvers that draw noise, by a bound on the KL divergence of their samples.

A solver that keeps the denoised x0 constant over each step follows an approximate reverse SDE. By
Girsanov's theorem, the KL divergence of its paths from the true paths, and so that of its samples,
is bounded:

    KL <= 1/2 sum over steps i of integral E|x0(rho) - x0(rho_i)|^2 d(1/rho^2)

(Sabour et al., "Align Your Steps", 2024, theorem 3.1). Along the true reverse SDE the denoised x0
is a martingale. So the expectation is M(rho) - M(rho_i), with M(rho) = E|x0(rho)|^2, and the bound
is the error of a Riemann sum for the integral of one scalar function. M depends only on marginals,
and the probability flow has the same marginals. So deterministic trajectories give M. The grid with
the smallest bound is a shortest path. Its two ends are those of the default grid, since the bound
does not include the noise that is left at the last knot.

A bound is not the divergence. The grid with the smallest bound has few of the first steps, where
errors in x0 are small but decide between modes. Some grids between it and the default are better
(`between`), and samples decide (`by_bound`).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..grid import Grid, uniform_lambda
from ..metrics import Estimate, bootstrap
from ..model import Predictor, device_of
from ..prediction import Prediction
from ..sampling.run import sample
from ..sde import CLEAN
from ..sde.knot import Knot
from ..solvers.exponential import ExponentialMultistep
from ..wrapper import Observer
from .cost import Metered
from .shortest_path import shortest

Array = NDArray[np.float64]

_FINE = 6  # fine knots for each step


class Signal:
    """M at fine knots between the ends of a grid, one value for each start.

    Attributes:
        knots: the count + 1 fine knots.
        values: |x0|^2 per dimension along each trajectory, shape (B, count + 1). Along the true
            reverse SDE its mean never decreases.
    """

    def __init__(self, model: Metered, x: Tensor, grid: Grid) -> None:
        count = max(64, _FINE * grid.steps)
        ends = {"t_min": float(grid.knots[-2].t), "t_max": float(grid.knots[0].t)}
        fine = uniform_lambda(model.sde, count, clean=False, **ends)
        listener = _Listener(model)
        # One evaluation a step. A last step to sigma = 0 evaluates the last knot; its result is
        # not used.
        whole = Grid(fine.sde, (*fine.knots, CLEAN))
        sample(listener, ExponentialMultistep(4), whole, x=x.to(device_of(model)))
        self.knots = fine.knots
        self.values: Array = np.stack(listener.heard, 1)

    def costs(self, rows: slice) -> Array:
        """The part of the bound of a step from fine knot i to j, shape (count + 1, count + 1)."""
        mean = np.maximum.accumulate(self.values[rows].mean(0))
        return _costs(mean, _snr(self.knots))

    def best(self, grid: Grid, rows: slice) -> Grid:
        """The grid with the smallest bound, with the same ends and number of steps as `grid`."""
        into = self.costs(rows)
        ends = np.full_like(into, np.inf)
        ends[:, -1] = 0.0
        places = shortest(into, ends, grid.steps).astype(int)
        return Grid(grid.sde, (*(self.knots[place] for place in places), CLEAN))

    def bound(self, grid: Grid, rows: slice) -> Array:
        """One value for each start, in nats per dimension; their mean is the bound."""
        fine = -np.array([float(knot.angle) for knot in self.knots])
        at = -np.array([float(knot.angle) for knot in grid.knots[:-1]])
        both = np.unique(np.concatenate([fine, at]))  # M is linear in between
        held = np.searchsorted(at, both[:-1], side="right") - 1
        rest = np.stack([np.interp(both, fine, row) for row in self.values[rows]])
        start = np.stack([np.interp(at, fine, row) for row in self.values[rows]])[:, held]
        middle = 0.5 * (rest[:, 1:] + rest[:, :-1])
        parts: Array = 0.5 * ((middle - start) * np.diff(np.tan(both) ** -2)).sum(1)
        return parts

    def ratio(self, grid: Grid, other: Grid, rows: slice) -> Estimate:
        """The bound of one grid divided by that of another, with a paired interval."""

        def ratio(a: Array, b: Array, axis: int = -1) -> Array:
            found: Array = a.mean(axis) / b.mean(axis)
            return found

        return bootstrap(ratio, self.bound(grid, rows), self.bound(other, rows))


def between(grid: Grid, other: Grid, share: float) -> Grid:
    """The grid with log-SNRs (1 - share) * those of `grid` + share * those of `other`."""
    pairs = zip(grid.knots[1:-1], other.knots[1:-1], strict=True)
    inner = [
        grid.sde.at_lambda((1 - share) * float(one.lam) + share * float(two.lam))
        for one, two in pairs
    ]
    return Grid(grid.sde, (grid.knots[0], *inner, CLEAN))


class _Listener(Observer):
    """A predictor that records |x0|^2 of every prediction."""

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.heard: list[Array] = []

    def observe(self, prediction: Prediction) -> None:
        """Record |x0|^2 of a prediction."""
        square = prediction.x0.to(torch.float64).flatten(1).square().mean(1)
        self.heard.append(square.cpu().numpy())


def _snr(knots: tuple[Knot, ...]) -> Array:
    return np.array([0.0 if knot.is_zero_snr else float(knot.rho) ** -2 for knot in knots])


def _costs(mean: Array, snr: Array) -> Array:
    """1/2 integral (M - M_i) dsnr by the trapezium rule, from i to j >= i; infinite elsewhere."""
    area = np.concatenate([[0.0], np.cumsum(0.5 * (mean[1:] + mean[:-1]) * np.diff(snr))])
    table: Array = 0.5 * ((area - area[:, None]) - mean[:, None] * (snr - snr[:, None]))
    table[np.tril_indices(len(mean))] = np.inf
    return table
