r"""Checks of stochastic solvers, without Monte Carlo if their update is linear.

For Gaussian data, a scheme that is linear in the state and in its noise is an affine map of the
start and of every draw. One batch finds the map: each row has another unit vector as its noise.
The map gives the exact mean and variance of the scheme, and so the weak error.

In the clock u = rho^2 of the Brownian path, x_end = c + a x_start + int k(u) dB(u), with k constant
on each step. By Ito's isometry two schemes on the same path differ by |c - c'|^2, |a - a'|^2 and
int (k - k')^2 du: this is the exact strong error.

Schemes that are not linear (adaptive ones, Langevin steps with norms) are compared with the exact
distribution by a Kolmogorov-Smirnov test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..grid import Grid
from ..noise import NoiseStream
from ..sde import SDE
from ..sde.knot import Knot
from ..solvers.solver import Solver
from .convergence import FLOAT32, FLOOR, GRIDS, LADDER, SLACK, Maker, check_float32, climb
from .findings import Report
from .problem import Bimodal
from .runs import Tape, end, even

MEAN, VARIANCE = 0.5, 0.3  # of the Gaussian data for linear schemes
BIAS = 0.1  # limit, in standard deviations of the marginal; Euler-Maruyama has 0.01
LIMIT = 0.03  # Kolmogorov-Smirnov; exact samples exceed 0.017 with probability 0.001


@dataclass(frozen=True)
class AffineMap:
    """The affine map x_end = constant + start x + sum_j response_j z_j of a scheme.

    Attributes:
        spans: for each draw the interval of rho^2 whose increment it is; None for a draw that
            belongs to no path.
        gap: the distance of the scheme from an affine map, found by superposition.
    """

    constant: float
    start: float
    response: np.ndarray
    spans: list[tuple[float, float] | None]
    gap: float

    def variance(self, start: float) -> float:
        """The variance of x_end; increments over overlapping intervals are correlated."""
        shared = np.eye(len(self.spans))
        for i, a in enumerate(self.spans):
            for j, b in enumerate(self.spans[:i]):
                if a is not None and b is not None:
                    common = max(0.0, min(a[0], b[0]) - max(a[1], b[1]))
                    shared[i, j] = shared[j, i] = common / math.sqrt((a[0] - a[1]) * (b[0] - b[1]))
        return self.start**2 * start + float(self.response @ shared @ self.response)

    def kernel(self, u: np.ndarray) -> np.ndarray:
        """The kernel k at the points u."""
        out = np.zeros_like(u)
        for weight, span in zip(self.response, self.spans, strict=True):
            if span is not None:
                out += np.where((u < span[0]) & (u > span[1]), weight, 0) / math.sqrt(
                    span[0] - span[1]
                )
        return out


class _Impulses(NoiseStream):
    """Noise whose draw j is 1 in row j + 2; the last row has all draws, with given weights."""

    def __init__(self, rows: int, weights: Tensor | None = None) -> None:
        self.rows, self.weights = rows, weights
        self.spans: list[tuple[float, float] | None] = []

    def normal(self) -> Tensor:
        return self._draw(None)

    def increment(self, t: Knot, s: Knot) -> Tensor:
        if isinstance(t.t, Tensor) or isinstance(s.t, Tensor):
            return self._draw(None)
        return self._draw((float(t.rho) ** 2, float(s.rho) ** 2))

    def _draw(self, span: tuple[float, float] | None) -> Tensor:
        out = torch.zeros(self.rows, 1, dtype=torch.float64)
        j = len(self.spans)
        if self.weights is not None and j < len(self.weights):
            out[j + 2] = 1.0
            out[-1] = self.weights[j]
        self.spans.append(span)
        return out


def affine_map(solver: Solver, grid: Grid) -> AffineMap:
    """The affine map of a scheme for Gaussian data; `gap` is small if the scheme is affine."""
    model = Bimodal(grid.sde, MEAN, MEAN, variance=VARIANCE)
    draws = grid.steps  # the usual number; the run may need more
    for _ in range(3):
        weights = torch.cos(torch.arange(draws, dtype=torch.float64))
        x = torch.zeros(draws + 3, 1, dtype=torch.float64)
        x[1], x[-1] = 1.0, 0.7
        noise = _Impulses(draws + 3, weights)
        out = end(model, solver, grid, x, noise).x[:, 0]
        if len(noise.spans) == draws:
            break
        draws = len(noise.spans)
    constant, start, response = out[0], out[1] - out[0], out[2:-1] - out[0]
    gap = float(constant + 0.7 * start + weights @ response - out[-1])
    gap = math.inf if len(noise.spans) != len(response) else abs(gap) / float(1 + out.abs().max())
    return AffineMap(float(constant), float(start), response.numpy(), noise.spans, gap)


def weak_error(found: AffineMap, grid: Grid) -> float:
    """Error of mean and variance at a grid's end, in standard deviations."""
    model = Bimodal(grid.sde, MEAN, MEAN, variance=VARIANCE)
    (mean, variance), (want, spread) = (model.moments(grid.knots[k]) for k in (0, -1))
    off = (found.constant + found.start * mean - want) / math.sqrt(spread)
    error = math.hypot(off, 0.5 * (found.variance(variance) / spread - 1))
    return error if math.isfinite(error) else math.inf


