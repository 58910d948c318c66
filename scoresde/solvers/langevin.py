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
        """One evaluation per step."""
        return self.steps


@dataclass(frozen=True)
class Langevin(_Langevin):
    r"""The Langevin corrector, with a step size set by a signal-to-noise ratio.

        x <- x + e score + sqrt(2 e) z,  e = 2 (snr |z| / |score|)^2,  `steps` times

    Song et al. 2021, algorithms 4 and 5. Each sample uses its own norms, so no sample depends on
    the others in its batch. The factor 1 - beta_i of algorithm 5 is omitted, since it depends on
    the grid and not only on the noise level; it tends to 1 as grids get finer.

    Attributes:
        snr: signal-to-noise ratio of a step.
        steps: number of Langevin steps in a call.
    """

    def __call__(self, model: Predictor, x: Tensor, t: Knot, noise: NoiseStream) -> Tensor:
        """See `Corrector`."""
        for _ in range(self.steps):
            score = model(x, t).score
            z = noise.normal()
            root = self.snr * _norm(z) / _norm(score)  # sqrt(e / 2)
            root = torch.where(root.isinf(), 0.0, root).to(x.dtype)  # score = 0 at a mode: no move
            x = x + 2 * root * (root * score + z)
        return x


@dataclass(frozen=True)
class AnnealedLangevin(_Langevin):
    r"""The corrector of annealed Langevin dynamics: step sizes proportional to sigma^2.

        x <- x + e score + sqrt(2 e) z,  e = 2 (snr sigma)^2,  `steps` times

    Song & Ermon, "Generative Modeling by Estimating Gradients of the Data Distribution", 2019,
    algorithm 1. The step size equals that of `Langevin` if |score| = |z| / sigma.

    Attributes:
        snr: half the standard deviation of a step's noise, in units of sigma.
        steps: number of Langevin steps in a call.
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
    """Euclidean norm of each sample, shape (B, 1, ...), in float32 or float64."""
    flat = x.reshape(x.shape[0], x.shape[1:].numel())
    wide = torch.promote_types(x.dtype, torch.float32)
    length: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=wide)
    return length.reshape(-1, *[1] * (x.ndim - 1))
