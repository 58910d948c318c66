"""The command `scoresde bench`."""

from __future__ import annotations

import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from .. import tune as tuning
from .._internal import specs
from .._internal.named_files import module_of_name
from ..bench import Against, Fixed, Starts, compare, recommendations, write
from ..bench.schedule import share
from ..bench.tasks import Row, takes_budget
from ..errors import ConfigError, unknown_name
from ..model import Predictor
from ..sampling.run import NonFiniteWarning
from ..solvers.legs import evaluations
from . import measuring, models
from .work import check_device, shape_of_event

_SELECTION = (
    "recommended",
    "recommended(stochastic=True)",
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
_ALL, _BUDGETS = "all", "5,10,20,50"


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
    truths: int | None,
    seed: int,
    tolerance: float | None,
    jobs: int,
    dtype: str,
    event_shape: str,
    processes: Sequence[str],
    device: str,
) -> None:
    """`scoresde bench`."""
    check_device(device)
    named = {spec: models.load(model, process=spec, device=device) for spec in processes or [""]}
    found = next(iter(named.values()))
    alone = len(named) == 1
    rows = _rows(solvers or _SELECTION, found.model)
    if peers_from and not peers:
        raise ConfigError(f"--peers-from {peers_from} needs --peer; write --peer all")
    others, absent = _peers(peers, peers_from or "benchmarks.peers")
    rows += others
    if nfe and not any(takes_budget(row, found.model.sde) for row in rows):
        raise ConfigError(
            f"--nfe {nfe} has no effect: each of these solvers has its own grid or chooses its "
            "steps; leave --nfe out"
        )
    truth, features = measuring.at_hand(model, truth, features, metrics)
    if truths is not None and not truth:
        raise ConfigError(
            f"--truths {truths} limits the samples of --truth, which is not given; write --truth "
            "images.npy as well"
        )
    extract = measuring.extractor(features, device) if features else None
    true = measuring.images(truth, (truths or measuring.TRUTHS) + samples, seed) if truth else None
    event = shape_of_event(event_shape, found)
    with _stoppable(), warnings.catch_warnings():
        warnings.simplefilter("ignore", NonFiniteWarning)  # the table says it
        table = compare(
            found.model if alone else {spec: one.model for spec, one in named.items()},
            rows,
            nfe=_whole_numbers(nfe or _BUDGETS),
            metric=[measuring.metric(name) for name in metrics] or None,
            grids=[specs.grid(spec, own=True) if ":" in spec else spec for spec in grids] or None,
            against=Against(true, extract, tolerance),
            starts=Starts(samples, seed, event, getattr(torch, dtype)),
            cache=out / "cells",
            jobs=jobs,
            progress=share()[0] == 0,
        )
    table = replace(table, setup=replace(table.setup, absent=absent))
    if share()[0] > 0:  # the first process of torchrun writes for all
        return
    command = shlex.join(["scoresde", *sys.argv[1:]])
    given = {"model": model, "truth": truth, "features": features}
    given = {what: name for what, name in given.items() if name}
    write(table, out, title=f"Steps against quality: {model}", command=command, given=given)
    print(f"\n{table}\n")
    print("\n".join(recommendations(table)))
    print(f"wrote {out / 'report.html'}, and report.md, .csv, .json and .png beside it")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C prints one line and gives exit code 130."""
    try:
        yield
    except KeyboardInterrupt as stop:
        done = "".join(f", {note}" for note in getattr(stop, "__notes__", ()))
        hint = "run the same command again to resume"
        print(f"\nscoresde: stopped{done}; {hint}", file=sys.stderr)
        raise SystemExit(130) from None


def _rows(names: Sequence[str], model: Predictor) -> list[Row]:
    """The rows: solvers by name, and solvers with grids from files that `tune` wrote.

    If all files have different costs, they make one row, "tuned". If two have the same cost, each
    file makes a row with its own name.
    """
    files = {spec: tuning.load(spec, model) for spec in names if spec.endswith(".json")}
    costs = [evaluations(solver, grid) for solver, grid in files.values()]
    one = len(set(costs)) == len(costs)
    return [
        Fixed("tuned" if one else f"tuned ({Path(spec).stem})", *files[spec])
        if spec in files
        else specs.solver(spec, own=True)
        if ":" in spec
        else spec
        for spec in names
    ]


def _peers(wanted: Sequence[str], module: str) -> tuple[list[Row], dict[str, str]]:
    """Samplers of other libraries by name, or all of them; and the libraries not installed.

    A sampler is omitted if its library is not installed.
    """
    if not wanted:
        return [], {}
    try:
        source = module_of_name(module)
        kinds = source.KINDS
        found = {peer.name: peer for kind in kinds for peer in source.available(kind)}
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"cannot find peers in {module!r} ({error}); they are in the repository, not in the "
            "package: run the command in the root of the repository"
        ) from error
    absent = source.absent()
    if _ALL in wanted:
        return list(found.values()), absent
    for name in wanted:
        if name not in found and not name.lower().replace("-", "_").startswith(tuple(absent)):
            raise unknown_name("peer", name, [_ALL, *found])
    return [found[name] for name in wanted if name in found], absent


def _whole_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"budgets are whole numbers, as in 5,10,20; got {text!r}") from None
