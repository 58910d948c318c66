"""Mistakes in wrapping a network, as the wrappings that would be right if they were made.

Each candidate differs from the given wrapping in what the network receives: the time, the process,
the range of the data, the scale of its input. What the output means is tried for each of them
without a further evaluation (`readings`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor

from ..errors import ScoreSDEError
from ..model import ScoreModel
from ..prediction import Parametrization, PredictsF, parametrization
from ..scalar import Scalar
from ..sde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    DiscreteVPSDE,
    FlowSDE,
    SubVPSDE,
    TrigonometricSDE,
    cosine_betas,
    linear_betas,
    sigmoid_betas,
)
from ..sde.knot import Knot
from ..time_input import ScaledTime
from .times_told import (
    NAMED,
    QUANTITIES,
    known_factor,
    reversed_time,
    scaled_time,
    slope_of,
    time_text,
    told_as,
)
from .wrapping import DataMap, Told, Wrapping

SCALE = "time scale"
QUANTITY = "time quantity"
REVERSED = "time reversed"
SHIFT = "time off by one"
SIGN = "sign"
PREDICTS = "parametrization"
DATA = "data range"
PROCESS = "process"

PLAIN_FIRST = (SIGN, PREDICTS, SCALE, REVERSED, DATA, PROCESS, QUANTITY)
"""Of mistakes that cannot be told apart, which is named: the plainest."""

FACTORS = (999.0, 1000.0, 4.0, 0.25, 1e-3, 1 / 999)
_PARAMETRIZATIONS = ("eps", "x0", "score", "v", "flow")


def given(model: ScoreModel) -> Wrapping:
    """The wrapping as the user made it."""
    told = Told(model.time, time_text(model.time))
    return Wrapping(model.sde, "model.sde", told, model.predicts)


def nothing(sde: SDE) -> Wrapping:
    """A wrapping of which only the process is known."""
    return Wrapping(sde, "model.sde", Told(ScaledTime(), "model.time"), parametrization("eps"))


def inputs(start: Wrapping, data: Tensor) -> list[Wrapping]:
    """Every candidate for what the network receives, the given one first, each once."""
    found = [start]
    for told, mistake in times(start):
        found.append(replace(start, told=told, mistakes=(mistake,)))
    for sde, text in processes(start.sde):
        for told, also in carried(start, sde):
            made = replace(start, sde=sde, sde_text=text, told=told, mistakes=(PROCESS, *also))
            found.append(replace(made, predicts=_rebound(start.predicts, sde)))
    found += [replace(start, data=moved, mistakes=(DATA,)) for moved in data_maps(data)]
    found += input_scales(start, data)
    return _distinct(found)


def input_scales(start: Wrapping, data: Tensor) -> list[Wrapping]:
    """The same with the scaled input of EDM's F, or without it."""
    if isinstance(start.predicts, PredictsF):
        plain = replace(start, predicts=parametrization("eps"), mistakes=(PREDICTS,))
        return [plain, *_scaled(start, data)]
    times: list[tuple[Told, tuple[str, ...]]] = [(start.told, (PREDICTS,))]
    if not _sametold_as(start, start.told, NAMED["c_noise"]):
        times.append((NAMED["c_noise"], (PREDICTS, QUANTITY)))
    scaled = _scaled(start, data)
    return [replace(w, told=told, mistakes=why) for told, why in times for w in scaled]


def _scaled(start: Wrapping, data: Tensor) -> list[Wrapping]:
    deviation = round(float(data.double().var(0).mean().sqrt()), 2)
    tried = sorted({0.5, 1.0, max(deviation, 0.01)})
    made = [replace(start, predicts=PredictsF(d), mistakes=(PREDICTS,)) for d in tried]
    return [wrapping for wrapping in made if wrapping.predicts != start.predicts]


def readings(wrapping: Wrapping, start: Wrapping) -> list[Wrapping]:
    """The ways to read one output: every parametrization of the same input, and its negative."""
    scaled = isinstance(wrapping.predicts, PredictsF)
    kinds: list[Parametrization] = [wrapping.predicts]
    if not scaled:
        kinds += [parametrization(name, wrapping.sde) for name in _PARAMETRIZATIONS]
    found = []
    for kind in dict.fromkeys(kinds):
        for sign in (1.0, -1.0):
            rest = [m for m in wrapping.mistakes if m not in (PREDICTS, SIGN)]
            changed = kind != _rebound(start.predicts, wrapping.sde)
            why = [*rest, *([PREDICTS] if changed else []), *([SIGN] if sign < 0 else [])]
            found.append(replace(wrapping, predicts=kind, sign=sign, mistakes=tuple(why)))
    return found


# -- times -------------------------------------------------------------------------------------


def times(start: Wrapping) -> Iterator[tuple[Told, str]]:
    """Other times for the same process, with the name of the mistake."""
    time = start.told.time
    of = time.of if isinstance(time, ScaledTime) else "t" if slope_of(start) else ""
    for factor in FACTORS:
        yield scaled_time(start.told, factor), SCALE
    if (turned := reversed_time(start)) is not None:
        yield turned, REVERSED
    others = [*NAMED.values(), *_natural(start.sde)]
    if isinstance(time, ScaledTime) and time.factor != 1.0:
        others += [told_as(time.factor, of) for of in QUANTITIES]
    for told in others:
        same = isinstance(told.time, ScaledTime) and told.time.of == of
        yield told, SCALE if same else QUANTITY


