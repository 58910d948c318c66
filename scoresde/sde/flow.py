"""The paths of flow matching from data to noise: a straight line, and the arc of a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..errors import ConfigError
from ..scalar import Scalar, atan2, exp, log, log1p, reciprocal, sin
from .process import SDE


class _Path(SDE):
    """A path from data at t = 0 to pure noise at t = 1."""

    own_time: ClassVar[str] = "t"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_max > 1.0:
            name = type(self).__name__
            raise ConfigError(f"{name} needs t_max <= 1, got t_max={self.t_max!r}")


@dataclass(frozen=True)
class FlowSDE(_Path):
    """The straight (optimal-transport) path of flow matching.

    alpha = 1 - t, sigma = sigma_min + (1 - sigma_min) t. Time runs from data (0) to noise (1).
    Lipman et al., "Flow Matching for Generative Modeling", 2023, eq. 20 and 21; with sigma_min = 0
    the rectified flow of Liu et al., "Flow Straight and Fast", 2023.

    At t_max = 1 there is no signal: samplers take a first step that is regular there, and
    likelihoods need t_max < 1. With sigma_min > 0 the state at t = 0 contains noise, as in
    `VESDE`. A sampler's last step to sigma = 0 removes it; `final="none"` keeps it.

    Attributes:
        sigma_min: standard deviation of the noise at t = 0.
    """

    sigma_min: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.sigma_min < 1.0:
            raise ConfigError(f"FlowSDE needs 0 <= sigma_min < 1, got {self.sigma_min!r}")

    def log_alpha(self, t: Scalar) -> Scalar:
        """log(1 - t)."""
        return log1p(-t)

    def log_sigma(self, t: Scalar) -> Scalar:
        """log(sigma_min + (1 - sigma_min) t)."""
        return log(self.sigma_min + (1.0 - self.sigma_min) * t)

    def rates(self, t: Scalar) -> tuple[Scalar, Scalar]:
        """d alpha/dt = -1 and d sigma/dt = 1 - sigma_min."""
        return -1.0, 1.0 - self.sigma_min

    def f(self, t: Scalar) -> Scalar:
        """-1 / (1 - t), which is -inf at t = 1."""
        return -reciprocal(1.0 - t)

    def g2(self, t: Scalar) -> Scalar:
        """2 sigma / (1 - t), since alpha d(sigma)/dt + sigma = 1."""
        return 2.0 * exp(self.log_sigma(t)) * reciprocal(1.0 - t)

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """(rho - sigma_min) / (rho + 1 - sigma_min) with rho = e^-lam."""
        # Divided by rho, which may be infinite.
        snr = exp(lam)
        return (1.0 - self.sigma_min * snr) / (1.0 + (1.0 - self.sigma_min) * snr)


@dataclass(frozen=True)
class TrigonometricSDE(_Path):
    """The variance-preserving path with constant angular speed.

    alpha = cos(pi t / 2), sigma = sin(pi t / 2). The velocity is pi v / 2. Albergo &
    Vanden-Eijnden, "Building Normalizing Flows with Stochastic Interpolants", 2023, eq. 5. The
    TrigFlow of Lu & Song, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency
    Models", 2024, is this path with the angle as its time.

    At t_max = 1 there is no signal, as in `FlowSDE`.
    """

    def log_alpha(self, t: Scalar) -> Scalar:
        """From the complement of the angle, which is exact near t = 1, where cos is not."""
        return log(sin(_QUARTER * (1.0 - t)))

    def log_sigma(self, t: Scalar) -> Scalar:
        """log sin(pi t / 2)."""
        return log(sin(_QUARTER * t))

    def rates(self, t: Scalar) -> tuple[Scalar, Scalar]:
        """d alpha/dt = -pi/2 sigma and d sigma/dt = pi/2 alpha."""
        return -_QUARTER * sin(_QUARTER * t), _QUARTER * sin(_QUARTER * (1.0 - t))

    def f(self, t: Scalar) -> Scalar:
        """-pi/2 tan(pi t / 2), which is -inf at t = 1."""
        return -0.5 * self.g2(t)

    def g2(self, t: Scalar) -> Scalar:
        """Pi tan(pi t / 2)."""
        return 2.0 * _QUARTER * sin(_QUARTER * t) * reciprocal(sin(_QUARTER * (1.0 - t)))

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """Closed form: 2/pi atan(e^-lam)."""
        return atan2(exp(-lam), 1.0) / _QUARTER


_QUARTER = 0.5 * math.pi
