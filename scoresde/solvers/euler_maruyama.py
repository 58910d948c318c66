"""Euler-Maruyama in time t."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine, sqrt
from ..sde.knot import Knot
from .solver import Carry, Solver


@dataclass(frozen=True)
class EulerMaruyama(Solver):
    r"""The Euler-Maruyama method for the reverse SDE, in time t.

        x_s = x - h [f x - (1 + a^2)/2 g^2 score] + a g sqrt(h) z,  h = t - s

    Song et al. 2021, section 4.1 and appendix D. a is the stochasticity of `ReverseSDE`; a = 0 is
    Euler's method for the probability-flow ODE. The step to sigma = 0 returns the denoised x0,
    since g(t) does not describe an interval that ends without noise. One evaluation per step.

    Attributes:
        stochasticity: a, 0 or more; 1 is the reverse SDE.
    """

    stochasticity: float = 1.0

    order = 1  # strong order 1, since the noise is additive
    compiles = True

    def __post_init__(self) -> None:
        if not self.stochasticity >= 0:
            raise ConfigError(f"stochasticity must be 0 or more, got {self.stochasticity!r}")

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.stochasticity > 0

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        prediction = model(x, t)
        if s.is_clean:
            return prediction.x0, None
        h = t.t - s.t
        f, g2 = model.sde.f(t.t), model.sde.g2(t.t)
        # x is alpha x0 + sigma eps, and the score -eps / sigma: one combination of the two.
        score_weight = 0.5 * (1 + self.stochasticity**2) * g2 * h
        stretch = 1.0 - h * f
        x = prediction.mix(stretch * t.alpha, stretch * t.sigma - score_weight / t.sigma)
        if self.stochastic:
            x = affine(1.0, x, self.stochasticity * sqrt(g2 * h), noise.increment(t, s))
        return x, None
