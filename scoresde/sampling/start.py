"""Where sampling starts: never above the noise levels at which a network can be trusted.

The error of x0 from a network of eps or the score is rho times that of eps, which has a floor e.
Above rho = deviation / e it exceeds the deviation of the data, and no solver survives a long step
from there. A start below costs little: the mean of the data, which the start leaves out, moves the
samples by deviation / rho times itself.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from torch import Tensor

from ..errors import ConfigError, ScoreSDEWarning, ShapeError
from ..grid import Grid
from ..model import Predictor, floor_of, noise_range_of, predicts_of
from ..prediction import PredictsF
from ..scalar import scale
from ..sde import SDE
from ..sde.knot import Knot

_HOPELESS = 3.0  # times the deviation of the state
DATA_STD = 0.5
"""The deviation of the data that is assumed where it is not known: that of images in (-1, 1)."""


class FirstStepWarning(ScoreSDEWarning):
    """A grid whose first step no network of eps or the score survives."""


@dataclass(frozen=True)
class Start:
    """The highest noise level of a run, and why.

    Attributes:
        t: its time.
        rho: its sigma / alpha; infinite where alpha = 0.
        why: the reason, in words; empty where it is the end of the process.
    """

    t: float
    rho: float
    why: str = ""

    def __str__(self) -> str:
        return f"rho = {self.rho:.3g}" + (f" ({self.why})" if self.why else "")


def draw_start(model: Predictor, knot: Knot, noise: Tensor) -> Tensor:
    """A state at the first knot of a grid, made of standard normals of shape (B, *).

    N(0, sigma^2 I), or with the mean and the variance of the data where the model knows them:
    N(alpha mean, (sigma^2 + alpha^2 variance) I).
    """
    found = noise_range_of(model)
    if found is None:
        return scale(knot.sigma, noise)
    if found.mean.shape != noise.shape[1:]:
        raise ShapeError(
            f"the mean of the model's noise range has shape {tuple(found.mean.shape)}, and a "
            f"sample has {tuple(noise.shape[1:])}; measure the range on data of that shape"
        )
    deviation = math.hypot(float(knot.sigma), float(knot.alpha) * found.std)
    return scale(deviation, noise) + scale(float(knot.alpha), found.mean.to(noise))


def start_of(model: Predictor | SDE, start: float | str | None = None) -> Start:
    """Where a run of a model starts.

    Args:
        model: a model, or its process alone.
        start: rho = sigma / alpha; "end" for the end of the process; None for the library's choice:
            the highest level that is trusted (`model.with_range`), or for networks that predict eps
            or the score the level at which the error of their x0 reaches the deviation of the data,
            or the end of the process.

    Raises:
        ConfigError: for a level that the process does not reach.
    """
    sde = process_of(model)
    end = sde.at(sde.t_max)
    last = Start(sde.t_max, math.inf if end.is_zero_snr else float(end.rho))
    if start == "end":
        return last
    if start is not None:
        return _given(sde, last, start)
    found = noise_range_of(model)
    if found is not None and found.high < last.rho:
        why = f"the highest level that is trusted; the process ends at {last.rho:.3g}"
        return Start(_time(sde, found.high), found.high, why)
    predicts, floor, std = predicts_of(model), floor_of(model), data_std_of(model)
    if predicts is None or predicts.bounds_x0 or floor == 0.0:
        return last
    deviation = DATA_STD if std is None else std
    high = deviation / floor
    if high >= last.rho:
        return last
    assumed = "an assumed" if std is None else "a"
    why = (
        f"above it an error of {floor:.2g} in eps exceeds, in x0, {assumed} deviation of "
        f"{deviation:.2g} of the data; the process ends at {last.rho:.3g}"
    )
    return Start(_time(sde, high), high, why)


def process_of(model: Predictor | SDE) -> SDE:
    """The process of a model, or the process itself."""
    return model if isinstance(model, SDE) else model.sde


def at_knot(knot: Knot) -> Start:
    """The start of a grid that the user made."""
    return Start(float(knot.t), math.inf if knot.is_zero_snr else float(knot.rho))


def warn_of_leap(model: Predictor, grid: Grid) -> None:
    """Warn if a grid starts above the trusted levels, or if its first step is hopeless.

    Hopeless is a step that carries far more error of the network than signal.

    A step from rho to a lower level r moves x / alpha by (rho - r) eps, and the error e of eps with
    it; the state there has the deviation sqrt(r^2 + d^2), with d that of the data.
    """
    predicts, floor = predicts_of(model), floor_of(model)
    first, second = grid.knots[:2]
    found = noise_range_of(model)
    if found is not None and float(first.rho) > 1.05 * found.high:
        warnings.warn(
            f"the grid starts at rho = {float(first.rho):.3g}, above the highest level at which "
            f"the model is trusted, {found.high:.3g}; leave the grid out, or make it with "
            f"t_max={_time(model.sde, found.high):.4g}",
            FirstStepWarning,
            stacklevel=3,
        )
        return
    if predicts is None or predicts.bounds_x0 or floor == 0.0 or first.is_zero_snr:
        return
    std = data_std_of(model) or DATA_STD
    high, low = float(first.rho), float(second.rho)
    error, state = floor * (high - low), math.hypot(low, std)
    if error > _HOPELESS * state:
        warnings.warn(
            f"the first step of the grid goes from rho = {high:.3g} to {low:.3g}: an error of "
            f"{floor:.2g} in eps becomes {error:.3g} there, and the deviation of the state is "
            f"{state:.3g}; start at rho = {std / floor:.3g} or below: leave the "
            f"grid out, or make it with t_max={_time(model.sde, min(std / floor, high)):.4g}",
            FirstStepWarning,
            stacklevel=3,
        )


def data_std_of(model: Predictor | SDE) -> float | None:
    """The standard deviation of the data, per coordinate, where a model knows it."""
    found, predicts = noise_range_of(model), predicts_of(model)
    if found is not None:
        return found.std
    return predicts.sigma_data if isinstance(predicts, PredictsF) else None


def _given(sde: SDE, last: Start, start: float | str) -> Start:
    if isinstance(start, bool) or not isinstance(start, int | float) or not 0 < start < math.inf:
        raise ConfigError(
            f"start={start!r} must be a noise level rho = sigma / alpha above 0, or 'end'"
        )
    low = float(sde.at(sde.t_min).rho)
    if not low < start <= last.rho * (1 + 1e-9):
        raise ConfigError(
            f"start={start:g} is not within the levels of the process, {low:.3g} to {last.rho:.3g}"
        )
    return Start(_time(sde, float(start)), float(start), "as asked")


def _time(sde: SDE, rho: float) -> float:
    return min(float(sde.t_at_lambda(-math.log(rho))), sde.t_max)
