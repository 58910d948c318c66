"""Is this network wrapped rightly? The loss at noise levels, and the mistake where it is wrong.

The loss of the given wrapping is compared with that of a guess which knows only the mean and the
variance of the data. Then the same network is wrapped again in every way that a known mistake
suggests, on the same data and noise. A mistake is named where its remedy has a loss that is clearly
and significantly smaller.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._internal import checks
from ..conditions import batch_of
from ..errors import ConfigError, DtypeError, NonFiniteError, ShapeError, require
from ..model import Predictor, ScoreModel, device_of
from ..sde import SDE
from . import mistakes
from .behaviour import Behaviour, undisturbed
from .best_wrapping import Candidate, search
from .off_by_one import off_by_one
from .verdict import Finding, LevelLoss, ModelCheck
from .wrapping import Asked, Wrapping, gain, log_loss, predicts_text, variance_of

_CLEAR = 0.04  # log of a loss ratio: a smaller gain is no mistake but chance, or training
_LEVEL = 0.01  # candidates this close to the best cannot be told apart
_NUMBERS = 2**17  # numbers in the data that are used: 64 images, or many points
_FEWEST, _MOST = 64, 2048
_LOWEST, _HIGHEST = 0.04, 10.0  # noise levels, in units of the deviation of the data

Said = tuple[tuple[Finding, ...], tuple[str, ...]]


@torch.no_grad()
def check_model(
    model: Predictor,
    data: Tensor,
    *,
    levels: Sequence[float] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> ModelCheck:
    """Check how a network is wrapped, and name the mistake where it is wrapped wrongly.

    It finds a time that is scaled (by 999, 1000 or 4), another quantity, reversed or off by one; a
    negated output; another parametrization, range of the data or process; a network in training
    mode, a random one, rows that depend on their neighbours in the batch, and conditions that are
    ignored. The network's modes and buffers, and torch's random generators, are left as they were.

    For images the cost is about 5,000 network evaluations of one sample each: half a minute for a
    network of a million weights on one core.

    Args:
        model: a `ScoreModel`, with its conditions bound, one row for each of the data. Of any other
            predictor the loss and the behaviour are checked, and no other wrapping is tried.
        data: true samples in the range that the network was trained on, shape (N, *). 64 images are
            used, and more data of few dimensions, at most 2,048.
        levels: noise levels rho = sigma / alpha, two or more; by default 8, about the deviation of
            the data.
        seed: of the noise.
        progress: show a bar (needs tqdm).

    Raises:
        ConfigError: for what is not a model, fewer than 16 data, data without variance, or levels
            that the process does not have.
        DtypeError: for data that are not floating point.
        ShapeError: for conditions of fewer rows than the data.
        NonFiniteError: for data with NaN or infinity.
    """
    begin = time.perf_counter()
    _check_inputs(model, data)
    n = min(len(data), max(_FEWEST, min(_MOST, _NUMBERS // data[0].numel())))
    used = data[:n].detach().to(device_of(model))
    std = math.sqrt(variance_of(used))
    chosen = [rho / std for rho in _levels(model.sde, std, levels)]
    bar = require("tqdm.auto", "cli").tqdm(desc="check") if progress else None
    net = getattr(model, "net", None)
    with undisturbed(net):
        rows = model.rows(torch.arange(n, device=used.device))
        asked = Asked(rows, used, chosen, seed, (lambda k: None) if bar is None else bar.update)
        habits, doubts = _behaviour(asked)
        candidates, (found, notes) = _wrapping(asked, seed)
    if bar is not None:
        bar.close()
    return ModelCheck(
        (*habits, *found),
        _table(asked, candidates[0]),
        (*doubts, *notes),
        asked.nfe,
        time.perf_counter() - begin,
    )


# -- the behaviour of the network -----------------------------------------------------------------


def _behaviour(asked: Asked) -> Said:
    network, found, notes = Behaviour(asked), [], []
    if off := network.mode():
        found.append(
            Finding(
                "training mode",
                "the network is in training mode, and answers otherwise in evaluation mode; all "
                "else was checked in evaluation mode",
                f"its answers differ by up to {off:.2g} of their size",
                "model.eval()",
            )
        )
    if off := network.repeats():
        found.append(
            Finding(
                "random",
                "the network answers the same input differently each time",
                f"by up to {off:.2g} of its size",
                "a network without dropout or noise of its own, such as net.eval()",
            )
        )
        return tuple(found), ("neighbours and conditions were not checked",)
    beside = network.neighbours()
    if beside is None:
        notes.append("too few data to check whether rows depend on their neighbours")
    elif beside:
        found.append(
            Finding(
                "neighbours",
                "the answer for a row depends on the other rows of the batch, as with BatchNorm "
                "without running statistics or attention across the batch",
                f"it differs by up to {beside:.2g} of its size",
                "a network that treats rows separately; otherwise no result is that of its seed",
            )
        )
    ignored, unknown = network.ignored_conditions()
    found += [
        Finding(
            "condition",
            f"the condition {name!r} is ignored by the network",
            "another value of it changes no answer",
            f"bind(...) with the name that the network reads, or leave {name!r} out",
        )
        for name in ignored
    ]
    notes += [f"whether the condition {name!r} is ignored is not known" for name in unknown]
    return tuple(found), tuple(notes)


# -- the wrapping ------------------------------------------------------------------------------


def _wrapping(asked: Asked, seed: int) -> tuple[list[Candidate], Said]:
    model, guess = asked.model, asked.guess()
    if not isinstance(model, ScoreModel):
        own = asked.own_errors()
        only = Candidate(mistakes.nothing(model.sde), own, log_loss(own, guess))
        name = type(model).__name__
        note = f"{name} is not a ScoreModel: no other wrapping was tried; check what it wraps"
        return [only], (_unknown(only, guess), (note,))
    start = mistakes.given(model)
    candidates = search(asked, start)
    given, *others = candidates
    better = gain(given.errors, others[0].errors) if others else None
    if better is None or better.mean < max(_CLEAR, 4 * better.stderr):
        unknown = _unknown(given, guess)
        return candidates, (unknown, ()) if unknown else off_by_one(asked, start, seed)
    best = others[0]
    level = [c for c in others if _is_level(c, best)]
    named = min(level, key=_plainness)
    size = len(named.wrapping.mistakes)
    if named.score > math.log(1.05 if size == 1 else 0.95):
        note = f"the nearest of the wrappings tried: {_write(named.wrapping)}"
        return candidates, (_unknown(given, guess, always=True), (note,))
    evidence = (
        f"its loss is {better.factor:.3g} times as large, a geometric mean over levels; the "
        f"remedy's is {math.exp(named.score):.2g} of the guess's"
    )
    found = tuple(
        Finding(name, _message(name, start, named.wrapping), evidence, _write(named.wrapping))
        for name in named.wrapping.mistakes
    )
    alike = [_write(c.wrapping) for c in level if len(c.wrapping.mistakes) <= size]
    others_text = [text for text in dict.fromkeys(alike) if text != _write(named.wrapping)]
    notes = tuple(f"cannot be told apart from it here: {text}" for text in others_text[:4])
    return candidates, (found, notes)


def _plainness(candidate: Candidate) -> tuple[int, int, float]:
    names = candidate.wrapping.mistakes
    return len(names), max(map(mistakes.PLAIN_FIRST.index, names)), candidate.score


def _is_level(one: Candidate, best: Candidate) -> bool:
    behind = gain(one.errors, best.errors)
    return behind.mean < max(_LEVEL, 2 * behind.stderr)


def _unknown(given: Candidate, guess: Tensor, always: bool = False) -> tuple[Finding, ...]:
    """That the loss is worse than the guess's in the middle of the levels, for no known reason."""
    have = ~given.errors.isnan().any(1)
    ratios = (given.errors[have].mean(1) / guess[have]).sort().values
    middle = float(ratios[: max(1, len(ratios) // 2)].log().mean().exp()) if len(ratios) else 1e9
    if middle < 1.05 and not always:
        return ()
    return (
        Finding(
            "unknown",
            "the model is worse than a guess that knows only the mean and the variance of the "
            "data, and none of the known mistakes explains it",
            f"at the better half of the levels its loss is {middle:.3g} times that of the guess",
            "process, `predicts`, `time` and range of the data as in the code that trained it",
        ),
    )


def _message(name: str, given: Wrapping, right: Wrapping) -> str:
    told, better = given.told.text, right.told.text
    return {
        mistakes.SCALE: f"the time is scaled wrongly: told {told}, trained with {better}",
        mistakes.QUANTITY: f"the network is told another time, {told}, than {better}",
        mistakes.REVERSED: "time runs the other way: the network counts it from the other end",
        mistakes.SIGN: "the output has the opposite sign",
        mistakes.PREDICTS: (
            f"the network does not predict {predicts_text(given.predicts)} but "
            f"{predicts_text(right.predicts)}"
        ),
        mistakes.DATA: f"the data are in another range than it was trained on: {right.data.text}",
        mistakes.PROCESS: f"the process is {right.sde_text}, not {given.sde!r}",
    }[name]


def _write(wrapping: Wrapping) -> str:
    if mistakes.DATA not in wrapping.mistakes:
        return wrapping.text()
    rest = [name for name in wrapping.mistakes if name != mistakes.DATA]
    return f"{wrapping.data.text} for data" + (f", and {wrapping.text()}" if rest else "")


# -- levels and checks at the door -----------------------------------------------------------------


def _table(asked: Asked, given: Candidate) -> tuple[LevelLoss, ...]:
    n = given.errors.shape[1]
    return tuple(
        LevelLoss(rho, float(row.mean()), float(row.std()) / math.sqrt(n), float(guess))
        for rho, row, guess in zip(asked.rhos(), given.errors, asked.guess(), strict=True)
    )


def _levels(sde: SDE, std: float, levels: Sequence[float] | None) -> list[float]:
    end = sde.at(sde.t_max)
    low = float(sde.at(sde.t_min).rho) if sde.t_min > 0 or sde.at(0.0).sigma > 0 else 0.0
    high = math.inf if end.is_zero_snr else float(end.rho)
    if levels is None:
        first, last = max(low * 1.01, _LOWEST * std), min(high * 0.99, _HIGHEST * std)
        if not first < last:
            raise ConfigError(
                f"the process has noise levels rho from {low:.3g} to {high:.3g}, none of which is "
                f"near the deviation of the data, {std:.3g}; pass the data in the range that the "
                "network was trained on"
            )
        return [float(rho) for rho in np.geomspace(first, last, 8)]
    given = sorted(float(rho) for rho in levels)
    if len(given) < 2 or not low <= given[0] <= given[-1] <= high:
        raise ConfigError(
            f"levels are two or more noise levels rho = sigma / alpha from {low:.3g} to "
            f"{high:.3g}, got {given}; leave them out for 8 of them"
        )
    return given


def _check_inputs(model: Any, data: Any) -> None:
    checks.check_model(model)
    if isinstance(data, Tensor) and not data.is_floating_point():
        raise DtypeError(
            f"the data must be in the range that the network was trained on, got {data.dtype}; "
            "write data.float() / 127.5 - 1 for images in (-1, 1), data.float() / 255 in (0, 1)"
        )
    checks.check_batch(data, "the data")
    if len(data) < 16:
        raise ConfigError(f"a check needs 16 data or more, got {len(data)}; 64 images suffice")
    if not data.isfinite().all():
        raise NonFiniteError("the data have NaN or infinity in them; leave those rows out")
    if not variance_of(data) > 0:
        raise ConfigError("the data are all the same; pass different samples")
    for rows in batch_of(getattr(model, "conditions", {})):
        if rows < len(data):
            raise ShapeError(
                f"a condition has {rows} rows for {len(data)} data; bind one row for each of them, "
                f"or pass data[:{rows}]"
            )
