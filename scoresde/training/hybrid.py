r"""The loss of networks that learn the variance of a step back beside the mean.

The squared error says nothing about the variance. So Nichol & Dhariwal, "Improved Denoising
Diffusion Probabilistic Models", 2021, eq. 16, add a small share of the variational bound,

    L_hybrid = L_simple + 0.001 L_vlb,      L_vlb = L_0 + L_1 + ... + L_(N-1),

in which the mean passes no gradient. For index t >= 1, L_t is the KL divergence of the step that
the network says from q(x_(t-1) | x_t, x0). L_0 is -log p(x0 | x_0).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ConfigError
from ..prediction import Parametrization, Prediction
from ..scalar import Scalar, expm1
from ..sde import SDE, DiscreteVPSDE
from ..sde.knot import Knot
from ..sde.process import per_sample
from .losses import Simple, UniformT, Weighting


@dataclass(frozen=True)
class Hybrid(Weighting):
    """A squared error, and `vlb` times the bound in bits per dimension for the variance alone.

    It needs a `DiscreteVPSDE` and a network with a second output, such as
    `ScoreModel(..., output=LearnedRange())`. The bound is estimated by N times the term of the
    time drawn, without bias for any `TimeDraw`. With all defaults this is improved-diffusion's
    loss for `learn_sigma=True, rescale_learned_sigmas=True`.

    Attributes:
        simple: weights of the squared error.
        vlb: share of the bound.
        levels: for images of so many integer levels, evenly from -1 to 1 (256 for k/127.5 - 1):
            L_0 is then -log of the mass of the integer's bin. None for data of real numbers, such
            as dequantized images: L_0 is then -log of the density.
    """

    simple: Weighting = field(default_factory=Simple)
    vlb: float = 0.001
    levels: int | None = None

    def __post_init__(self) -> None:
        if not self.vlb > 0:
            raise ConfigError(f"Hybrid needs vlb > 0, got {self.vlb!r}; write Simple() for 0")
        if self.levels is not None and not (isinstance(self.levels, int) and self.levels > 1):
            raise ConfigError(
                f"levels must be a whole number, 2 or more, got {self.levels!r}; write 256 or None"
            )

    def __call__(self, predicts: Parametrization, knot: Knot, density: Scalar) -> Scalar:
        """The factor of the squared error."""
        return self.simple(predicts, knot, density)

    def extra(
        self, prediction: Prediction, x0: Tensor, eps: Tensor, sde: SDE, density: Scalar
    ) -> Tensor:
        """See `Weighting.extra`.

        Raises:
            ConfigError: for another process, or a network without a second output.
        """
        if not isinstance(sde, DiscreteVPSDE):
            raise ConfigError(
                f"the steps of the bound are those of a table, and {type(sde).__name__} has none; "
                "write ScoreModel.from_betas(net, betas, output=LearnedRange()), or Simple()"
            )
        if prediction.share is None:
            raise ConfigError(
                "this model says nothing of its variance; write ScoreModel(..., "
                "output=LearnedRange()) for a network with twice the channels, or Simple()"
            )
        knot = prediction.knot
        t = per_sample(torch.as_tensor(knot.t, dtype=torch.float64).flatten(), x0)
        share = prediction.share.to(x0)
        last = t < 1.0
        # Each branch gets times at which it exists; `where` then takes the one that is meant.
        kl = _kl(prediction, eps, share, sde.at(t.clamp_min(1.0) - 1.0), sde.at(t.clamp_min(1.0)))
        first = sde.at(t.clamp_max(1.0)), sde.at(t.clamp_max(1.0) + 1.0)
        nats = torch.where(last, self._decoder(prediction, x0, share, *first), kl)
        bits = nats.flatten(1).mean(1) / math.log(2)
        count = round(sde.t_max - sde.t_min) + 1
        weight = UniformT().density(sde, knot) / density
        if isinstance(weight, Tensor):
            weight = weight.flatten().to(bits)
        return self.vlb * count * weight * bits

    def _decoder(
        self, prediction: Prediction, x0: Tensor, share: Tensor, first: Knot, second: Knot
    ) -> Tensor:
        """-log p(x0 | x_t) in nats, each coordinate; the variance lies between that of the second
        step's posterior, since in the first it is 0, and the forward one.
        """
        large = torch.as_tensor(first.log_sigma)
        small = torch.as_tensor(SDE.transition(first, second)[1]).log() + large - second.log_sigma
        log_std = small.to(x0) + share * (large - small).to(x0)
        gap = x0 - prediction.x0.detach()
        if self.levels is None:
            square = ((-log_std).exp() * gap).square()
            return 0.5 * square + log_std + 0.5 * math.log(2 * math.pi)
        half, inverse = 1.0 / (self.levels - 1), (-log_std).exp()
        below = torch.where(x0 < half - 1.0, -math.inf, inverse * (gap - half))
        above = torch.where(x0 > 1.0 - half, math.inf, inverse * (gap + half))
        flip = below + above > 0  # to the lower tail, where nothing cancels
        low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
        log_high: Tensor = torch.special.log_ndtr(high)
        inside: Tensor = -(torch.special.log_ndtr(low) - log_high).exp()
        return -(log_high + inside.log1p())


def _kl(prediction: Prediction, eps: Tensor, share: Tensor, s: Knot, t: Knot) -> Tensor:
    """KL(q(x_s | x_t, x0) || the network's step) in nats, each coordinate.

    The means differ by the error of eps; in units of the posterior's variance half its square is
    `gain` times the square of that error.
    """
    gain = torch.as_tensor(0.5 * expm1(2.0 * (s.lam - t.lam))).to(eps)
    log_ratio = torch.as_tensor(2.0 * (s.log_sigma - t.log_sigma)).to(eps) * share
    error = gain * (eps - prediction.eps.detach()).square()
    return log_ratio.exp() * error + 0.5 * (log_ratio.expm1() - log_ratio)