def strong_distance(a: AffineMap, b: AffineMap, grid: Grid) -> float:
    """RMS distance between two schemes on the same Brownian path, from the start of `grid`."""
    mean, variance = Bimodal(grid.sde, MEAN, MEAN, variance=VARIANCE).moments(grid.knots[0])
    edges = np.unique([u for span in (*a.spans, *b.spans) if span for u in span])
    middles = 0.5 * (edges[1:] + edges[:-1])
    noise = float(((a.kernel(middles) - b.kernel(middles)) ** 2 * np.diff(edges)).sum())
    start = a.start - b.start
    offset = a.constant - b.constant + start * mean
    error = math.sqrt(noise + start**2 * variance + offset**2) / float(grid.knots[-1].radius)
    return error if math.isfinite(error) else math.inf


class _Ladder:
    """The maps of one solver on one family of grids, each computed once."""

    def __init__(self, solver: Solver, make: Maker, sde: SDE) -> None:
        self.solver, self.make, self.sde = solver, make, sde
        self.maps: dict[int, AffineMap] = {}

    def __getitem__(self, n: int) -> AffineMap:
        if n not in self.maps:
            self.maps[n] = affine_map(self.solver, self.make(self.sde, n))
        return self.maps[n]

    def weak(self, n: int) -> float:
        return weak_error(self[n], self.make(self.sde, n))

    def strong(self, n: int) -> float:
        return strong_distance(self[n // 2], self[n], self.make(self.sde, n))


def check_moments(solver: Solver, report: Report, processes: Sequence[SDE]) -> None:
    """Weak and strong order of a linear scheme; the distribution of any other scheme."""
    probe = affine_map(solver, even(processes[0], 6))
    if not probe.gap < 1e-9:
        check_distribution(solver, report, processes)
        return
    check_distribution(solver, report, processes[:1])
    check_float32(solver, report, processes, steps=32, limit=FLOAT32)
    kinds = {"weak": "mean and variance converge with order {:.2f}; expected at least {:g}"}
    if None not in probe.spans:  # None: a draw that belongs to no path
        kinds["strong"] = (
            "along one Brownian path the runs converge with order {:.2f}; expected {:g}"
        )
    # A scheme that uses only increments of the path has strong order 1 at most (Clark & Cameron,
    # "The Maximum Rate of Convergence of Discrete Approximations for SDEs", 1980).
    claims = {"weak": solver.order, "strong": min(solver.order, 1)}
    for sde in processes:
        for name, make in GRIDS.items():
            ladder = _Ladder(solver, make, sde)
            for kind, message in kinds.items():
                what = f"{kind} order, {type(sde).__name__}, {name}"
                with report.check(what) as require:
                    # Kernels are differences of sums over many steps, so round-off is larger.
                    floor = FLOOR if kind == "weak" else 1e3 * FLOOR
                    order = climb(getattr(ladder, kind), claims[kind], floor)
                    report.measured[what] = order
                    if kind == "weak":
                        _check_bias(ladder, f"bias, {type(sde).__name__}, {name}", report)
                    missed = order < claims[kind] - SLACK
                    require(not missed, message.format(order, claims[kind]))


def _check_bias(ladder: _Ladder, what: str, report: Report) -> None:
    with report.check(what) as require:
        bias = report.measured[what] = ladder.weak(LADDER[-1])
        require(
            bias < BIAS,
            f"error of mean and deviation {bias:.2g}, in standard deviations, after {LADDER[-1]} "
            f"steps; expected less than {BIAS:g}",
        )


def distribution_distance(solver: Solver, grid: Grid) -> float:
    """Kolmogorov-Smirnov distance of 12,800 coordinates from the exact law at the grid's end."""
    model, shape = Bimodal(grid.sde), (200, 64)
    shares = torch.special.ndtr(Tape(shape, seed=10**6).normal()).flatten()
    x = model.quantiles(shares.tolist(), grid.knots[0]).reshape(shape)
    found = end(model, solver, grid, x, Tape(shape, seed=1)).x.flatten()
    u = model.cdf(found, grid.knots[-1]).sort().values
    places = torch.arange(1, len(u) + 1, dtype=torch.float64) / len(u)
    distance = float((u - places).abs().max())
    return distance if math.isfinite(distance) else math.inf


def check_distribution(
    solver: Solver, report: Report, processes: Sequence[SDE], steps: int = 60
) -> None:
    """Compare samples with the exact distribution function, for data that are not Gaussian."""
    for sde in processes:
        what = f"distribution, {type(sde).__name__}"
        with report.check(what) as require:
            distance = distribution_distance(solver, even(sde, steps))
            report.measured[what] = distance
            require(
                distance < LIMIT,
                f"Kolmogorov-Smirnov distance {distance:.3f} from the exact distribution after "
                f"{steps} steps; expected less than {LIMIT}",
            )
