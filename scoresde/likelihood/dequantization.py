r"""From a density of reals to a probability of integers.

An integer k has the probability of its bin, P(k) = integral over the bin of p(x) dx, and for any
density q on it

    log P(k) >= E_{x ~ q} [log p(x) - log q(x)]

(Theis et al., "A note on the evaluation of generative models", 2016, section 3.1, for uniform q;
Ho et al., "Flow++", 2019, section 3.1, for any). Draws are averaged in log space, which keeps the
bound a bound and an average of unbiased estimates.

The model's density is that of the state at t_min, which has noise of its own: sigma/alpha in the
units of x. `Uniform` and `Variational` take x for that state. `TruncatedNormal` and
`Reconstruction` draw the state itself, x_t = alpha m + sigma eps around the middle m of the bin,
and leave no gap between data and state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..noise import NoiseStream
from ..sde.knot import Knot
from .pixels import Pixels


@dataclass(frozen=True)
class Dequantization(ABC):
    """A rule for the state within its bin, as a frozen value.

    Attributes:
        draws: how many states are drawn for each image.
    """

    draws: int = 1

    state_at_t_min: ClassVar[bool] = False
    """Whether what is drawn is the state at t_min with its noise, and not clean data."""

    def __post_init__(self) -> None:
        if not isinstance(self.draws, int) or self.draws < 1:
            raise ConfigError(f"draws must be a whole number, 1 or more, got {self.draws!r}")

    @abstractmethod
    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """One draw for each image.

        Args:
            images: integers, shape (B, *).
            pixels: the bins.
            low: the knot of t_min.
            stream: normals of the images' shape.

        Returns:
            The state at t_min, shape (B, *), float64; and what the bound adds to its log-density
            to give log P, less D log(width), shape (B,): 0 for uniform noise.
        """


@dataclass(frozen=True)
class Uniform(Dequantization):
    """Evenly over the bin: q is 1 / width in every coordinate."""

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
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

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        x = _middle(images, pixels)
        return x, x.new_zeros(len(x))


@dataclass(frozen=True)
class TruncatedNormal(Dequantization):
    """The state at t_min itself, with its noise cut off at the edges of the bin.

    Zheng et al., "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs"
    (i-DODE), 2023, section 3.2. A bound for any t_min; tight where the noise at t_min is about a
    quarter of the bin wide, since much narrower noise leaves most of the bin out.
    """

    state_at_t_min = True

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        alpha, sigma = float(low.alpha), float(low.sigma)
        reach = 0.5 * pixels.width * alpha / sigma  # half a bin in units of sigma
        inside = math.erf(reach / math.sqrt(2))
        u = torch.special.ndtr(stream.normal())
        # The quantile of u between the two cuts, by the inverse error function.
        eps = (torch.erfinv((2 * u - 1) * inside) * math.sqrt(2)).clamp(-reach, reach)
        x = alpha * _middle(images, pixels) + sigma * eps
        log_q = -0.5 * eps.square() - math.log(sigma * math.sqrt(2 * math.pi) * inside)
        return x, -(log_q + math.log(pixels.width)).flatten(1).sum(1)


@dataclass(frozen=True)
class Reconstruction(Dequantization):
    """The state at t_min with all its noise, and the integers read back from it.

    log P(k) >= E_q [log p(x_t) + log P(k | x_t) - log q(x_t | k)], with P(k | x_t) proportional to
    N(x_t; alpha m_k, sigma^2) over the levels k: the reconstruction term of Kingma et al.,
    "Variational Diffusion Models", 2021, section 3.3, before an exact density.
    """

    state_at_t_min = True

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        alpha, sigma = float(low.alpha), float(low.sigma)
        eps = stream.normal()
        x = alpha * _middle(images, pixels) + sigma * eps
        log_q = -0.5 * eps.square() - math.log(sigma * math.sqrt(2 * math.pi))
        volume = images[0:1].numel() * math.log(pixels.width)
        return x, read_back(images, pixels, low, eps) - log_q.flatten(1).sum(1) - volume


@dataclass(frozen=True, kw_only=True)
class Variational(Dequantization):
    """A place within the bin from a density of your own: variational dequantization.

    Ho et al., "Flow++", 2019, section 3.1. The closer the density is to the model's own within the
    bin, the smaller the gap of the bound.

    Attributes:
        sample: a function `sample(images, noise) -> (u, log_q)`: from integers (B, *) and standard
            normals (B, *), float64, places u in (0, 1) of the same shape and their log-density
            with respect to u, in nats, shape (B,). It gets its randomness from the noise alone.
    """

    sample: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`.

        Raises:
            ShapeError: if u or log_q have another shape.
            ConfigError: if u leaves the bin.
        """
        with torch.no_grad():
            u, log_q = self.sample(images, stream.normal())
        if u.shape != images.shape or log_q.shape != images.shape[:1]:
            raise ShapeError(
                f"a dequantizer returns u of shape {tuple(images.shape)} and log_q of shape "
                f"{tuple(images.shape[:1])}, one number an image, got {tuple(u.shape)} and "
                f"{tuple(log_q.shape)}; write log_q.flatten(1).sum(1)"
            )
        u, log_q = u.to(torch.float64), log_q.to(torch.float64)
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise ConfigError(
                f"u is the place within the bin, in (0, 1), got values from {float(u.min()):g} to "
                f"{float(u.max()):g}; write torch.sigmoid(u), with its log-derivative in log_q"
            )
        return pixels.lower_edge(images) + pixels.width * u, -log_q


def read_back(images: Tensor, pixels: Pixels, low: Knot, eps: Tensor) -> Tensor:
    """log P(k | x_t) in nats, shape (B,), where x_t is that of the integers and the noise eps."""
    step = float(low.alpha) * pixels.width / float(low.sigma)
    own = -0.5 * eps.square()
    total = torch.full_like(eps, -math.inf)
    for level in range(pixels.levels):
        gap = (images.to(torch.float64) - level) * step
        total = torch.logaddexp(total, -0.5 * (eps + gap).square())
    return (own - total).flatten(1).sum(1)


def _middle(images: Tensor, pixels: Pixels) -> Tensor:
    return pixels.lower_edge(images) + 0.5 * pixels.width
