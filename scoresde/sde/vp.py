"""Variance-preserving and sub-variance-preserving processes with a linear beta(t)."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, TimeRangeError
from ..scalar import Scalar, asinh, exp, expm1, log1mexp, softplus, sqrt
from .process import SDE


@dataclass(frozen=True)
class _LinearBeta(SDE):
    """A process with beta(t) = beta_min + t (beta_max - beta_min), so log(alpha) is a parabola."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.beta_min <= self.beta_max:
            raise ConfigError(
                f"{type(self).__name__} needs 0 < beta_min <= beta_max, "
                f"got beta_min={self.beta_min!r}, beta_max={self.beta_max!r}"
            )
        if self.log_alpha(self.t_max) < -300:
            raise TimeRangeError(
                f"there is no signal at t_max = {self.t_max:g}: log(alpha) = "
                f"{self.log_alpha(self.t_max):.3g}; time runs from 0 to 1 here (for the indices "
                "of a table write DiscreteVPSDE.from_betas)"
            )

    def beta(self, t: Scalar) -> Scalar:
        """The rate of the forward process."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def log_alpha(self, t: Scalar) -> Scalar:
        """-(1/2) times the integral of beta over (0, t)."""
        return -t * (0.25 * t * (self.beta_max - self.beta_min) + 0.5 * self.beta_min)

    def f(self, t: Scalar) -> Scalar:
        """-beta / 2."""
        return -0.5 * self.beta(t)

    def _t_at_log_alpha(self, log_alpha: Scalar) -> Scalar:
        # This form of the parabola's root has no cancellation for small t.
        slope, curve = 0.5 * self.beta_min, 0.25 * (self.beta_max - self.beta_min)
        return -2.0 * log_alpha / (slope + sqrt(slope * slope - 4.0 * curve * log_alpha))


@dataclass(frozen=True)
class VPSDE(_LinearBeta):
    """The variance-preserving process, alpha^2 + sigma^2 = 1, with linear beta(t).

    The continuous form of DDPM with a linear table (Song et al., 2021, eq. 11 and 32). Networks
    trained by score_sde receive t or 999 t, for t from 1e-5 upwards.
    """

    def log_sigma(self, t: Scalar) -> Scalar:
        """log sqrt(1 - alpha^2)."""
        return 0.5 * log1mexp(2.0 * self.log_alpha(t))

    def g2(self, t: Scalar) -> Scalar:
        """beta."""
        return self.beta(t)

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """Closed form: alpha^2 is the logistic function of 2 lam."""
        return self._t_at_log_alpha(-0.5 * softplus(-2.0 * lam))


@dataclass(frozen=True)
class SubVPSDE(_LinearBeta):
    """The sub-variance-preserving process, sigma = 1 - alpha^2, with linear beta(t).

    Song et al., 2021, eq. 13 and 33.
    """

    def log_sigma(self, t: Scalar) -> Scalar:
        """log(1 - alpha^2)."""
        return log1mexp(2.0 * self.log_alpha(t))

    def g2(self, t: Scalar) -> Scalar:
        """beta (1 - alpha^4)."""
        return -self.beta(t) * expm1(4.0 * self.log_alpha(t))

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """Closed form: alpha / (1 - alpha^2) = e^lam gives log alpha = -asinh(e^-lam / 2)."""
        return self._t_at_log_alpha(-asinh(0.5 * exp(-lam)))
