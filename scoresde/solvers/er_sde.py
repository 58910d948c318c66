"""Solvers of the extended reverse-time SDE."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..errors import ConfigError, unknown_name
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..sde.knot import Knot
from .exponential.quadrature import GAUSS, Array
from .last_step import count_evals, to_clean
from .solver import Carry, Solver

SCALES: dict[str, Callable[[Array], Array]] = {
    "ode": lambda rho: rho,
    "sde": lambda rho: rho**2,
    "er4": lambda rho: rho**0.9 * np.log10(1 + 100 * rho**1.5),
    "er5": lambda rho: rho * (np.exp(rho**0.3) + 10),
}
"""Noise scale functions phi by name; phi / rho must not fall as rho grows."""


@dataclass(frozen=True)
class ERSDE(Solver):
    r"""The multistep solvers ER-SDE, with a noise level that a function phi sets.

        y_s = q y + (1 - q) x0 + c_1 D + c_2 D' + rho_u z,   q = phi_s/phi_t,  y = x/alpha
        c_k = (rho_s - rho_t)^k / k! + phi_s int_s^t (rho - rho_t)^(k-1) / (k-1)! / phi drho
        rho_u^2 = rho_s^2 - q^2 rho_t^2

    where D and D' are the first and second difference quotients of x0 in rho over the last steps.
    phi = rho is the probability flow, phi = rho^2 the reverse SDE with full noise. Cui et al.,
    "Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion Models", 2023,
    algorithms 1-3 and eq. 15-17. Their D stands for the derivative at t, which is why the rule
    with three predictions converges with order 2 for the flow. Weak order 1 with one prediction,
    2 with more. One evaluation per step. The step to sigma = 0 is that of `last_step`.

    Attributes:
        history: number of predictions that a step uses, 1 to 3.
        scale: name of phi: "ode", "sde", or the paper's "er4" and "er5" (its table 1 recommends
            er5).
    """

    history: int = 3
    scale: str = "er5"

    compiles = True

    def __post_init__(self) -> None:
        if self.history not in (1, 2, 3):
            raise ConfigError(f"history must be 1, 2 or 3, got {self.history!r}")
        if self.scale not in SCALES:
            raise unknown_name("noise scale function", self.scale, SCALES)

    @property
    def order(self) -> int:
        """Weak order: 1 with one prediction, 2 with more. The strong order is 1."""
        return min(self.history, 2)

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.scale != "ode"

    def evals(self, grid: Grid) -> int:
        """One per step, plus those of `last_step`."""
        return count_evals(grid, 1)

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        prediction = model(x, t)
        if s.is_clean:
            return to_clean(model, prediction), None
        past: tuple[tuple[float, Tensor], ...] = carry or ()
        high, low, alpha = float(t.rho), float(s.rho), float(s.alpha)
        # As in `exponential.weights.apart`: a value within 1 % of the step adds no information.
        far = [value for value in past if math.log(value[0] / high) >= 0.01 * math.log(high / low)]
        known = ((high, prediction.x0), *far)[: self.history]
        phi = SCALES[self.scale]
        q = float(phi(np.asarray(low)) / phi(np.asarray(high)))
        out = x * (alpha / t.alpha * q)
        weights = self._weights(high, low, q, [rho for rho, _ in known])
        for weight, (_, value) in zip(weights, known, strict=True):
            out.add_(value, alpha=alpha * weight)
        if self.stochastic:
            ratio = q * high / low
            up = alpha * low * math.sqrt(max(0.0, (1 - ratio) * (1 + ratio)))
            out.add_(noise.increment(t, s), alpha=up)
        return out, known[: self.history - 1]

    def _weights(self, t: float, s: float, q: float, rho: list[float]) -> list[float]:
        """The weight of each known x0, newest first, for a step between these rhos."""
        weights = [1 - q, 0.0, 0.0][: len(rho)]
        if len(rho) == 1:
            return weights
        first, second = self._moments(t, s)
        d = 1 / (rho[0] - rho[1])
        weights[0] += first * d
        weights[1] -= first * d
        if len(rho) == 3:
            before, half = 1 / (rho[1] - rho[2]), 2 / (rho[0] - rho[2])
            for k, slope in enumerate((d, -d - before, before)):
                weights[k] += second * half * slope
        return weights

    def _moments(self, t: float, s: float) -> tuple[float, float]:
        """c_1 and c_2, by Gauss-Legendre quadrature in log(rho)."""
        phi, (nodes, lengths) = SCALES[self.scale], GAUSS
        width = math.log(t / s)
        rho = s * np.exp(nodes * width)
        inverse = float(phi(np.asarray(s))) * lengths * width * rho / phi(rho)
        return s - t + float(inverse.sum()), 0.5 * (s - t) ** 2 + float(inverse @ (rho - t))
