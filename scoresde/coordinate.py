"""Coordinates along the noise level: what grids are uniform in, and solvers' polynomials too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigError, unknown_name
from .sde import SDE
from .sde.knot import Knot

Array = NDArray[np.float64]

NAMES = ("t", "lambda", "rho", "angle", "index")
"""The coordinates with a name; "index" is the place in the grid, known at its knots alone."""


@dataclass(frozen=True)
class Focus:
    """log rho, stretched around one noise level: floor log rho + width tanh(log(rho/centre)/width).

    A grid uniform in it has a density over log rho of floor + sech^2(log(rho/centre)/width): most
    of its steps lie where data of deviation about centre/2 take shape, and the steps elsewhere
    grow smoothly. A prediction is a smooth function of it, so that a polynomial in it may have a
    high order.

    Attributes:
        centre: rho where steps are densest.
        width: half-width of the dense part, in log rho.
        floor: density far away, in units of that at the centre.
    """

    centre: float = 1.0
    width: float = 3.0
    floor: float = 0.12

    def __post_init__(self) -> None:
        if not (self.centre > 0 and self.width > 0 and self.floor > 0):
            raise ConfigError(
                "Focus needs centre, width and floor above 0, got "
                f"centre={self.centre!r}, width={self.width!r}, floor={self.floor!r}"
            )

    def __call__(self, log_rho: Array) -> Array:
        """The coordinate, rising with the noise."""
        inner: Array = np.tanh((log_rho - math.log(self.centre)) / self.width)
        return self.floor * log_rho + self.width * inner

    def inverse(self, value: Array, low: float, high: float) -> Array:
        """log rho between low and high for values of the coordinate there, by bisection."""
        below, above = np.full_like(value, low), np.full_like(value, high)
        for _ in range(64):
            middle = 0.5 * (below + above)
            left = self(middle) < value
            below, above = np.where(left, middle, below), np.where(left, above, middle)
        return 0.5 * (below + above)


Coordinate = str | Focus


def check(coordinate: Coordinate) -> None:
    """Raise ConfigError for what is not a coordinate."""
    if not isinstance(coordinate, Focus) and coordinate not in NAMES:
        raise unknown_name("coordinate", coordinate, NAMES)


def along(coordinate: Coordinate, sde: SDE, log_rho: Array) -> Array:
    """The coordinate at noise levels log(rho), float64; not for "index"."""
    if isinstance(coordinate, Focus):
        return coordinate(log_rho)
    if coordinate == "lambda":
        return -log_rho
    if coordinate == "rho":
        return np.exp(log_rho)
    if coordinate == "angle":
        return np.arctan(np.exp(log_rho))
    import torch

    return np.asarray(torch.as_tensor(sde.t_at_lambda(torch.from_numpy(-log_rho))))


def at_knot(coordinate: Coordinate, sde: SDE, knot: Knot) -> float:
    """The coordinate of one knot with float fields; may be infinite where alpha = 0."""
    if coordinate == "t":
        return float(knot.t)
    return float(along(coordinate, sde, np.asarray(-float(knot.lam))))
