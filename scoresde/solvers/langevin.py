"""Langevin correctors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine
from ..sde.knot import Knot


@dataclass(frozen=True)
class _Langevin:
    snr: float = 0.16
    steps: int = 1

    def __post_init__(self) -> None:
        if not self.snr > 0 or not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(
                f"{type(self).__name__} needs snr > 0 and a whole number of steps, 1 or more, "
                f"got snr={self.snr!r}, steps={self.steps!r}"
            )

    @property
    def evals_per_call(self) -> int:
        """One evaluation a step."""
        return self.steps


@dataclass(frozen=True)
class Langevin(_Langevin):
    r"""x <- x + e score + sqrt(2 e) z,  e = 2 (snr |z| / |score|)^2,  `steps` times.

    Song et al. 2021, algorithms 4 and 5. The norms are those of each sample alone, so that no
    sample depends on its batch-mates. The factor 1 - beta_i of algorithm 5, which is 1 but for
    the width of a step, is left out: e belongs to the noise level and not to the grid.

    Attributes:
        snr: the ratio of signal to noise in a step.
        steps: how many moves a call makes.
    """

    def __call__(self, model: Predictor, x: Tensor, t: Knot, noise: NoiseStream) -> Tensor:
        """See `Corrector`."""
        for _ in range(self.steps):
            score = model(x, t).score
            z = noise.normal()
            root = self.snr * _norm(z) / _norm(score)  # sqrt(e / 2)
            root = torch.where(root.isinf(), 0.0, root).to(x.dtype)  # at a mode, stay
            x = x + 2 * root * (root * score + z)
        return x


@dataclass(frozen=True)
class AnnealedLangevin(_Langevin):
    r"""x <- x + e score + sqrt(2 e) z,  e = 2 (snr sigma)^2,  `steps` times.

    Annealed Langevin dynamics (Song & Ermon, "Generative Modeling by Estimating Gradients of the
    Data Distribution", 2019, algorithm 1: steps in proportion to sigma^2), with the step size
    that `Langevin` has where |score| = |z| / sigma.

    Attributes:
        snr: half the step's noise in units of sigma.
        steps: how many moves a call makes.
    """

    def __call__(self, model: Predictor, x: Tensor, t: Knot, noise: NoiseStream) -> Tensor:
        """See `Corrector`."""
        root = self.snr * t.sigma
        for _ in range(self.steps):
            # x + 2 root^2 score + 2 root z, with score = -eps / sigma
            x = model(x, t).mix(t.alpha, t.sigma - 2 * root * self.snr)
            x = affine(1.0, x, 2 * root, noise.normal())
        return x


def _norm(x: Tensor) -> Tensor:
    """Length of each sample, shape (B, 1, ...), in at least float32."""
    flat = x.reshape(x.shape[0], x.shape[1:].numel())
    wide = torch.promote_types(x.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=wide)
    return length.reshape(-1, *[1] * (x.ndim - 1))
