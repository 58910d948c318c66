"""`Knot`: a time, with the process's log(alpha) and log(sigma) at that time."""

from __future__ import annotations

import math
from typing import NamedTuple

from ..scalar import Scalar, atan2, exp, hypot


class Knot(NamedTuple):
    """A time `t`, with log(alpha) and log(sigma) at that time.

    On a fixed grid the fields are Python floats, computed in float64. In training and in
    per-sample step control they are float64 tensors of shape (B, 1, ...) with the rank of x.
    """

    t: Scalar
    log_alpha: Scalar
    log_sigma: Scalar

    @property
    def alpha(self) -> Scalar:
        """Scale of the signal."""
        return exp(self.log_alpha)

    @property
    def sigma(self) -> Scalar:
        """Standard deviation of the noise."""
        return exp(self.log_sigma)

    @property
    def lam(self) -> Scalar:
        """Half log-SNR, log(alpha / sigma)."""
        return self.log_alpha - self.log_sigma

    @property
    def rho(self) -> Scalar:
        """Noise-to-signal ratio sigma / alpha, the sigma of EDM."""
        return exp(self.log_sigma - self.log_alpha)

    @property
    def radius(self) -> Scalar:
        """sqrt(alpha^2 + sigma^2), 1 for a variance-preserving process."""
        return hypot(self.alpha, self.sigma)

    @property
    def angle(self) -> Scalar:
        """The angle atan2(sigma, alpha), from 0 (no noise) to pi/2 (no signal)."""
        return atan2(self.sigma, self.alpha)

    @property
    def is_clean(self) -> bool:
        """Whether sigma = 0; False for tensor knots."""
        return isinstance(self.log_sigma, float) and self.log_sigma == -math.inf

    @property
    def is_zero_snr(self) -> bool:
        """Whether alpha = 0, where x / alpha does not exist; False for tensor knots."""
        return isinstance(self.log_alpha, float) and self.log_alpha == -math.inf


CLEAN = Knot(0.0, 0.0, -math.inf)
"""The clean end of every path: alpha = 1, sigma = 0. A solver may only step to it last."""
