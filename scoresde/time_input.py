"""Time conventions: the number that a network receives as its time.

A convention is a callable `Knot -> Scalar`. Those of this module are frozen values, so that a
model can be saved with its convention. Your own function of the knot works too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from torch import Tensor

from ._internal.plain_data import from_plain, to_plain
from .axis import AXES
from .errors import ConfigError, unknown_name
from .scalar import Scalar
from .sde import SDE, DiscreteVPSDE
from .sde.knot import Knot

TimeInput = Callable[[Knot], Scalar]


@dataclass(frozen=True)
class ScaledTime:
    """The time convention `factor` times a quantity of the knot.

    The quantity is one of the axes "t", "lambda", "log_rho", "rho" and "angle" (see
    `scoresde.axis`), or "sigma" or "log_sigma". Networks of score_sde for VP and sub-VP expect
    `ScaledTime(999)`.
    """

    factor: float = 1.0
    of: str = "t"

    def __post_init__(self) -> None:
        if self.of not in _QUANTITIES:
            raise unknown_name("quantity of time", self.of, _QUANTITIES)

    def __call__(self, knot: Knot) -> Scalar:
        """The number that the network receives."""
        return self.factor * _QUANTITIES[self.of](knot)


@dataclass(frozen=True)
class IndexTime:
    """The nearest integer index 0 .. n-1, for networks with an embedding table.

    Rounding limits the accuracy: the error of any solver stays near 1e-3. For a network that
    accepts real times use `"t"` with a `DiscreteVPSDE`, or `ScaledTime(n - 1)`.

    Attributes:
        n: number of entries in the table.
        t_max: the time of the last entry; n - 1 for a `DiscreteVPSDE`, 1 for other processes.
    """

    n: int = 1000
    t_max: float = 1.0

    def __call__(self, knot: Knot) -> Scalar:
        """The index, as a whole number."""
        value = knot.t * ((self.n - 1) / self.t_max)
        return value.round().long() if isinstance(value, Tensor) else round(value)


_QUANTITIES: dict[str, Callable[[Knot], Scalar]] = {
    **{name: along.read for name, along in AXES.items()},
    "sigma": lambda k: k.sigma,
    "log_sigma": lambda k: k.log_sigma,
}

_LARGEST = 1e4  # larger times are a mistake: networks receive indices of about 1000 at most

_BY_NAME: dict[str, TimeInput] = {
    **{name: ScaledTime(1.0, name) for name in _QUANTITIES},
    "c_noise": ScaledTime(0.25, "log_rho"),
}


def time_input(time: str | TimeInput | None, sde: SDE) -> TimeInput:
    """The convention with this name, or for None the process's own.

    Raises:
        ConfigError: for an unknown name; for an `IndexTime` whose table ends before the process's
            t_max; for None with a process that has no convention of its own. Networks for such a
            process receive t or 999 t, and the wrong one gives noise without an error.
    """
    if time is None:
        if sde.own_time:
            return time_input(sde.own_time, sde)
        raise ConfigError(
            f"networks for {type(sde).__name__} have different time conventions, and a wrong one "
            "fails silently; write the one that yours was trained with: time='t' for t, "
            "time=ScaledTime(999) for score_sde and most DDPM code, time=IndexTime(1000) for an "
            "embedding table, time='sigma', time='log_sigma', time='c_noise' for EDM, or your own "
            "function of the knot"
        )
    if isinstance(time, str):
        if time == "index":
            return IndexTime(int(sde.t_max) + 1, sde.t_max) if sde.t_max > 1 else IndexTime()
        if time not in _BY_NAME:
            raise unknown_name("time convention", time, [*_BY_NAME, "index"])
        return _BY_NAME[time]
    if not callable(time):
        raise ConfigError(f"time must be a name or a function of a Knot, got {time!r}")
    if isinstance(sde, DiscreteVPSDE) and isinstance(time, ScaledTime) and time.of == "t":
        largest = time.factor * sde.t_max
        if largest > _LARGEST:
            raise ConfigError(
                f"the t of a DiscreteVPSDE is the index, up to {sde.t_max:g}: with ScaledTime("
                f"{time.factor:g}) the network gets times up to {largest:g}; write time='t', "
                "or VPSDE() with ScaledTime(999) for a network of continuous time"
            )
    if isinstance(time, IndexTime) and sde.t_max > time.t_max * (1 + 1e-9):
        raise ConfigError(
            f"index({time.n}) has entries for times up to {time.t_max:g}, but "
            f"{type(sde).__name__} has times up to {sde.t_max:g}; write time='index', or "
            f"index({time.n}, t_max={sde.t_max:g})"
        )
    return time


def to_dict(time: TimeInput) -> dict[str, Any]:
    """The convention as JSON-able data.

    Raises:
        ConfigError: for your own function, if it is not a frozen dataclass.
    """
    if not is_dataclass(time) or isinstance(time, type):
        raise ConfigError(
            f"the time convention {time!r} has no JSON form; write it as a frozen dataclass with "
            "__call__(self, knot), as ScaledTime is"
        )
    data: dict[str, Any] = to_plain(time)
    return data


def from_dict(data: str | dict[str, Any], *, known: Sequence[type] = ()) -> TimeInput | str:
    """The convention that `to_dict` wrote; a name such as "log_rho" is returned as it is.

    Args:
        data: the name of the class and its fields.
        known: your own classes that the data may name.

    Raises:
        ConfigError: for a name that is neither the library's nor that of a class in `known`.
    """
    if isinstance(data, str):
        return data
    made: TimeInput = from_plain("time convention", data, [ScaledTime, IndexTime, *known])
    return made
