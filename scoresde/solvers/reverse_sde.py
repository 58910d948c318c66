"""The family of processes that contains the reverse-time SDE and the probability-flow ODE."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor
from ..scalar import Scalar, scale, sqrt


@dataclass(frozen=True)
class ReverseSDE:
    r"""The reverse-time SDE with an adjustable amount of noise s.

        dx = [f x - (1 + s^2)/2 g^2 score] dt + s g dw,  backwards in time

    For every s the marginals are those of the forward process. s = 1 is Anderson's reverse SDE
    (Song et al. 2021, eq. 6), s = 0 the probability-flow ODE (eq. 13). For all other s see Zhang &
    Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, eq. 6.

    Attributes:
        model: the model that gives the score.
        stochasticity: s, 0 or more.
    """

    model: Predictor
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if not self.stochasticity >= 0:
            raise ConfigError(f"stochasticity must be 0 or more, got {self.stochasticity!r}")

    def drift(self, x: Tensor, t: Scalar) -> Tensor:
        """The drift f x - (1 + s^2)/2 g^2 score at x, shape (B, *); t: a float or shape (B,)."""
        sde = self.model.sde
        knot = sde.at(t, like=x)
        weight = -0.5 * (1 + self.stochasticity**2) * sde.g2(knot.t)
        return scale(sde.f(knot.t), x) + scale(weight, self.model(x, knot).score)

    def diffusion(self, t: Scalar) -> Scalar:
        """The diffusion coefficient s g(t)."""
        return self.stochasticity * sqrt(self.model.sde.g2(t))
