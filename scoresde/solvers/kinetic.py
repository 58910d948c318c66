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
    r"""dx = sigma u dr,  du = -(eps + friction u) dr + sqrt(2 friction) dw, for `steps` steps.

    Its stationary law is p_t(x) N(u; 0, I); in units of sigma the force -sigma score is eps. The
    momentum u is drawn afresh in each call, as by Chen et al., "The Probability Flow ODE Is
    Provably Fast", 2023, section 3 (the corrector of DPUM). A step of length h is the splitting
    BAOAB of Leimkuhler & Matthews, "Rational Construction of Stochastic Numerical Methods for
    Molecular Sampling", 2013: half a kick by the force, half a drift, friction and noise exactly,
    half a drift, half a kick; the two half kicks between steps are one, so that a step takes one
    evaluation. One step with friction -> infinity is `AnnealedLangevin(h / sqrt(8))`; momentum lets
    several steps go further than as many of those.

    Attributes:
        size: h, in units in which the noise itself oscillates with frequency 1; below 2.
        friction: per unit of the same time.
        steps: how many steps a call makes.
    """

    size: float = 0.5
    friction: float = 1.0
    steps: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.size < 2 or not self.friction >= 0:
            raise ConfigError(
                f"need 0 < size < 2 (beyond it steps are unstable) and friction >= 0, got "
                f"size={self.size!r}, friction={self.friction!r}"
            )
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"steps must be a whole number, 1 or more, got {self.steps!r}")

    @property
    def evals_per_call(self) -> int:
        """One evaluation a step."""
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
