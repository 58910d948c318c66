"""The command `scoresde tune`."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import tune as tuning
from .._internal import specs
from ..errors import ConfigError
from . import measuring, models
from .work import check_device, shape_of_event

_BENCHED = 4000  # the first held-out digits, which `scoresde bench mnist` compares with


def tune(
    *,
    model: str,
    out: Path,
    solver: str,
    nfe: int,
    starts: int | None,
    held_out: int | None,
    rounds: int | None,
    metric: str,
    truth: str,
    truths: int | None,
    features: str,
    seed: int,
    dtype: str,
    event_shape: str,
    process: str,
    device: str,
) -> None:
    """`scoresde tune`."""
    if out.is_dir():
        raise ConfigError(f"{str(out)!r} is a folder; write --out {out / 'grid.json'}")
    out.parent.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work
    found = models.load(model, process=process, device=check_device(device))
    event = shape_of_event(event_shape, found)
    distance = None
    if metric:
        skipped = _BENCHED if model == "mnist" and not truth else 0
        truth, features = measuring.at_hand(model, truth, features, [metric])
        distance = measuring.distance(
            metric, found.model, event, truth=truth, skipped=skipped,
            truths=truths or measuring.TRUTHS,
            features=features, seed=seed, device=device,
        )  # fmt: skip
    elif truth or truths is not None or features:
        raise ConfigError("--truth, --truths and --features need a --metric; write --metric energy")
    tuned = tuning.tune(
        found.model,
        solver if specs.is_pair(solver) else specs.solver(solver, own=True),
        nfe,
        event_shape=event,
        starts=starts,
        held_out=held_out,
        seed=seed,
        dtype=getattr(torch, dtype),
        rounds=rounds,
        metric=distance,
        progress=True,
    )
    tuned.save(out)
    print(tuned)
    print(f"the search took {tuned.cost:,} evaluations of one sample; wrote {out}")
