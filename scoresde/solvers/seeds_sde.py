"""Single-step exponential SDE solvers: SEEDS, stochastic Heun and DPM-Solver++ SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError
from .stages import StagedSDE


@dataclass(frozen=True)
class SEEDS2(StagedSDE):
    r"""SEEDS-2: the exponential midpoint rule for the reverse SDE, in eps.

        x_m = alpha_m/alpha_t x - (1 + tau^2) sigma_m (e^(h/2) - 1) eps(x, t) + n_m
        x_s = alpha_s/alpha_t x - (1 + tau^2) sigma_s (e^h - 1) eps(x_m, m) + n_s

    with m in the middle of the step h in lambda. Gonzalez et al., "SEEDS: Exponential SDE Solvers
    for Fast High-Quality Sampling from Diffusion Models", 2023, algorithm 2 (with tau = 1). Weak
    order 2, strong order 1. Two evaluations per step. The step to sigma = 0 is that of `last_step`.
    """

    order = 2
    prediction = "eps"
    nodes = (0.5,)

    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """See `StagedSDE`."""
        return (1.0,), (0.0, 1.0)


@dataclass(frozen=True)
class SEEDS3(StagedSDE):
    r"""SEEDS-3: three stages in eps, at 0, 1/3 and 2/3 of the step in lambda.

    Gonzalez et al. 2023, algorithm 3: the stages of DPM-Solver-3 (Lu et al. 2022, algorithm 2),
    each with the exact noise of the SDE. As the paper says, the order is 3 for the flow (tau = 0);
    with tau > 0 the weak order is 2 and the strong order 1. Three evaluations per step. The step
    to sigma = 0 is that of `last_step`.
    """

    order = 2
    prediction = "eps"
    nodes = (1 / 3, 2 / 3)

    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """See `StagedSDE`."""
        second, last = 2 * _slope(2 * h / 3), 1.5 * _slope(h)
        return (1.0,), (1 - second, second), (1 - last, 0.0, last)


@dataclass(frozen=True)
class StochasticHeun(StagedSDE):
    r"""Heun's method (the trapezoidal rule) for the reverse SDE, in eps and rho.

        x' = alpha_s/alpha_t x + alpha_s (1 + tau^2) (rho_s - rho_t) eps(x, t) + n_s
        x_s = alpha_s/alpha_t x + alpha_s (1 + tau^2) (rho_s - rho_t) (eps(x, t) + eps(x', s))/2 + n_s

    Heun's (improved Euler's) method for SDEs, Kloeden & Platen, "Numerical Solution of Stochastic
    Differential Equations", 1992, section 15.1, applied to x/alpha. The noise is additive, so the
    Ito and Stratonovich integrals agree: Euler-Heun equals this method, and Milstein's equals
    Euler-Maruyama's. Weak order 2, strong order 1. Two evaluations per step. The step to sigma = 0
    is that of `last_step`.
    """  # noqa: E501 - a formula

    order = 2
    prediction = "eps"
    nodes = (1.0,)

    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """See `StagedSDE`."""
        return (1.0,), (0.5, 0.5)


@dataclass(frozen=True)
class DPMSolverPPSDE(StagedSDE):
    r"""DPM-Solver++ SDE: the two stages of DPM-Solver++ (2S), with the exact noise of the SDE.

        x_m = decay x + total x0(x, t) + n_m                    m at the fraction r of the step
        x_s = decay x + total ((1 - 1/2r) x0(x, t) + 1/2r x0(x_m, m)) + n_s

    Lu et al., "DPM-Solver++", 2022, section 5 and algorithm 1, combined as in k-diffusion's
    `dpmpp_sde`. One thing differs: here n_s continues the same realisation of the noise as n_m,
    while k-diffusion treats the two as increments of equal weight. Weak order 2, strong order 1.
    Two evaluations per step. The step to sigma = 0 is that of `last_step`.

    Attributes:
        r: position of the second stage as a fraction of the step in lambda, in (0, 1].
    """

    r: float = 0.5

    order = 2
    prediction = "x0"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.r <= 1:
            raise ConfigError(f"r must lie in (0, 1], got {self.r!r}")

    @property
    def nodes(self) -> tuple[float, ...]:
        """One, at r."""
        return (self.r,)

    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """See `StagedSDE`."""
        share = 0.5 / self.r
        return (1.0,), (1 - share, share)


def _slope(h: float) -> float:
    """The mean of lambda / h over (0, h) under e^-lambda, over 1 / h of it: 1/h - 1/(e^h - 1)."""
    return 0.5 - h / 12 if h < 1e-4 else 1 / h - 1 / math.expm1(h)
