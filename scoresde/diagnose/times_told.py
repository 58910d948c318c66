"""How a network is told the time, as candidates: scaled, shifted, reversed, of another quantity."""

from __future__ import annotations

import math

from ..errors import ScoreSDEError
from ..time_input import IndexTime, ScaledTime, TimeInput
from .wrapping import Told, Wrapping


def time_text(time: TimeInput) -> str:
    """What to write for a time convention."""
    if isinstance(time, ScaledTime):
        if time == ScaledTime(0.25, "log_rho"):
            return '"c_noise"'
        if time.factor == 1.0:
            return f'"{time.of}"'
        of = "" if time.of == "t" else f', "{time.of}"'
        return f"ScaledTime({time.factor:.6g}{of})"
    if isinstance(time, IndexTime):
        return f"IndexTime({time.n}, t_max={time.t_max:g})"
    return "model.time"


def told_as(factor: float, of: str) -> Told:
    """`factor` times a quantity of the knot."""
    time = ScaledTime(factor, of)
    return Told(time, time_text(time))


NAMED: dict[str, Told] = {
    **{of: told_as(1.0, of) for of in ("t", "sigma", "log_sigma", "rho", "log_rho", "lambda")},
    "c_noise": told_as(0.25, "log_rho"),
    "log-SNR": told_as(2.0, "lambda"),
}
QUANTITIES = ("t", "sigma", "log_sigma", "rho", "log_rho", "lambda")


def known_factor(factor: float) -> float:
    """The factor, without the round-off of a product that should be one of the usual ones."""
    for exact in (1.0, 0.25, 4.0, 999.0, 1000.0):
        if math.isclose(factor, exact, rel_tol=1e-9):
            return exact
    return factor


def scaled_time(told: Told, factor: float) -> Told:
    """The same time, multiplied."""
    time = told.time
    if isinstance(time, ScaledTime):
        return told_as(known_factor(time.factor * factor), time.of)
    words = f"lambda knot: {factor:.6g} * {_words(told)}"
    return Told(lambda knot: factor * time(knot), words)


def shifted_time(told: Told, by: float) -> Told:
    """The same time with a number added."""
    time = told.time
    words = f"lambda knot: {_words(told)} {'+-'[by < 0]} {abs(by):g}"
    return Told(lambda knot: time(knot) + by, words)


def reversed_time(start: Wrapping) -> Told | None:
    """The time counted from the other end; None where it is not a finite number at both ends."""
    line, time, sde = _line(start), start.told.time, start.sde
    try:
        ends = float(time(sde.at(sde.t_min))), float(time(sde.at(sde.t_max)))
    except (ScoreSDEError, ArithmeticError, ValueError, TypeError):
        return None
    both = sum(ends)
    if line is not None:  # to the whole numbers that are meant
        top = sde.t_max
        both = 2 * line[0] + line[1] * (round(top) if abs(top - round(top)) < 0.01 else top)
    if not math.isfinite(both):
        return None
    words = f"lambda knot: {both:g} - {_words(start.told)}"
    return Told(lambda knot: both - time(knot), words)


def slope_of(start: Wrapping) -> float | None:
    """d(time told) / dt where the network is told a multiple of t, up to an index; else None."""
    line = _line(start)
    if line is None:
        return None
    first, slope = line
    return slope if slope > 0 and abs(first) < 3e-3 * slope * start.sde.t_max else None


def _line(start: Wrapping) -> tuple[float, float] | None:
    """The time told at t = 0 and its slope, where it is linear in t; else None."""
    sde, time = start.sde, start.told.time
    try:
        ends = [sde.t_min + share * (sde.t_max - sde.t_min) for share in (0.1, 0.4, 0.9)]
        values = [float(time(sde.at(t))) for t in ends]
    except (ScoreSDEError, ArithmeticError, ValueError, TypeError):
        return None
    slope = (values[2] - values[0]) / (ends[2] - ends[0])
    first = values[0] - slope * ends[0]
    off = abs(first + slope * ends[1] - values[1])
    return (first, slope) if abs(slope) > 0 and off < 1e-3 * abs(slope) * sde.t_max else None


def _words(told: Told) -> str:
    """The time as an expression of a knot."""
    time = told.time
    if isinstance(time, ScaledTime) and time.of == "t":
        return "knot.t" if time.factor == 1.0 else f"{time.factor:g} * knot.t"
    return "model.time(knot)"
