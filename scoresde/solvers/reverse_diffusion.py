"""Reverse diffusion sampling: a discretisation made of the forward transition."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine
from ..sde.knot import Knot
from .solver import Carry, Solver


@dataclass(frozen=True)
class ReverseDiffusion(Solver):
    r"""The reverse diffusion sampler of Song et al., for any process and grid.

        x_s = (2 - a) x + (1 + k^2)/2 b^2 score + k b z

    where x_t = a x_s + b z is the forward transition from s to t. Song et al. 2021, eq. 46 and
    appendix E. They take a and b from the discretised process; here the transition is exact, so
    any process and grid can be used, and a coarse grid gives a large error instead of a NaN. The
    step to sigma = 0 returns the denoised x0. Strong and weak order 1. One evaluation per step.

    Attributes:
        stochasticity: k, 0 or more; 1 is the reverse SDE, 0 its probability flow (eq. 47).
    """

    stochasticity: float = 1.0

    order = 1
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
        a, b = model.sde.transition(s, t)
        # x is alpha x0 + sigma eps, and the score -eps / sigma: one combination of the two.
        score_weight = 0.5 * (1 + self.stochasticity**2) * b * b
        x = prediction.mix((2.0 - a) * t.alpha, (2.0 - a) * t.sigma - score_weight / t.sigma)
        if self.stochastic:
            x = affine(1.0, x, self.stochasticity * b, noise.increment(t, s))
        return x, None
