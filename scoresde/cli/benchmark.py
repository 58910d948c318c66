"""What `scoresde bench` does."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from .. import tune as tuning
from ..bench import Fixed, compare, recommendations, write
from ..bench.schedule import share
from ..bench.tasks import Row
from ..data import dequantize
from ..errors import ConfigError, unknown_name
from ..features import Features, digit_features, inception_features
from ..model import Predictor
from . import models
from .work import check_device, event_shape, read_images

_SELECTION = (
    "recommended",
    "DDIM",
    "Heun",
    "DPMSolverPP(order=2)",
    "DPMSolverPP(order=3)",
    "DEIS",
    "IPNDM",
    "UniPC",
    "Ancestral",
    "SASolver",
)
_ALL = "all"


def bench(
    *,
    model: str,
    out: Path,
    solvers: Sequence[str],
    grids: Sequence[str],
    peers: Sequence[str],
    peers_from: str,
    metrics: Sequence[str],
    features: str,
    nfe: str,
    samples: int,
    truth: str,
    truths: int,
    seed: int,
    tolerance: float | None,
    jobs: int,
    dtype: str,
    shape: str,
    processes: Sequence[str],
    device: str,
) -> None:
    """`scoresde bench`."""
    check_device(device)
    named = {spec: models.load(model, process=spec, device=device) for spec in processes}
    found = next(iter(named.values()))
    alone = len(named) == 1
    rows: list[Row] = [_row(spec, found.model) for spec in solvers or _SELECTION]
    others, absent = _peers(peers, peers_from)
    if model == "mnist":  # what is at hand for the shipped network
        truth, features = truth or "heldout", features or "digits"
    extract = _features(features, device) if features else None
    table = compare(
        found.model if alone else {spec: one.model for spec, one in named.items()},
        rows + others,
        nfe=_whole_numbers(nfe),
        metric=list(metrics) or None,
        grids=grids,
        truth=_truth(truth, samples, truths, seed) if truth else None,
        features=extract,
        samples=samples,
        shape=event_shape(shape, found),
        first_seed=seed,
        dtype=getattr(torch, dtype),
        tolerance=tolerance,
        absent=absent,
        cache=out / "cells",
        jobs=jobs,
        progress=share()[0] == 0,
    )
    if share()[0] > 0:  # the first process of torchrun writes for all
        return
    write(table, out, title=f"Steps against quality: {model}")
    print(f"\n{table}\n")
    print("\n".join(recommendations(table)))
    print(f"wrote {out / 'report.html'}, and report.md, .csv, .json and .png beside it")


def _row(spec: str, model: Predictor) -> Row:
    """A solver by name, or a solver and a grid of a file that `tune` wrote."""
    if not spec.endswith(".json"):
        return spec
    solver, grid = tuning.load(spec, model)
    return Fixed(f"tuned ({Path(spec).stem})", solver, grid)


def _peers(wanted: Sequence[str], module: str) -> tuple[list[Row], dict[str, str]]:
    """Samplers of other libraries by name, or all of them; and those that are absent."""
    if not wanted:
        return [], {}
    try:
        source = import_module(module)
        kinds = source.KINDS
        found = {peer.name: peer for kind in kinds for peer in source.available(kind)}
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"cannot find peers in {module!r} ({error}); they are in the repository, not in the "
            "package: run the command in its root"
        ) from error
    if _ALL in wanted:
        return list(found.values()), source.absent()
    for name in wanted:
        if name not in found:
            raise unknown_name("peer", name, [_ALL, *found])
    return [found[name] for name in wanted], source.absent()


def _features(spec: str, device: str) -> Features:
    if spec == "digits":
        return digit_features(device)
    kind, _, rest = spec.partition(":")
    if kind == "inception":
        return inception_features(rest, device)
    made = models.own("features", spec)
    if not callable(made):
        raise ConfigError(f"{spec!r} is {made!r}, not a function of samples (B, *)")
    found: Features = made
    return found


def _truth(spec: str, samples: int, truths: int, seed: int) -> Tensor:
    """True samples, and as many more as a cell has, for the floor."""
    images = read_images(spec)[: truths + samples]
    if images.is_floating_point():
        return images.to(torch.float32)
    return dequantize(images, torch.Generator().manual_seed(seed))


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"budgets are whole numbers, as in 5,10,20; got {text!r}") from None
