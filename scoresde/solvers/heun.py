"""Heun's second-order method with EDM's churn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import Scalar, affine, log, sqrt
from ..sde.knot import Knot
from .solver import Carry, Solver


class _Past(NamedTuple):
    """The carry of `Heun`: gamma, and rho and eps at the start of the last step."""

    gamma: float
    rho: Scalar | None = None
    eps: Tensor | None = None


@dataclass(frozen=True)
class Heun(Solver):
    r"""EDM's Heun method: the trapezoidal rule in rho for y = x/alpha, with slope dy/drho = eps.

        y'  = y + (rho_s - rho) eps(y, rho)
        y_s = y + (rho_s - rho) (eps(y, rho) + eps(y', rho_s)) / 2

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    algorithm 1; with s_churn > 0, algorithm 2. That one adds noise before each step: it raises rho
    to rho (1 + gamma), with gamma = min(s_churn / steps, sqrt(2) - 1), but not above rho at t_max.
    In y = x/alpha the rule is the same for every process. Two evaluations per step. The step to
    sigma = 0 takes one: it extrapolates eps linearly in rho from the step before, which keeps
    order 2.

    Attributes:
        s_churn: amount of added noise; 0 is deterministic.
        s_min, s_max: range of rho in which noise is added.
        s_noise: factor on the standard deviation of the added noise.
    """

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    order = 2
    compiles = True

    def __post_init__(self) -> None:
        if not self.s_churn >= 0 or not self.s_noise >= 0 or not 0 <= self.s_min <= self.s_max:
            raise ConfigError(
                "Heun needs s_churn >= 0, s_noise >= 0 and 0 <= s_min <= s_max, got "
                f"s_churn={self.s_churn!r}, s_noise={self.s_noise!r}, s_min={self.s_min!r}, "
                f"s_max={self.s_max!r}"
            )

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.s_churn > 0

    def evals(self, grid: Grid) -> int:
        """Two per step; one for a step to sigma = 0."""
        return 2 * grid.steps - grid.ends_clean

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """See `Solver.init`."""
        return _Past(min(self.s_churn / grid.steps, math.sqrt(2.0) - 1.0))

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        past: _Past = carry
        x, t = self._churn(model, x, t, past.gamma, noise)
        first = model(x, t)
        eps = first.eps
        h = s.rho - t.rho
        if not s.is_clean:
            second = model(first.at(s), s).eps
            slope = affine(0.5, eps, 0.5, second)
        elif past.eps is None or past.rho is None:
            slope = eps
        else:  # the line through both slopes, evaluated at the middle of (0, rho)
            w = 0.5 * h / (t.rho - past.rho)
            slope = affine(1.0 + w, eps, -w, past.eps)
        x = affine(s.alpha / t.alpha, x, s.alpha * h, slope)
        return x, _Past(past.gamma, t.rho, eps)

    def _churn(
        self, model: Predictor, x: Tensor, t: Knot, gamma: float, noise: NoiseStream
    ) -> tuple[Tensor, Knot]:
        if gamma == 0 or not self.s_min <= t.rho <= self.s_max:
            return x, t
        top = model.sde.at(model.sde.t_max)
        rho = t.rho * (1.0 + gamma)
        up = top if not rho < top.rho else model.sde.at_lambda(-log(rho))
        if not up.rho > t.rho:
            return x, t  # already at the noisiest time
        added = sqrt((up.rho - t.rho) * (up.rho + t.rho))
        stretch = up.alpha / t.alpha
        # Fresh noise: earlier steps have already used the Brownian increments over (t, up).
        z = noise.normal()
        return affine(stretch, x, self.s_noise * up.alpha * added, z), up
