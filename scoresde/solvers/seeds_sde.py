"""Exponential SDE solvers in the noise prediction: SEEDS, and Heun's method for the SDE."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..errors import ConfigError
from .stages import StagedSDE


@dataclass(frozen=True)
class SEEDS2(StagedSDE):
    r"""The exponential midpoint rule for the reverse SDE, in eps.

        x_m = alpha_m/alpha_t x - (1 + tau^2) sigma_m (e^(h/2) - 1) eps(x, t) + n_m
        x_s = alpha_s/alpha_t x - (1 + tau^2) sigma_s (e^h - 1) eps(x_m, m) + n_s

    with m in the middle of the step h in lambda. Gonzalez et al., "SEEDS: Exponential SDE Solvers
    for Fast High-Quality Sampling from Diffusion Models", 2023, algorithm 2 (there tau = 1). Weak
    order 2, strong order 1; two evaluations a step. The step to sigma = 0 follows `last_step`.
    """

    order = 2
    prediction = "eps"
    nodes = (0.5,)

    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """See `StagedSDE`."""
        return (1.0,), (0.0, 1.0)


@dataclass(frozen=True)
class SEEDS3(StagedSDE):
    r"""Three stages at 0, 1/3 and 2/3 of the step in lambda, in eps.

    The stages are those of DPM-Solver-3 (Lu et al. 2022, algorithm 2) with the exact noise of the
    SDE in each: Gonzalez et al. 2023, algorithm 3. As they say, it is third order for the flow
    (tau = 0) and no more than second in the weak sense for tau > 0 (strong order 1). Three
    evaluations a step. The step to sigma = 0 follows `last_step`.
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
    r"""The trapezoidal rule for the reverse SDE, in eps and rho.

        x' = alpha_s/alpha_t x + alpha_s (1 + tau^2) (rho_s - rho_t) eps(x, t) + n_s
        x_s = alpha_s/alpha_t x + alpha_s (1 + tau^2) (rho_s - rho_t) (eps(x, t) + eps(x', s))/2 + n_s

    Heun's (improved Euler's) method for SDEs, Kloeden & Platen, "Numerical Solution of Stochastic
    Differential Equations", 1992, section 15.1, applied to x/alpha. The noise is additive, so that
    Ito's and Stratonovich's readings agree: Euler-Heun is this method, and Milstein's is
    Euler-Maruyama's. Weak order 2, strong order 1; two evaluations a step. The step to sigma = 0
    follows `last_step`.
    """  # noqa: E501 - a formula

    order = 2
    prediction = "eps"
    nodes = (1.0,)

    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """See `StagedSDE`."""
        return (1.0,), (0.5, 0.5)


@dataclass(frozen=True)
class DPMSolverPPSDE(StagedSDE):
    r"""Two stages in x0: DPM-Solver++ (2S) with the exact noise of the SDE.

        x_m = decay x + total x0(x, t) + n_m                    m at the fraction r of the step
        x_s = decay x + total ((1 - 1/2r) x0(x, t) + 1/2r x0(x_m, m)) + n_s

    Lu et al., "DPM-Solver++", 2022, section 5 and algorithm 1, as k-diffusion's `dpmpp_sde`
    combines them, save that n_m and n_s are here one realisation of the noise and its
    continuation, which that code draws as if they were increments of equal weight. Weak order 2,
    strong order 1; two evaluations a step. The step to sigma = 0 follows `last_step`.

    Attributes:
        r: where the second stage lies, above 0 and at most 1.
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
