"""Axes along the noise level: one variable each, monotone in it.

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

_HALVINGS = 80  # enough to bring any bracket down to neighbouring floats


class Axis(ABC):
    """One variable along the noise level: a frozen value. Scalars are floats or float64 tensors."""

    at_zero_snr: ClassVar[bool] = False
    """Whether the value is finite where alpha = 0."""

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
        """The value at a knot; may be infinite at alpha = 0 and at the clean end."""


@dataclass(frozen=True)
class TimeAxis(Axis):
    """t."""

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
    """An axis that is a function of the noise level alone, the same for every process."""

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
    """Half log-SNR, which falls as the noise rises."""

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return -log_rho

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return -value


@dataclass(frozen=True)
class LogRhoAxis(LevelAxis):
    """log(sigma/alpha)."""

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return log_rho

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return value


@dataclass(frozen=True)
class RhoAxis(LevelAxis):
    """sigma/alpha, the sigma of EDM."""

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return exp(log_rho)

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return log(value)


@dataclass(frozen=True)
class AngleAxis(LevelAxis):
    """atan(sigma / (d alpha)), from 0 at the clean end to pi/2 where alpha = 0.

    Attributes:
        scale: d; 1 for the axis called "angle".
    """

    scale: float = 1.0

    at_zero_snr = True

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`."""
        return atan2(exp(log_rho), self.scale)

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`. tan(pi/2) is finite in floating point: such angles are the noisy end to
        round-off.
        """
        tangent = value.tan() if isinstance(value, Tensor) else math.tan(value)
        return log(tangent * self.scale)

    def read(self, knot: Knot) -> Scalar:
        """See `Axis`."""
        return atan2(knot.sigma, self.scale * knot.alpha)


@dataclass(frozen=True)
class Focus(LevelAxis):
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

    def value(self, log_rho: Scalar) -> Scalar:
        """See `LevelAxis`; rises with the noise."""
        above, below = (
            softplus((log_rho - math.log(rho)) * (1 / self.edge)) for rho in (self.low, self.high)
        )
        return self.floor * log_rho + self.edge * (above - below)

    def log_rho(self, value: Scalar) -> Scalar:
        """See `LevelAxis`: by bisection. The value differs from floor * log_rho by 0 at least and
        by log(high/low) at most.
        """
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
    """The axis with this name; an `Axis` is itself.

    Args:
        name: a key of `AXES`, or an `Axis`.
        kind: what an error calls it.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(name, Axis):
        return name
    if name not in AXES:
        raise unknown_name(kind, name, AXES)
    return AXES[name]
