"""Ancestral sampling with the optimal isotropic variance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import BatchSeed, NoiseStream
from ..scalar import affine, exp, expm1, sqrt
from ..sde.knot import Knot
from .last_step import count_evals, to_clean
from .solver import Carry, Solver


@dataclass(frozen=True)
class AnalyticDPM(Solver):
    r"""x_s = E[x_s | x_t, x0] + d z with the variance that is best among isotropic ones.

        d^2 = sigma_s^2 (1 - q^2) + alpha_s^2 rho_t^2 (1 - q^2)^2 (1 - G_t),   q = rho_s/rho_t

    with G_t = E |eps(x_t, t)|^2 / D over data: the variance of x_s is that of the posterior at the
    denoised x0 plus what x0 itself leaves open, rho_t^2 (1 - G_t) a coordinate on average. Bao et
    al., "Analytic-DPM: an Analytic Estimate of the Optimal Reverse Variance in Diffusion
    Probabilistic Models", 2022, theorem 1 and eq. 8. Exact at any number of steps for isotropic
    Gaussian data; order 1 (weak and strong) otherwise. One evaluation a step; the step to
    sigma = 0 follows `last_step`.

    G is a property of data and network: `AnalyticDPM.estimate` finds it. Without, it is that of
    Gaussian data, rho^2 / (rho^2 + data_std^2).

    Attributes:
        lams: half log-SNRs, ascending, at which G is known; between them it is interpolated.
        energies: G there, in [0, 1].
        data_std: deviation of the data, per coordinate, where G is not given.
    """

    lams: tuple[float, ...] = ()
    energies: tuple[float, ...] = ()
    data_std: float = 0.5

    order = 1
    stochastic = True
    compiles = True

    def __post_init__(self) -> None:
        if len(self.lams) != len(self.energies):
            raise ConfigError(
                f"need one energy a half log-SNR, got {len(self.energies)} and {len(self.lams)}; "
                "write AnalyticDPM.estimate(model, x0, grid)"
            )
        if any(not b > a for a, b in zip(self.lams, self.lams[1:], strict=False)):
            raise ConfigError("half log-SNRs must ascend")
        if any(not 0 <= energy <= 1 for energy in self.energies):
            raise ConfigError(f"energies must lie in [0, 1], got {self.energies}")
        if not 0 < self.data_std < math.inf:
            raise ConfigError(f"data_std must be positive, got {self.data_std!r}")

    @classmethod
    def estimate(cls, model: Predictor, x0: Tensor, grid: Grid, *, seed: int = 0) -> AnalyticDPM:
        """G at the knots of a grid, from data of shape (B, *): one evaluation of B a knot."""
        noise = BatchSeed(seed).open(x0.shape, x0.dtype, x0.device)
        known = []
        for knot in grid.knots:
            if knot.is_clean or knot.is_zero_snr:
                continue
            with torch.no_grad():
                eps = model(affine(knot.alpha, x0, knot.sigma, noise.normal()), knot).eps
            known.append((float(knot.lam), min(1.0, float(eps.double().square().mean()))))
        lams, energies = zip(*known, strict=True)
        return cls(lams, energies)

    def evals(self, grid: Grid) -> int:
        """One a step, and those of `last_step`."""
        return count_evals(grid, 1)

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        prediction = model(x, t)
        if s.is_clean:
            return to_clean(model, prediction), None
        mean = prediction.mix(s.alpha, s.sigma * exp(t.lam - s.lam))
        lost = -expm1(2.0 * (t.lam - s.lam))  # 1 - q^2
        unknown = (s.alpha * t.rho * lost) ** 2 * (1.0 - self._energy(t))
        deviation = sqrt(s.sigma * s.sigma * lost + unknown)
        return affine(1.0, mean, deviation, noise.increment(t, s)), None

    def _energy(self, t: Knot) -> float:
        if self.lams:
            return float(np.interp(float(t.lam), self.lams, self.energies))
        return 1.0 / (1.0 + (self.data_std / float(t.rho)) ** 2)