def _natural(sde: SDE) -> list[Told]:
    """How networks of a process are usually told the time."""
    if isinstance(sde, DiscreteVPSDE):
        return [told_as(1.0, "t")]
    if isinstance(sde, EDMSDE | VESDE):
        return [NAMED[name] for name in ("sigma", "log_sigma", "c_noise")]
    return [told_as(factor, "t") for factor in (1.0, 999.0, 1000.0)]


def _sametold_as(start: Wrapping, one: Told, other: Told) -> bool:
    return _signature(replace(start, told=one)) == _signature(replace(start, told=other))


# -- processes ---------------------------------------------------------------------------------


def processes(sde: SDE) -> Iterator[tuple[SDE, str]]:
    """Processes that a network may come from, with what to write for them."""
    for kind in (VPSDE, SubVPSDE, CosineVPSDE, FlowSDE, TrigonometricSDE, EDMSDE, VESDE):
        yield kind(), f"{kind.__name__}()"
    n = len(sde.log_alphas) if isinstance(sde, DiscreteVPSDE) else 1000
    square = np.linspace(0.00085**0.5, 0.012**0.5, n) ** 2 * (1000 / n)
    tables = {
        f"linear_betas({n})": linear_betas(n),
        f"cosine_betas({n})": cosine_betas(n),
        f"sigmoid_betas({n})": sigmoid_betas(n),
        f"np.linspace(0.00085**0.5, 0.012**0.5, {n}) ** 2": square,
    }
    for text, betas in tables.items():
        yield DiscreteVPSDE.from_betas(betas), f"DiscreteVPSDE.from_betas({text})"
    for text in (f"linear_betas({n})", f"np.linspace(0.00085**0.5, 0.012**0.5, {n}) ** 2"):
        root = np.sqrt(np.cumprod(1 - tables[text]))
        root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        words = f"DiscreteVPSDE of {text} rescaled to zero terminal SNR"
        yield DiscreteVPSDE.from_alphas_cumprod(root**2), words


def carried(start: Wrapping, sde: SDE) -> Iterator[tuple[Told, tuple[str, ...]]]:
    """Times for another process: the usual ones, and that of the given one in the same numbers."""
    slope = slope_of(start)
    same = None if slope is None else slope * start.sde.t_max / _end(sde)
    for told in _natural(sde):
        time = told.time
        as_given = (
            same is not None
            and isinstance(time, ScaledTime)
            and time.of == "t"
            and math.isclose(time.factor, same, rel_tol=0.01)
        )
        yield told, () if as_given else (QUANTITY,)
    if same is None:
        yield start.told, ()
    elif not isinstance(sde, EDMSDE | VESDE):
        yield told_as(known_factor(same), "t"), ()


def _end(sde: SDE) -> float:
    """The largest time, where the process is not stopped just before it."""
    return 1.0 if abs(sde.t_max - 1.0) < 0.01 else sde.t_max


def _rebound(predicts: Parametrization, sde: SDE) -> Parametrization:
    """The same kind of output for another process: a velocity is that of its process."""
    return parametrization("flow", sde) if hasattr(predicts, "sde") else predicts


# -- data --------------------------------------------------------------------------------------


def data_maps(data: Tensor) -> Iterator[DataMap]:
    """Other ranges that the network may have been trained on."""
    low, high = float(data.min()), float(data.max())
    mean, std = float(data.mean()), float(data.std())
    if low >= 0 and high <= 1.01:
        yield DataMap(2.0, -1.0, "2 * data - 1")
        yield DataMap(255.0, 0.0, "255 * data")
    elif low >= -1.01 and high <= 1.01:
        yield DataMap(0.5, 0.5, "(data + 1) / 2")
        yield DataMap(127.5, 127.5, "127.5 * (data + 1)")
    elif low >= 0 and 2 < high <= 256:
        yield DataMap(1 / 127.5, -1.0, "data / 127.5 - 1")
        yield DataMap(1 / 255, 0.0, "data / 255")
    else:
        yield DataMap(2.0, -1.0, "2 * data - 1")
        yield DataMap(0.5, 0.5, "(data + 1) / 2")
    yield DataMap(1 / std, -mean / std, f"(data - {mean:.4g}) / {std:.4g}")
    yield DataMap(2.0, 0.0, "2 * data")
    yield DataMap(0.5, 0.0, "data / 2")


# -- candidates that come to the same ----------------------------------------------------------


def _signature(wrapping: Wrapping) -> tuple[float, ...] | None:
    """What the network receives at four levels, rounded: equal for inputs that are the same."""
    found: list[float] = [wrapping.data.scale, round(wrapping.data.shift, 9)]
    for rho in (0.05, 0.4, 2.0, 8.0):
        try:
            knot: Knot = wrapping.sde.at_rho(rho)
            parts: list[Scalar] = [knot.alpha, knot.sigma, wrapping.told.time(knot)]
            parts.append(wrapping.predicts.input_scale(knot))
            found += [float(f"{float(part):.5g}") for part in parts]
        except (ScoreSDEError, ArithmeticError, ValueError, TypeError):
            found.append(math.nan)
    return tuple(found)


def _distinct(wrappings: list[Wrapping]) -> list[Wrapping]:
    seen: dict[str, Wrapping] = {}
    for wrapping in wrappings:
        seen.setdefault(repr(_signature(wrapping)), wrapping)
    return list(seen.values())
