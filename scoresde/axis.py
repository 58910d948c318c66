"""Axes: monotone variables along the noise level.

With rho = sigma/alpha:

| name | value | at alpha = 0 |
| --- | --- | --- |
| "t" | t | t_max |
| "lambda" | half log-SNR, log(alpha/sigma) | - |
| "log_rho" | log(sigma/alpha), which is -lambda | - |
| "rho" | sigma/alpha | - |
| "angle" | atan(sigma/alpha) | pi/2 |

These names mean the same wherever an axis is chosen: in the polynomials of multistep solvers
(`coordinate=`), in the probability flow (`clock=`), and as the time that a network receives
(`time=`). Grids are evenly spaced on the same axes. A `Focus` is an axis too.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .errors import ConfigError, unknown_name
from .scalar import Scalar, atan2, exp, log, softplus
from .sde import SDE
from .sde.knot import Knot

_HALVINGS = 80  # enough to reduce any bracket to two neighbouring floats


class Axis(ABC):
    """A monotone variable along the noise level, for floats and float64 tensors."""

    at_zero_snr: ClassVar[bool] = False
    """Whether the value at alpha = 0 is finite."""

    @abstractmethod
    def at(self, sde: SDE, log_rho: Scalar) -> Scalar:
        """The value at a noise level log(sigma/alpha)."""

    @abstractmethod
    def knot(self, sde: SDE, value: Scalar) -> Knot:
        """The knot with this value.

        Raises:
            TimeRangeError: for a float outside the process's range.
        """

    def time(self, sde: SDE, value: Scalar) -> Scalar:
        """The time with this value."""
        return self.knot(sde, value).t

    @abstractmethod
    def read(self, knot: Knot) -> Scalar:
        """The value at a knot; it may be infinite at alpha = 0 and at sigma = 0."""


@dataclass(frozen=True)
class TimeAxis(Axis):
    """The axis "t": the process's time."""

    at_zero_snr = True

    def at(self, sde: SDE, log_rho: Scalar) -> Scalar:
        """See `Axis`."""
        return sde.t_at_lambda(-log_rho)

    def knot(self, sde: SDE, value: Scalar) -> Knot:
        """See `Axis`."""
        return sde.at(value)

    def time(self, sde: SDE, value: Scalar) -> Scalar:
        """See `Axis`."""
        return value

    def read(self, knot: Knot) -> Scalar:
        """See `Axis`."""
        return knot.t


class LevelAxis(Axis):
    """An axis that depends only on the noise level, in the same way for every process."""

    @abstractmethod
    def value(self, log_rho: Scalar) -> Scalar:
        """The value at log(sigma/alpha)."""

    @abstractmethod
    def log_rho(self, value: Scalar) -> Scalar:
        """log(sigma/alpha) at a value."""

    def at(self, sde: SDE, log_rho: Scalar) -> Scalar:
        """See `Axis`."""
        return self.value(log_rho)

    def knot(self, sde: SDE, value: Scalar) -> Knot:
        """See `Axis`."""
        return sde.at_lambda(-self.log_rho(value))

    def time(self, sde: SDE, value: Scalar) -> Scalar:
        """See `Axis`."""
        return sde.t_at_lambda(-self.log_rho(value))

    def read(self, knot: Knot) -> Scalar:
        """See `Axis`."""
        return self.value(knot.log_sigma - knot.log_alpha)


@dataclass(frozen=True)
class LambdaAxis(LevelAxis):
    """The axis "lambda": half log-SNR, which falls as the noise rises."""

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return -log_rho

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return -value


@dataclass(frozen=True)
class LogRhoAxis(LevelAxis):
    """The axis "log_rho": log(sigma/alpha)."""

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return log_rho

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return value


@dataclass(frozen=True)
class RhoAxis(LevelAxis):
    """The axis "rho": sigma/alpha, the sigma of EDM."""

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return exp(log_rho)

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return log(value)


@dataclass(frozen=True)
class AngleAxis(LevelAxis):
    """The axis "angle": atan(sigma / (d alpha)), from 0 at sigma = 0 to pi/2 at alpha = 0.

    Attributes:
        scale: d; 1 for the axis called "angle".
    """

    scale: float = 1.0

    at_zero_snr = True

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return atan2(exp(log_rho), self.scale)

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`. In floating point tan(pi/2) is finite, so pi/2 gives a finite value."""
        tangent = value.tan() if isinstance(value, Tensor) else math.tan(value)
        return log(tangent * self.scale)

    def read(self, knot: Knot) -> Scalar:
        """See `Axis`."""
        return atan2(knot.sigma, self.scale * knot.alpha)


@dataclass(frozen=True)
class Focus(LevelAxis):
    """An axis that stretches log rho between two noise levels.

    A grid uniform on this axis has a density over log rho of 1 between `low` and `high`, and of
    `floor` far outside, with logistic edges:

        floor + 1/(1 + (low/rho)^(1/edge)) - 1/(1 + (high/rho)^(1/edge))

    Most of the steps lie at noise levels where data take shape; elsewhere steps become longer
    smoothly. Predictions are smooth along this axis, so polynomials in it may have a high order.

    Attributes:
        low, high: the ends of the range of rho with dense steps.
        edge: width of the transitions, in log rho.
        floor: density far outside the range.
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

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`; rises with the noise."""
        above, below = (
            softplus((log_rho - math.log(rho)) * (1 / self.edge)) for rho in (self.low, self.high)
        )
        return self.floor * log_rho + self.edge * (above - below)

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`. By bisection: value - floor * log_rho is between 0 and log(high/low)."""
        high = value * (1 / self.floor)
        low = high - math.log(self.high / self.low) / self.floor
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            under = self.value(middle) < value
            if isinstance(middle, Tensor):
                low = torch.where(torch.as_tensor(under), middle, low)
                high = torch.where(torch.as_tensor(under), high, middle)
            else:
                low, high = (middle, high) if under else (low, middle)
        return 0.5 * (low + high)


TIME, LAMBDA, LOG_RHO, RHO, ANGLE = (
    TimeAxis(), LambdaAxis(), LogRhoAxis(), RhoAxis(), AngleAxis(),
)  # fmt: skip

AXES: dict[str, Axis] = {
    "t": TIME,
    "lambda": LAMBDA,
    "log_rho": LOG_RHO,
    "rho": RHO,
    "angle": ANGLE,
}


def axis(name: str | Axis, kind: str = "axis") -> Axis:
    """The axis with this name; an `Axis` is returned as it is.

    Args:
        name: a key of `AXES`, or an `Axis`.
        kind: the word for it in error messages.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(name, Axis):
        return name
    if name not in AXES:
        raise unknown_name(kind, name, AXES)
    return AXES[name]
