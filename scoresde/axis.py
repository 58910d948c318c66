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
    """log rho, stretched between two noise levels.

    A grid uniform in it has a density over log rho that is 1 between `low` and `high` and `floor`
    far outside, with logistic edges:

        floor + 1/(1 + (low/rho)^(1/edge)) - 1/(1 + (high/rho)^(1/edge))

    Most of its steps lie where data take shape, and the steps elsewhere grow smoothly. A prediction
    is a smooth function of it, so that a polynomial in it may have a high order.

    Attributes:
        low, high: rho between which steps are dense.
        edge: width of the transitions, in log rho.
        floor: density far away.
    """

    low: float = 0.07
    high: float = 12.0
    edge: float = 1.0
    floor: float = 0.1

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high < math.inf and self.edge > 0 and self.floor > 0):
            raise ConfigError(
                "Focus needs 0 < low < high, and edge and floor above 0, got "
                f"low={self.low!r}, high={self.high!r}, edge={self.edge!r}, floor={self.floor!r}"
            )

    def __call__(self, log_rho: Array) -> Array:
        """The coordinate, rising with the noise."""
        above, below = (
            np.logaddexp(0.0, (log_rho - math.log(rho)) / self.edge)
            for rho in (self.low, self.high)
        )
        out: Array = self.floor * log_rho + self.edge * (above - below)
        return out

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
