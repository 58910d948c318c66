"""The cosine schedule in continuous time."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import ConfigError
from ..scalar import Scalar, atan2, exp, log, sin, softplus, sqrt
from .process import SDE


@dataclass(frozen=True)
class CosineVPSDE(SDE):
    """The variance-preserving process with the cosine schedule.

    alpha = cos(theta) / cos(theta_0) with theta = (t + s)/(1 + s) pi/2. The continuous form of
    Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, eq. 17. alpha is
    0 at t = 1, where a noise prediction does not determine the data; the default t_max is slightly
    smaller, as in Lu et al., "DPM-Solver", 2022, appendix D.
    """

    s: float = 0.008
    t_max: float = field(default=0.9946, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.s < 0 or self.t_max > 1.0:
            raise ConfigError(
                f"CosineVPSDE needs s >= 0 and t_max <= 1, got s={self.s!r}, t_max={self.t_max!r}"
            )

    @property
    def _theta0(self) -> float:
        return 0.5 * math.pi * self.s / (1 + self.s)

    def log_alpha(self, t: Scalar) -> Scalar:
        """From the complement of the angle, which is exact near t = 1, where cos is not."""
        rest = (1.0 - t) * (0.5 * math.pi / (1 + self.s))
        return log(sin(rest)) - math.log(math.cos(self._theta0))

    def log_sigma(self, t: Scalar) -> Scalar:
        """From cos^2(a) - cos^2(b) = sin(b - a) sin(b + a), without cancellation for small t."""
        gap = t * (0.5 * math.pi / (1 + self.s))
        product = sin(gap) * sin(gap + 2 * self._theta0)
        return 0.5 * log(product) - math.log(math.cos(self._theta0))

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """Closed form, from sine and cosine of the gap theta - theta_0, without cancellation."""
        theta0 = self._theta0
        scale2 = math.cos(theta0) ** 2
        c = scale2 * exp(-softplus(2.0 * lam))  # = sin(gap) sin(gap + 2 theta0)
        cos_u = sqrt(scale2 * exp(-softplus(-2.0 * lam)))  # u = gap + theta0
        sin_u = sqrt(math.sin(theta0) ** 2 + c)
        sin_gap = c / (sin_u * math.cos(theta0) + cos_u * math.sin(theta0))
        cos_gap = cos_u * math.cos(theta0) + sin_u * math.sin(theta0)
        return atan2(sin_gap, cos_gap) * ((1 + self.s) / (0.5 * math.pi))
