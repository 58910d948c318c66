r"""Grids for solvers that draw noise, by a bound on the KL divergence of their samples.

A solver that holds the denoised x0 over each step follows another SDE than the reverse one. By
Girsanov's theorem the divergence of its paths from the true ones, and so of its samples, is at most

    KL <= 1/2 sum over steps i of integral E|x0(rho) - x0(rho_i)|^2 d(1/rho^2)

(Sabour et al., "Align Your Steps", 2024, theorem 3.1). Along the true reverse SDE the denoised x0
is a martingale, so that the expectation is M(rho) - M(rho_i) with M(rho) = E|x0(rho)|^2: the bound
is what a Riemann sum misses of an integral of one scalar function. M depends on marginals alone,
which the probability flow shares, so that a pilot of deterministic trajectories gives it; the grid
that makes the bound least is a shortest path. The two ends are those of the default grid: the bound
says nothing of the noise that is left at the last knot.

A bound is not the divergence. Its grid saves on the first steps, where errors are small in x0 but
decide between modes; between it and the default there are better ones (`between`), and samples
decide (`search`).
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

_FINE = 6  # fine knots a step


class Signal:
    """M at fine knots between the ends of a grid, one value a start.

    Attributes:
        knots: the fine knots, count + 1 of them.
        values: |x0|^2 per dimension along each trajectory, shape (B, count + 1). Its mean
            never falls along the true reverse SDE.
    """

    def __init__(self, model: Metered, x: Tensor, grid: Grid) -> None:
        count = max(64, _FINE * grid.steps)
        ends = {"t_min": float(grid.knots[-2].t), "t_max": float(grid.knots[0].t)}
        fine = uniform_lambda(model.sde, count, clean=False, **ends)
        listener = _Listener(model)
        # One evaluation a step; the last knot is met by a step to sigma = 0 that is thrown away.
        whole = Grid(fine.sde, (*fine.knots, CLEAN))
        sample(listener, ExponentialMultistep(4), whole, x=x.to(device_of(model)))
        self.knots = fine.knots
        self.values: Array = np.stack(listener.heard, 1)

    def costs(self, rows: slice) -> Array:
        """The bound's part of a step from fine knot i to j, shape (count + 1, count + 1)."""
        mean = np.maximum.accumulate(self.values[rows].mean(0))
        return _costs(mean, _snr(self.knots))

    def best(self, grid: Grid, rows: slice) -> Grid:
        """The grid of as many steps, and with the same ends, whose bound is least."""
        into = self.costs(rows)
        ends = np.full_like(into, np.inf)
        ends[:, -1] = 0.0
        places = shortest(into, ends, grid.steps).astype(int)
        return Grid(grid.sde, (*(self.knots[place] for place in places), CLEAN))

    def bound(self, grid: Grid, rows: slice) -> Array:
        """Each start's share of the bound, nats a dimension; their mean is the bound."""
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
        """The bound of one grid over that of another, with a paired interval."""

        def ratio(a: Array, b: Array, axis: int = -1) -> Array:
            found: Array = a.mean(axis) / b.mean(axis)
            return found

        return bootstrap(ratio, self.bound(grid, rows), self.bound(other, rows))


def between(grid: Grid, other: Grid, share: float) -> Grid:
    """The grid whose log-SNRs are that share of the way from those of one to those of another."""
    pairs = zip(grid.knots[1:-1], other.knots[1:-1], strict=True)
    inner = [
        grid.sde.at_lambda((1 - share) * float(one.lam) + share * float(two.lam))
        for one, two in pairs
    ]
    return Grid(grid.sde, (grid.knots[0], *inner, CLEAN))


class _Listener(Observer):
    """A predictor that notes |x0|^2 of every answer."""

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.heard: list[Array] = []

    def observe(self, prediction: Prediction) -> None:
        """Note it."""
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
