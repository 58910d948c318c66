r"""From a density of reals to a probability of integers.

An integer k has the probability of its bin, P(k) = integral over the bin of p(x) dx, and for any
density q on it

    log P(k) >= E_{x ~ q} [log p(x) - log q(x)]

(Theis et al., "A note on the evaluation of generative models", 2016, section 3.1, for uniform q;
Ho et al., "Flow++", 2019, section 3.1, for any). Draws are averaged in log space, which keeps the
bound a bound and an average of unbiased estimates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError
from ..noise import NoiseStream
from .pixels import Pixels


@dataclass(frozen=True)
class Dequantization(ABC):
    """A rule for x within its bin, as a frozen value.

    Attributes:
        draws: how many x are drawn for each image.
    """

    draws: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ConfigError(f"draws must be a whole number, 1 or more, got {self.draws!r}")

    @abstractmethod
    def draw(self, images: Tensor, pixels: Pixels, stream: NoiseStream) -> tuple[Tensor, Tensor]:
        """One draw for each image.

        Returns:
            x, shape (B, *), float64; and -log q(x) - D log(width), shape (B,), what the bound
            gains over uniform noise.
        """


@dataclass(frozen=True)
class Uniform(Dequantization):
    """Evenly over the bin: q is 1 / width in every coordinate."""

    def draw(self, images: Tensor, pixels: Pixels, stream: NoiseStream) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        u = torch.special.ndtr(stream.normal())  # uniform in (0, 1)
        x = pixels.lower_edge(images) + pixels.width * u
        return x, x.new_zeros(len(x))


@dataclass(frozen=True)
class NoDequantization(Dequantization):
    """x in the middle of its bin: a density times a volume, not a probability.

    Not a bound. It is here because some papers report it, and lies below the bits/dim of the same
    model with noise.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws != 1:
            raise ConfigError("without noise every draw is the same; drop draws")

    def draw(self, images: Tensor, pixels: Pixels, stream: NoiseStream) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        x = pixels.lower_edge(images) + 0.5 * pixels.width
        return x, x.new_zeros(len(x))
