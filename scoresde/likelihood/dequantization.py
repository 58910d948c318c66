r"""From a density of reals to a probability of integers.

An integer k has the probability of its bin, P(k) = integral over the bin of p(x) dx, and for any
density q on it

    log P(k) >= E_{x ~ q} [log p(x) - log q(x)]

(Theis et al., "A note on the evaluation of generative models", 2016, section 3.1, for uniform q;
Ho et al., "Flow++", 2019, section 3.1, for any q). Draws are averaged in log space. So each draw is
an unbiased estimate of the bound, and so is their mean.

The model's density is that of the state at t_min, which contains noise: sigma/alpha in the units
of x. `Uniform` and `Variational` treat x as that state. `TruncatedNormal` and `Reconstruction` draw
the state itself, x_t = alpha m + sigma eps around the middle m of the bin. So they have no error
from the difference between data and state.
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
from ..scalar import widest
from ..sde.knot import Knot
from .pixels import Pixels


@dataclass(frozen=True)
class Dequantization(ABC):
    """A rule that draws a state within the bins of an image, as a frozen value.

    Attributes:
        draws: number of states drawn for each image.
    """

    draws: int = 1

    state_at_t_min: ClassVar[bool] = False
    """Whether the rule draws the state at t_min, with its noise, rather than clean data."""

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
            The state at t_min, shape (B, *), float64; and a term, shape (B,), such that log P is
            the state's log-density + D log(width) + this term. It is 0 for uniform noise.
        """


@dataclass(frozen=True)
class Uniform(Dequantization):
    """Uniform noise over the bin: q = 1 / width in every coordinate."""

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        u = torch.special.ndtr(stream.normal())  # uniform in (0, 1)
        x = pixels.lower_edge(images) + pixels.width * u
        return x, x.new_zeros(len(x))


@dataclass(frozen=True)
class NoDequantization(Dequantization):
    """No noise, x in the middle of its bin. The result is not a probability and not a bound.

    It is the density at the middle times the volume of the bins. Some papers report it. It is lower
    than the bits/dim of the same model with noise.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws != 1:
            raise ConfigError("without noise all draws are equal; leave draws out")

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`."""
        x = _middle(images, pixels)
        return x, x.new_zeros(len(x))


@dataclass(frozen=True)
class TruncatedNormal(Dequantization):
    """The state at t_min, with normal noise truncated at the edges of the bin.

    Zheng et al., "Improved Techniques for Maximum Likelihood Estimation for Diffusion ODEs"
    (i-DODE), 2023, section 3.2. It gives a bound for any t_min. The bound is tight if the noise at
    t_min has a standard deviation of about a quarter of the bin; much narrower noise does not cover
    the bin.
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
        # The quantile of u of the truncated normal, by the inverse error function.
        eps = (torch.erfinv((2 * u - 1) * inside) * math.sqrt(2)).clamp(-reach, reach)
        x = alpha * _middle(images, pixels) + sigma * eps
        log_q = -0.5 * eps.square() - math.log(sigma * math.sqrt(2 * math.pi) * inside)
        return x, -(log_q + math.log(pixels.width)).flatten(1).sum(1)


@dataclass(frozen=True)
class Reconstruction(Dequantization):
    """The state at t_min with its full noise, and a decoder that gives the integers from it.

    log P(k) >= E_q [log p(x_t) + log P(k | x_t) - log q(x_t | k)], with P(k | x_t) proportional to
    N(x_t; alpha m_k, sigma^2) over the levels k: the reconstruction term of Kingma et al.,
    "Variational Diffusion Models", 2021, section 3.3, together with an exact density.
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
    """Variational dequantization: you give the density of the place within the bin.

    Ho et al., "Flow++", 2019, section 3.1. The closer this density is to the model's own density
    within the bin, the tighter the bound.

    Attributes:
        sample: a function `sample(images, noise) -> (u, log_q)`. It maps integers (B, *) and
            standard normals (B, *), float64, to places u in (0, 1) of the same shape and their
            log-density with respect to u, in nats, shape (B,). `noise` must be its only source of
            randomness.
    """

    sample: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def draw(
        self, images: Tensor, pixels: Pixels, low: Knot, stream: NoiseStream
    ) -> tuple[Tensor, Tensor]:
        """See `Dequantization`.

        Raises:
            ShapeError: if u or log_q have another shape.
            ConfigError: if u is outside the bin.
        """
        with torch.no_grad():
            u, log_q = self.sample(images, stream.normal())
        if u.shape != images.shape or log_q.shape != images.shape[:1]:
            raise ShapeError(
                f"a dequantizer must return u of shape {tuple(images.shape)} and log_q of shape "
                f"{tuple(images.shape[:1])}, one number for each image, got {tuple(u.shape)} and "
                f"{tuple(log_q.shape)}; write log_q.flatten(1).sum(1)"
            )
        u, log_q = (value.to(widest(images.device)) for value in (u, log_q))
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise ConfigError(
                f"u must be the place within the bin, in (0, 1), got values from "
                f"{float(u.min()):g} to {float(u.max()):g}; write torch.sigmoid(u), and include "
                "its log-derivative in log_q"
            )
        return pixels.lower_edge(images) + pixels.width * u, -log_q


def read_back(images: Tensor, pixels: Pixels, low: Knot, eps: Tensor) -> Tensor:
    """log P(k | x_t) in nats, shape (B,), for the state x_t = alpha m_k + sigma eps."""
    step = float(low.alpha) * pixels.width / float(low.sigma)
    own = -0.5 * eps.square()
    total = torch.full_like(eps, -math.inf)
    for level in range(pixels.levels):
        gap = (images.to(eps.dtype) - level) * step
        total = torch.logaddexp(total, -0.5 * (eps + gap).square())
    return (own - total).flatten(1).sum(1)


def _middle(images: Tensor, pixels: Pixels) -> Tensor:
    return pixels.lower_edge(images) + 0.5 * pixels.width
