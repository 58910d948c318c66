"""Ancestral sampling: draws from the posterior of each step, given the denoised data."""

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
    r"""Ancestral (DDPM) sampling: draws x_s from q(x_s | x_t, x0) at the predicted x0.

        x_s = E[x_s | x_t, x0] + d z

    Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq. 7 and algorithm 2, for any
    process and any grid. With the forward transition x_t = a x_s + b z from s to t, d is

    - "posterior": b sigma_s / sigma_t (their beta-tilde), exact if the data are a single point.
      The step equals `DDIM(eta=1)`. If x0 is constant it solves the reverse SDE exactly.
    - "forward": b (their beta), exact if the data are N(0, I) and the process is
      variance-preserving.
    - "learned": between the two, interpolated in the logarithm; the network gives the weight for
      each coordinate. Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021,
      eq. 15. Needs a network with a second output, such as
      `ScoreModel(..., output=LearnedRange())`.

    The step to sigma = 0 returns x0. Strong and weak order 1. One evaluation per step.

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
        """True only for "posterior", which gives the right variance there, sigma_s^2."""
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
                    "this model does not predict a variance; write "
                    "ScoreModel(..., output=LearnedRange()) for a network with twice the channels, "
                    "or Ancestral('posterior')"
                )
            z = z * (prediction.share * log(large / small)).exp()
        return affine(1.0, mean, large if self.variance == "forward" else small, z), None
