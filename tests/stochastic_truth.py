"""Exact references for stochastic solvers, without Monte Carlo.

- `output_moments`: exact mean and variance of a solver's samples of Gaussian data. With a Gaussian
  model, a linear scheme is an affine map of the start and of all draws. A batch of unit vectors
  gives the coefficients of this map.
- `FinePath`: a Brownian path on fine knots; solvers follow it with fewer knots.
- `follow_gaussian`, `follow`: an exact and a fine numerical solution of the reverse SDE along such
  a path.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from scoresde import EDMSDE, SDE, VESDE, VPSDE, CosineVPSDE, FlowSDE, Knot, SubVPSDE
from scoresde.grid import from_lambdas
from scoresde.noise import NoiseSource, NoiseStream
from scoresde.prediction import Prediction, parametrization
from scoresde.sampling.run import iterate
from scoresde.scalar import affine

PROCESSES = [VPSDE(), SubVPSDE(), VESDE(), EDMSDE(), CosineVPSDE(), FlowSDE()]
IDS = [type(sde).__name__ for sde in PROCESSES]


@dataclass(eq=False)
class LinearModel:
    """Gaussian data of any shape, its v written out: elementwise, so that rounding cannot
    depend on the batch; it records where it was asked."""

    sde: SDE
    mean: float = 0.7
    variance: float = 0.25
    asked: list[Knot] = field(default_factory=list)

    def __call__(self, x, knot):
        self.asked.append(knot)
        alpha, sigma = knot.alpha, knot.sigma
        # eps = sigma / p (x - alpha m) and x0 = m + alpha v / p (x - alpha m), taken together
        p = alpha**2 * self.variance + sigma**2
        slope = alpha * sigma * (1 - self.variance) / p / knot.radius
        offset = -alpha * self.mean * slope - sigma * self.mean / knot.radius
        raw = affine(slope, x, offset, torch.ones_like(x))
        return Prediction(x, knot, raw, parametrization("v"))

    def rows(self, index):
        return self


def lambda_grid(sde, n, low=-2.0, high=2.0, clean=False):
    """n steps from half log-SNR -2 to 2, rho 7.4 to 0.14: within every process's range."""
    knots = np.linspace(low, high, n + (not clean))
    return from_lambdas(sde, knots.tolist(), clean=clean)


class _Basis(NoiseStream):
    """Draw k is 1 for row k + 2 and 0 for all others."""

    def __init__(self, rows):
        self.rows, self.drawn = rows, 0

    def normal(self):
        out = torch.zeros(self.rows, 1, dtype=torch.float64)
        if self.drawn + 2 < self.rows:
            out[self.drawn + 2] = 1.0
        self.drawn += 1
        return out


@dataclass(frozen=True)
class Given(NoiseSource):
    """A stream made beforehand."""

    stream: NoiseStream

    def open(self, shape, dtype, device="cpu"):
        return self.stream


def _end(model, solver, grid, x, stream):
    *_, info = iterate(model, solver, grid, x=x, noise=Given(stream))
    return info.x


def affine_map(model, solver, grid):
    """(c, A, B) of the map x, z -> c + A x + sum_k B_k z_k that the solver is; floats, B (K,)."""
    count = _Basis(2)
    _end(model, solver, grid, torch.zeros(2, 1, dtype=torch.float64), count)
    rows = count.drawn + 2
    start = torch.zeros(rows, 1, dtype=torch.float64)
    start[1] = 1.0
    out = _end(model, solver, grid, start, _Basis(rows))[:, 0]
    return float(out[0]), float(out[1] - out[0]), out[2:] - out[0]


def output_moments(solver, grid, mean=0.7, variance=0.25):
    """Mean and variance at the grid's end, from the true marginal at its start."""
    c, a, b = affine_map(LinearModel(grid.sde, mean, variance), solver, grid)
    t = grid.knots[0]
    start = t.alpha**2 * variance + t.sigma**2
    return c + a * t.alpha * mean, a * a * start + float(b.square().sum())


def true_moments(knot, mean=0.7, variance=0.25):
    return knot.alpha * mean, knot.alpha**2 * variance + knot.sigma**2


