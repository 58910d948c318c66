"""Whether the time that a network is told is one index off.

Told i + s in place of i, a network has the loss of a noise level that is slightly wrong: a parabola
in s, least where the time is right. Its lowest point is estimated at low noise, where one index is
a large part of the noise level, with an interval over the data.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..noise import generator
from .mistakes import SHIFT
from .times_told import shifted_time, slope_of
from .verdict import Finding
from .wrapping import Asked, Wrapping

_SHIFTS = (-2, -1, 0, 1, 2)
_INDICES = (4, 8, 16, 32)
_RESAMPLES = 200
_ONE = 0.5, 1.8  # shifts within which an interval says "off by one"; further is the network's bias


def off_by_one(
    asked: Asked, start: Wrapping, seed: int
) -> tuple[tuple[Finding, ...], tuple[str, ...]]:
    """What is wrong with the index, and a note where it cannot be told.

    Nothing is said of a network that is not told a multiple of t.
    """
    slope = slope_of(start)
    if slope is None:
        return (), ()
    sde = start.sde
    unit = 1.0 if slope * sde.t_max >= 50 else slope * sde.t_max / 1000
    first = sde.t_min if sde.t_min * slope < unit else 0.0
    knots = [sde.at(first + k * unit / slope) for k in _INDICES if k * unit / slope < sde.t_max / 4]
    if len(knots) < 2:
        return (), ()
    low = asked.other([float(knot.rho) / asked.std for knot in knots], seed)
    tables = []
    for by in _SHIFTS:
        moved = replace(start, told=shifted_time(start.told, by * unit)) if by else start
        found = low.errors(moved, [moved], len(low.data))
        if found is None or found[0].isnan().any():
            return (), ()
        tables.append(found[0])
    asked.nfe += low.nfe
    place, below, above = lowest_point(torch.stack(tables), seed)
    words = (
        f"the loss is least at a shift of {place:+.2f}, 95% interval {below:+.2f} to {above:+.2f}"
    )
    step = "1" if unit == 1.0 else f"{unit:.3g}"
    far = _ONE[0] < below <= above < _ONE[1] or -_ONE[1] < below <= above < -_ONE[0]
    if far:
        missing = unit if place > 0 else -unit
        size = "small" if missing > 0 else "large"
        write = replace(start, told=shifted_time(start.told, missing)).text()
        message = f"the time that the network is told is off by one, {step} too {size}"
        return (Finding(SHIFT, message, words, write),), ()
    if above > 0.5 or below < -0.5:
        return (), (f"an index and its neighbour cannot be told apart on this network: {words}",)
    return (), ()


def lowest_point(errors: Tensor, seed: int = 0) -> tuple[float, float, float]:
    """Where the loss is least as a function of the shift, with a 95% interval over the data.

    Args:
        errors: squared errors, shape (5, levels, n), at the shifts -2 to 2.
        seed: of the resampling.

    Returns:
        The shift, the ends of its interval; within [-2, 2].
    """
    n = errors.shape[-1]
    draw = generator("off_by_one", seed)
    index = torch.randint(n, (_RESAMPLES, n), generator=draw)
    points = sorted(_vertex(errors[..., rows]) for rows in index)
    cut = round(0.025 * _RESAMPLES)
    return _vertex(errors), points[cut], points[-1 - cut]


def _vertex(errors: Tensor) -> float:
    losses = errors.mean(-1).log().mean(1)  # (5,)
    at = min(max(int(losses.argmin()), 1), len(_SHIFTS) - 2)
    left, middle, right = (float(losses[at + k]) for k in (-1, 0, 1))
    bend = left + right - 2 * middle
    shift = 0.5 * (left - right) / bend if bend > 0 else (1.0 if left > right else -1.0)
    return min(max(_SHIFTS[at] + shift, -2.0), 2.0)
