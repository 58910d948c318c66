"""The underdamped (kinetic) Langevin corrector."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine
from ..sde.knot import Knot


@dataclass(frozen=True)
class KineticLangevin:
    r"""The underdamped (kinetic) Langevin corrector, with momentum u.

        dx = sigma u dr,  du = -(eps + friction u) dr + sqrt(2 friction) dw,  for `steps` steps

    The stationary law is p_t(x) N(u; 0, I). In units of sigma the force is sigma score = -eps. Each
    call draws a new momentum, as in Chen et al., "The Probability Flow ODE Is Provably Fast", 2023,
    section 3 (the corrector of DPUM).

    A step of length h is the splitting BAOAB of Leimkuhler & Matthews, "Rational Construction of
    Stochastic Numerical Methods for Molecular Sampling", 2013: half a kick by the force, half a
    drift, exact friction and noise, half a drift, half a kick. The last half kick of a step and
    the first of the next are merged, so a step takes one evaluation. One step with friction ->
    infinity is `AnnealedLangevin(h / sqrt(8))`. With momentum, several steps move further than as
    many steps without.

    Attributes:
        size: h, in (0, 2), in units of time where N(0, sigma^2 I) oscillates with frequency 1.
        friction: friction per unit of the same time, 0 or more.
        steps: number of steps in a call.
    """

    size: float = 0.5
    friction: float = 1.0
    steps: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.size < 2 or not self.friction >= 0:
            raise ConfigError(
                f"need 0 < size < 2 (larger steps are unstable) and friction >= 0, got "
                f"size={self.size!r}, friction={self.friction!r}"
            )
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"steps must be a whole number, 1 or more, got {self.steps!r}")

    @property
    def evals_per_call(self) -> int:
        """One evaluation per step."""
        return self.steps

    def __call__(self, model: Predictor, x: Tensor, t: Knot, noise: NoiseStream) -> Tensor:
        """See `Corrector`."""
        half, drift = 0.5 * self.size, 0.5 * self.size * t.sigma
        keep = math.exp(-self.friction * self.size)
        fresh = math.sqrt(-math.expm1(-2 * self.friction * self.size))
        momentum = noise.normal()
        for step in range(self.steps):
            kick = half if step == 0 else self.size
            momentum = affine(1.0, momentum, -kick, model(x, t).eps)
            x = affine(1.0, x, drift, momentum)
            momentum = affine(keep, momentum, fresh, noise.normal())
            x = affine(1.0, x, drift, momentum)
        return x