def marginal_error(solver, grid, mean=0.7, variance=0.25):
    """Errors of mean and variance at the grid's end, in units of the true deviation/variance."""
    got = output_moments(solver, grid, mean, variance)
    want = true_moments(grid.knots[-1], mean, variance)
    return abs(got[0] - want[0]) / math.sqrt(want[1]), abs(got[1] / want[1] - 1)


def transition_error(solver, grid, stochasticity=1.0, mean=0.7, variance=0.25):
    """Relative errors of the law at the end given the start: slope of its mean, its variance.

    Exactly, y_s - m = k (y_t - m) + noise with k = (Q_s / Q_t)^p (see `follow_gaussian`), and the
    noise has what is left of the marginal's variance, Q_s - k^2 Q_t.
    """
    c, a, b = affine_map(LinearModel(grid.sde, mean, variance), solver, grid)
    t, s = grid.knots[0], grid.knots[-1]
    high, low = variance + t.rho**2, variance + s.rho**2
    shrink = (low / high) ** (0.5 * (1 + stochasticity**2))
    slope = s.alpha / t.alpha * shrink
    spread = s.alpha**2 * (low - shrink**2 * high)
    offset = abs(c + slope * t.alpha * mean - s.alpha * mean) / math.sqrt(spread)
    return abs(a / slope - 1), abs(float(b.square().sum()) / spread - 1), offset


def observed_order(errors, counts):
    """Slope of log error against log steps, by least squares."""
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


class FinePath(NoiseStream):
    """Brownian increments over fine cells of the clock rho^2; (cells, B, 1)."""

    def __init__(self, fine, batch, seed=0):
        self.rho = np.array([float(knot.rho) for knot in fine.knots])
        cells = self.rho[:-1] ** 2 - self.rho[1:] ** 2
        self.generator = torch.Generator().manual_seed(seed)
        z = torch.randn(len(cells), batch, 1, generator=self.generator, dtype=torch.float64)
        self.dw = z * torch.from_numpy(cells).sqrt()[:, None, None]
        self.spare = torch.Generator().manual_seed(seed + 1)

    def index(self, knot):
        at = int(np.abs(np.log(self.rho / float(knot.rho))).argmin())
        assert abs(self.rho[at] / float(knot.rho) - 1) < 1e-9, "not a knot of the fine path"
        return at

    def increment(self, t, s):
        clock = float(t.rho) ** 2 - float(s.rho) ** 2
        return self.dw[self.index(t) : self.index(s)].sum(0) / math.sqrt(clock)

    def normal(self):
        return torch.randn(self.dw.shape[1:], generator=self.spare, dtype=torch.float64)


def follow_gaussian(path, fine, x, stochasticity=1.0, mean=0.7, variance=0.25):
    """The reverse SDE's exact solution for Gaussian data, noise taken at the cells' middles.

    y = x / alpha obeys dy = (1 + a^2) rho (y - m) / Q drho + a dB with Q = C + rho^2, so that
    y_s - m = (Q_s / Q_t)^p (y_t - m) + a int (Q_s / Q)^p dB,  p = (1 + a^2) / 2.
    """
    t, s = fine.knots[0], fine.knots[-1]
    p = 0.5 * (1 + stochasticity**2)
    q = variance + torch.from_numpy(path.rho) ** 2
    weight = (2 * q[-1] / (q[:-1] + q[1:])) ** p
    drift = (q[-1] / q[0]) ** p * (x / t.alpha - mean)
    noise = stochasticity * (weight[:, None, None] * path.dw).sum(0)
    return s.alpha * (mean + drift + noise)


def follow(model, path, fine, x, stochasticity=1.0):
    """Euler's steps dy = (1 + a^2) eps drho + a dB on the fine knots."""
    for t, s, dw in zip(fine.knots[:-1], fine.knots[1:], path.dw, strict=True):
        y = x / t.alpha + (1 + stochasticity**2) * model(x, t).eps * (s.rho - t.rho)
        x = s.alpha * (y + stochasticity * dw)
    return x
