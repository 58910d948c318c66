"""The ancestral form of DPM-Solver++ (2S)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine, log, sqrt
from ..sde.knot import Knot
from .last_step import count_evals, to_clean
from .solver import Carry, Solver


@dataclass(frozen=True)
class DPMSolverPP2SAncestral(Solver):
    r"""Ancestral DPM-Solver++ (2S): a step to less noise than the target's, then added noise.

        y_m = (rho_m/rho_t) y + (1 - rho_m/rho_t) x0(y, t)         rho_m^2 = rho_t rho_d
        y_d = (rho_d/rho_t) y + (1 - rho_d/rho_t) x0(y_m, m)
        y_s = y_d + rho_u z                                        rho_u^2 = rho_s^2 - rho_d^2

    for y = x/alpha, with rho_u = eta rho_s sqrt(1 - rho_s^2/rho_t^2): k-diffusion's
    `dpmpp_2s_ancestral` (Crowson, 2022), from Lu et al., "DPM-Solver++", 2022, algorithm 1. The
    added noise is exact in law, so the marginals converge with the order of the flow's step: weak
    order 2, strong order 1. With eta = 1 the inner point lies at rho_s. Two evaluations per step.
    The step to sigma = 0 is that of `last_step`.

    Attributes:
        eta: share of the ancestral noise, from 0 to 1.
    """

    eta: float = 1.0

    order = 2
    compiles = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"eta must lie between 0 and 1, got {self.eta!r}")

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.eta > 0

    def evals(self, grid: Grid) -> int:
        """Two per step, plus those of `last_step`."""
        return count_evals(grid, 2)

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        prediction = model(x, t)
        if s.is_clean:
            return to_clean(model, prediction), None
        q = s.rho / t.rho
        up = self.eta * sqrt((1.0 - q) * (1.0 + q))  # rho_u / rho_s
        down = sqrt(1.0 - up * up)  # rho_d / rho_s
        middle = s if self.eta == 1 else model.sde.at_lambda(-0.5 * log(t.rho * s.rho * down))
        inner = model(prediction.at(middle), middle).x0
        ratio = q * down  # rho_d / rho_t
        x = affine(s.alpha / t.alpha * ratio, x, s.alpha * (1.0 - ratio), inner)
        if self.stochastic:
            x = affine(1.0, x, s.sigma * up, noise.increment(t, s))
        return x, None
