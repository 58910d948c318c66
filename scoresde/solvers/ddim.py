"""DDIM, whose exact transition also takes the first and last steps of other solvers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine, expm1, sqrt
from ..sde.knot import Knot
from .solver import Carry, Solver


@dataclass(frozen=True)
class DDIM(Solver):
    r"""Denoising diffusion implicit models (DDIM), for any process.

        x_s = alpha_s x0 + sqrt(sigma_s^2 - d^2) eps + d z,  d = eta sigma_{s|t,0}

    Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12 and 16. eta = 0 is
    deterministic, and exact if the prediction of eps or that of x0 is constant. eta = 1 is
    ancestral sampling. One evaluation per step. It may step to sigma = 0 and start at alpha = 0.

    Attributes:
        eta: scale of the noise from 0 (none) to 1 (the posterior's).
    """

    eta: float = 0.0

    order = 1
    starts_at_zero_snr = True
    compiles = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"eta must lie between 0 and 1, got {self.eta!r}")

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.eta > 0

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        prediction = model(x, t)
        if self.eta == 0 or s.is_clean:
            return prediction.at(s), None
        lost = -expm1(2.0 * (t.lam - s.lam)) * self.eta**2  # part of sigma_s^2 drawn afresh
        mean = prediction.mix(s.alpha, s.sigma * sqrt(1.0 - lost))
        return affine(1.0, mean, s.sigma * sqrt(lost), noise.increment(t, s)), None
