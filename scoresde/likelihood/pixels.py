r"""Pixel conventions: the bin of real numbers that belongs to each integer level.

Each integer k = 0 .. levels-1 has a bin. With the value range (lo, hi) and u in (0, 1):

| convention | x in bin k | width |
| --- | --- | --- |
| "edges" | lo + (hi - lo) (k + u) / levels | (hi - lo) / levels |
| "centres" | lo + (hi - lo) (k + u - 1/2) / (levels - 1) | (hi - lo) / (levels - 1) |

Flows and score_sde use "edges". DDPM and diffusers use "centres", where k itself maps to
k (hi - lo)/(levels - 1) + lo, such as k/127.5 - 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._internal.integers import whole_numbers
from ..errors import ConfigError, DtypeError, unknown_name
from ..scalar import widest


@dataclass(frozen=True)
class Pixels:
    """A pixel convention: how integer levels are placed on the real line.

    `scoresde.likelihood.pixels` has a table of the two conventions.

    Attributes:
        levels: number of integers.
        convention: "edges" or "centres".
        value_range: (lo, hi).

    Raises:
        ConfigError: for fewer than 2 levels, an unknown convention, or an empty value range.
    """

    levels: int = 256
    convention: str = "edges"
    value_range: tuple[float, float] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.value_range
        if not isinstance(self.levels, int) or self.levels < 2:
            raise ConfigError(f"levels must be a whole number, 2 or more, got {self.levels!r}")
        if self.convention not in ("edges", "centres"):
            raise unknown_name("pixel convention", self.convention, ("edges", "centres"))
        if not -math.inf < low < high < math.inf:
            raise ConfigError(f"value_range must be (low, high), got {self.value_range!r}")

    @property
    def width(self) -> float:
        """Width of a bin."""
        low, high = self.value_range
        return (high - low) / (self.levels - (0 if self.convention == "edges" else 1))

    def lower_edge(self, images: Tensor) -> Tensor:
        """Lower edge of each integer's bin, same shape, float64."""
        shift = 0.0 if self.convention == "edges" else -0.5
        return self.value_range[0] + self.width * (
            whole_numbers(images).to(widest(images.device)) + shift
        )

    def bits_per_dim(self, nats: Tensor, size: int) -> Tensor:
        """Bits per dimension of integers, from log-densities in nats of `size` dimensions."""
        return -nats / (size * math.log(2)) - math.log2(self.width)

    def check(self, images: Tensor) -> Tensor:
        """Check that images are integers in range, and return them: those of uint16, uint32 and
        uint64, for which torch has few operations, as int64.

        Raises:
            DtypeError: for images that are not integers.
            ConfigError: for values outside 0 .. levels-1.
        """
        if images.is_floating_point() or images.is_complex() or images.dtype == torch.bool:
            raise DtypeError(
                f"bits/dim is for integers 0 .. {self.levels - 1}, got {images.dtype}"
                f"{self._cast(images)}"
            )
        images = whole_numbers(images)
        if images.numel():
            least, most = int(images.min()), int(images.max())
            if least < 0 or most >= self.levels:
                shift = f"images - ({least})" if least < 0 else "images"
                hint = (
                    f"write {shift} with pixels=Pixels(levels={max(most - min(least, 0) + 1, 2)})"
                )
                raise ConfigError(
                    f"levels={self.levels} means integers 0 .. {self.levels - 1}, got values from "
                    f"{least} to {most}; {hint}, if those are all the values there are"
                )
        return images

    def _cast(self, images: Tensor) -> str:
        """End of an error message: what to write for data that are not integers."""
        if images.dtype == torch.bool:
            return "; write images.to(torch.uint8) with pixels=Pixels(levels=2)"
        other = "or use log_likelihood for real-valued data"
        if images.is_complex() or not images.numel():
            return f"; write images.to({self._dtype}), {other}"
        if bad := int((~images.isfinite()).sum()):
            return f" with {bad} values that are NaN or infinite; correct these first"
        least, most = float(images.min()), float(images.max())
        scaled = "x"
        if least < 0:
            scaled = f"((x + 1) * {(self.levels - 1) / 2:g})"
        elif most <= 1:
            scaled = f"({self.levels - 1} * x)"
        return (
            f" from {least:g} to {most:g}; write {scaled}.round().to({self._dtype}) if these are "
            f"images, {other}"
        )

    @property
    def _dtype(self) -> str:
        """One that holds all levels."""
        return "torch.uint8" if self.levels <= 256 else "torch.int64"

    def to_dict(self) -> dict[str, Any]:
        """The convention as JSON-able data."""
        return {
            "levels": self.levels,
            "pixels": self.convention,
            "value_range": list(self.value_range),
        }


EDGES = Pixels()
"""Images of 256 levels in (-1, 1), on edges."""
