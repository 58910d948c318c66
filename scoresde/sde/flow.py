"""Linear interpolation between data and noise, as in flow matching and rectified flow."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError
from ..scalar import Scalar, exp, log, log1p, reciprocal
from .process import SDE


@dataclass(frozen=True)
class FlowSDE(SDE):
    """alpha = 1 - t, sigma = t (Lipman et al., "Flow Matching for Generative Modeling", 2023;
    Liu et al., "Flow Straight and Fast", 2023; time runs from data to noise here).

    At t_max = 1 there is no signal left: samplers take their first step in the angle frame, and
    likelihoods need t_max < 1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.t_max > 1.0:
            raise ConfigError(f"FlowSDE needs t_max <= 1, got t_max={self.t_max!r}")

    def log_alpha(self, t: Scalar) -> Scalar:
        """log(1 - t)."""
        return log1p(-t)

    def log_sigma(self, t: Scalar) -> Scalar:
        """log t."""
        return log(t)

    def f(self, t: Scalar) -> Scalar:
        """-1 / (1 - t), which is -inf at t = 1."""
        return -reciprocal(1.0 - t)

    def g2(self, t: Scalar) -> Scalar:
        """2 t / (1 - t)."""
        return 2.0 * t * reciprocal(1.0 - t)

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """The logistic function of -lam."""
        return 1.0 / (1.0 + exp(lam))
