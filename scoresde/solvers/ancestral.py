"""Ancestral sampling: the exact posterior of one step back, given the denoised data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError, unknown_name
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine, exp, expm1, log, sqrt
from ..sde.knot import Knot
from .solver import Carry, Solver

_VARIANCES = ("posterior", "forward", "learned")


@dataclass(frozen=True)
class Ancestral(Solver):
    r"""x_s = E[x_s | x_t, x0] + d z: draw from q(x_s | x_t, x0) at the predicted x0.

    Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq. 7 and algorithm 2, for any
    process and any grid. With (a, b) the transition from s up to t, d is

    - "posterior": b sigma_s / sigma_t, their beta-tilde, right where the data are one point. The
      step is then `DDIM(eta=1)`, and with x0 constant the exact solution of the reverse SDE.
    - "forward": b, their beta, right where the data are N(0, I) and the process keeps variance.
    - "learned": between the two in the logarithm, for each coordinate as the network says. Nichol &
      Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, eq. 15; needs a network
      with a second output, such as `ScoreModel(..., output=LearnedRange())`.

    The last step, to sigma = 0, returns x0. Strong and weak order 1; one evaluation a step.

    Attributes:
        variance: "posterior", "forward" or "learned".
    """

    variance: str = "posterior"

    order = 1
    stochastic = True
    compiles = True

    def __post_init__(self) -> None:
        if self.variance not in _VARIANCES:
            raise unknown_name("variance of ancestral sampling", self.variance, _VARIANCES)

    @property
    def starts_at_zero_snr(self) -> bool:
        """Only the posterior's variance leaves the right one there, sigma_s^2 and not 1."""
        return self.variance == "posterior"

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        prediction = model(x, t)
        if s.is_clean:
            return prediction.x0, None
        mean = prediction.mix(s.alpha, s.sigma * exp(t.lam - s.lam))
        small = s.sigma * sqrt(-expm1(2.0 * (t.lam - s.lam)))
        large = model.sde.transition(s, t)[1]
        z = noise.increment(t, s)
        if self.variance == "learned":
            if prediction.share is None:
                raise ConfigError(
                    "this model says nothing of its variance; write "
                    "ScoreModel(..., output=LearnedRange()) for a network with twice the channels, "
                    "or Ancestral('posterior')"
                )
            z = z * (prediction.share * log(large / small)).exp()
        return affine(1.0, mean, large if self.variance == "forward" else small, z), None
