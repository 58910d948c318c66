"""Analytic-DPM: ancestral sampling with the optimal isotropic variance."""

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
    r"""Ancestral sampling with the optimal isotropic variance of the reverse step.

        x_s = E[x_s | x_t, x0] + d z
        d^2 = sigma_s^2 (1 - q^2) + alpha_s^2 rho_t^2 (1 - q^2)^2 (1 - G_t),   q = rho_s/rho_t

    with G_t = E |eps(x_t, t)|^2 / D over data. The first term of d^2 is the variance of the
    posterior at the denoised x0. The second comes from the variance of x0 given x_t, which is
    rho_t^2 (1 - G_t) per coordinate on average. Bao et al., "Analytic-DPM: an Analytic Estimate of
    the Optimal Reverse Variance in Diffusion Probabilistic Models", 2022, theorem 1 and eq. 8.
    Exact with any number of steps for isotropic Gaussian data; weak and strong order 1 otherwise.
    One evaluation per step. The step to sigma = 0 is that of `last_step`.

    G depends on the data and the network. `AnalyticDPM.estimate` measures it; the default is its
    value for Gaussian data, rho^2 / (rho^2 + data_std^2).

    Attributes:
        lams: ascending half log-SNRs where G is known; G is interpolated linearly between them.
        energies: G at `lams`, in [0, 1].
        data_std: standard deviation of the data per coordinate, used if `lams` is empty.
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
                f"need one energy for each half log-SNR, got {len(self.energies)} energies and "
                f"{len(self.lams)} half log-SNRs; "
                "write AnalyticDPM.estimate(model, x0, grid)"
            )
        if any(not b > a for a, b in zip(self.lams, self.lams[1:], strict=False)):
            raise ConfigError(f"lams must be ascending half log-SNRs, got {self.lams}")
        if any(not 0 <= energy <= 1 for energy in self.energies):
            raise ConfigError(f"energies must lie in [0, 1], got {self.energies}")
        if not 0 < self.data_std < math.inf:
            raise ConfigError(f"data_std must be positive, got {self.data_std!r}")

    @classmethod
    def estimate(cls, model: Predictor, x0: Tensor, grid: Grid, *, seed: int = 0) -> AnalyticDPM:
        """An `AnalyticDPM` with G measured at the knots of a grid, on data x0 of shape (B, *).

        One network evaluation per sample and knot.
        """
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
        """One per step, plus those of `last_step`."""
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
