"""Variance-exploding processes: alpha = 1, so noise is added and the signal keeps its scale."""

from __future__ import annotations

import math
from dataclasses import InitVar, dataclass, field
from typing import ClassVar

from ..errors import ConfigError
from ..scalar import Scalar, exp, log
from .process import SDE


@dataclass(frozen=True)
class _Exploding(SDE):
    def log_alpha(self, t: Scalar) -> Scalar:
        """0: the signal keeps its scale."""
        return 0.0 * t

    def f(self, t: Scalar) -> Scalar:
        """0: no drift."""
        return 0.0 * t


@dataclass(frozen=True)
class VESDE(_Exploding):
    """The variance-exploding process, sigma = sigma_min (sigma_max / sigma_min)^t.

    Song et al., 2021, eq. 9 and 30.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ConfigError(
                "VESDE needs 0 < sigma_min < sigma_max, "
                f"got sigma_min={self.sigma_min!r}, sigma_max={self.sigma_max!r}"
            )

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def log_sigma(self, t: Scalar) -> Scalar:
        """Linear in t."""
        return math.log(self.sigma_min) + t * self._rate

    def g2(self, t: Scalar) -> Scalar:
        """2 sigma^2 log(sigma_max / sigma_min)."""
        return 2.0 * self._rate * exp(2.0 * self.log_sigma(t))

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """Closed form."""
        return (-lam - math.log(self.sigma_min)) / self._rate


@dataclass(frozen=True)
class EDMSDE(_Exploding):
    """The process of EDM: alpha = 1, sigma = t.

    Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    table 1, last column.
    """

    own_time: ClassVar[str] = "c_noise"

    t_min: float = field(default=0.002, kw_only=True)
    t_max: float = field(default=80.0, kw_only=True)
    sigma_min: InitVar[float | None] = field(default=None, kw_only=True)
    sigma_max: InitVar[float | None] = field(default=None, kw_only=True)

    def __post_init__(self, sigma_min: float | None, sigma_max: float | None) -> None:
        if sigma_min is not None or sigma_max is not None:
            raise ConfigError(
                "in EDMSDE the time t is sigma; write EDMSDE(t_min=0.002, t_max=80.0) instead of "
                "sigma_min and sigma_max"
            )
        super().__post_init__()

    def log_sigma(self, t: Scalar) -> Scalar:
        """log t."""
        return log(t)

    def g2(self, t: Scalar) -> Scalar:
        """2 t."""
        return 2.0 * t

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """e^-lam."""
        return exp(-lam)
