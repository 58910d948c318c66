"""Steps against quality: every solver on every grid at every budget, from the same seeds."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import names
from ..errors import ConfigError, NonFiniteError, ScoreSDEError, ShapeError, require
from ..grid import Grid, uniform_lambda
from ..identity import fingerprint
from ..jobs import write_atomic
from ..metrics import EndpointError, EnergyDistance, Metric
from ..model import Predictor
from ..noise import SampleSeeds
from ..sampling import sample
from ..scalar import scale
from ..solvers.base import Solver
from .budget import GridMaker, grid_for
from .reference import Reference, solve_reference
from .table import OWN_GRID, Cell, Setup, Table

_SHOWN = 16


class _Task(NamedTuple):
    solver: Solver
    grid: Grid | None
    cell: Cell


def compare(
    model: Predictor,
    solvers: Sequence[Solver | str],
    *,
    nfe: Sequence[int],
    metric: Metric | Sequence[Metric] | None = None,
    grids: Sequence[GridMaker | str] = ("uniform_lambda",),
    truth: Tensor | None = None,
    samples: int = 64,
    shape: Sequence[int] | None = None,
    first_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Table:
    """Measure how quality grows with network evaluations.

    Deterministic solvers are compared with a tight solve of the probability flow from the same
    starts, sample by sample; by distribution, all solvers are compared with true samples. A
    budget is met as nearly as a solver can (`grid_for`), and the table names what it took.

    Args:
        model: what predicts.
        solvers: solvers, or names such as "DDIM(eta=1.0)", or "recommended", which brings its own
            grid. Those that choose their own steps are run once each.
        nfe: budgets, in network evaluations per sample.
        metric: one or several; by default the RMS and median endpoint error of deterministic
            solvers and, where true samples are at hand, the energy distance of all.
        grids: makers of grids, or names such as "karras(exponent=5)".
        truth: true samples, shape (m, *); drawn from the model where it is a closed-form one.
        samples: samples a cell.
        shape: of one sample, without the batch; that of `truth` or of a closed-form model.
        first_seed: sample k is drawn from seed `first_seed + k` in every cell.
        dtype: of the state.
        tolerance: of the reference endpoints, see `solve_reference`.
        cache: a folder; cells found there are not computed again.
        progress: show a bar (needs tqdm).

    Raises:
        ConfigError: for settings that contradict one another. A cell that fails does not raise;
            it is reported with its reason, and the others go on.
    """
    rules = [_rule(s) for s in solvers]
    makers = [names.grid(g) if isinstance(g, str) else g for g in grids]
    truth, spare = _truth(model, truth, samples)
    shape = _shape(model, shape, truth)
    seeds = SampleSeeds(tuple(range(first_seed, first_seed + samples)))
    start = _start(model, seeds, (samples, *shape), dtype)
    reference: Reference | None = None
    if metric is None:
        if not all(isinstance(rule, Solver) and rule.stochastic for rule, _ in rules):
            reference = solve_reference(model, start, rtol=tolerance)
        metrics: list[Metric] = []
        if reference is not None:
            metrics += [EndpointError(reference.x), EndpointError(reference.x, "median")]
        if truth is not None:
            metrics.append(EnergyDistance(truth))
    else:
        metrics = [metric] if isinstance(metric, Metric) else list(metric)
    if not metrics:
        raise ConfigError(
            "nothing to measure: stochastic solvers are judged by distribution, which takes true "
            "samples; write compare(..., truth=images), or metric=..."
        )
    floor = {
        m.name: m(spare) for m in metrics if spare is not None and not isinstance(m, EndpointError)
    }
    setup = Setup(
        model=fingerprint(model),
        sde=model.sde.to_dict(),
        samples=samples,
        first_seed=first_seed,
        dtype=str(dtype).removeprefix("torch."),
        reference={"accuracy": reference.accuracy, "nfe": reference.nfe} if reference else {},
        floor=floor,
        environment=environment(),
    )
    tasks = list(_tasks(rules, makers, nfe, model))
    if progress:
        tasks = require("tqdm.auto", "cli").tqdm(tasks, desc="compare", unit="cell")
    store = None if cache is None else Path(cache)
    cells = [_cell(task, model, start, seeds, metrics, setup, store) for task in tasks]
    return Table(tuple(cells), setup)


def environment() -> dict[str, str]:
    """Versions and hardware that a measurement was made with."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
    }


# -- one cell ----------------------------------------------------------------------------------


def _rule(given: Solver | str) -> tuple[Solver | names.Pair, str]:
    """What is run, and what it is called in the table."""
    if not isinstance(given, str):
        return given, names.describe(given)
    return (names.pair(given) if names.is_pair(given) else names.solver(given)), given


def _tasks(
    rules: Sequence[tuple[Solver | names.Pair, str]],
    makers: Sequence[GridMaker],
    nfe: Sequence[int],
    model: Predictor,
) -> Iterator[_Task]:
    sde = model.sde
    for solver, label in rules:
        if not isinstance(solver, Solver):
            for budget in nfe:
                chosen, grid = solver(sde, budget)
                yield _Task(chosen, grid, Cell(label, OWN_GRID, budget, steps=grid.steps))
            continue
        if solver.evals(uniform_lambda(sde, 4)) is None:
            cell = Cell(label, "", None)
            yield _Task(solver, uniform_lambda(sde, 2), cell)
            continue
        for maker in makers:
            for budget in nfe:
                cell = Cell(label, maker.__name__, budget)
                try:
                    grid = grid_for(solver, maker, sde, budget)
                    yield _Task(solver, grid, replace(cell, steps=grid.steps))
                except ScoreSDEError as error:
                    yield _Task(solver, None, replace(cell, failed=str(error)))


def _cell(
    task: _Task,
    model: Predictor,
    start: Tensor,
    seeds: SampleSeeds,
    metrics: Sequence[Metric],
    setup: Setup,
    store: Path | None,
) -> Cell:
    """One cell: from the store, or run and kept there."""
    if task.grid is None:
        return task.cell
    key = ""
    if store is not None:
        key = fingerprint([setup.model, task.solver, task.grid, seeds, setup.dtype, list(metrics)])
        if (kept := _read(store, key)) is not None:
            cell = task.cell  # what it is called and asked for may differ
            return replace(kept, solver=cell.solver, budget=cell.budget, grid=cell.grid)
    cell = _run(task, model, start, seeds, metrics)
    if store is not None and not cell.failed:
        _write(store, key, cell)
    return cell


def _run(
    task: _Task, model: Predictor, start: Tensor, seeds: SampleSeeds, metrics: Sequence[Metric]
) -> Cell:
    grid = task.grid
    assert grid is not None  # for the type checker: tasks without a grid are not run
    try:
        scaled = scale(grid.knots[0].sigma / model.sde.at(model.sde.t_max).sigma, start)
        out = sample(model, task.solver, grid, x=scaled, noise=seeds)
        if out.failures:
            place, why = next(iter(out.failures.items()))
            raise NonFiniteError(f"{len(out.failures)} samples not finite; sample {place}: {why}")
        scores = {m.name: m(out.x) for m in metrics if _applies(m, task.solver, grid, model)}
    except (ScoreSDEError, ArithmeticError, RuntimeError) as error:
        return replace(task.cell, failed=f"{type(error).__name__}: {error}")
    nfe = float(torch.as_tensor(out.nfe).double().mean())
    return replace(
        task.cell, nfe=nfe, seconds=out.seconds, scores=scores, shown=out.x[:_SHOWN].cpu()
    )


def _applies(metric: Metric, solver: Solver, grid: Grid, model: Predictor) -> bool:
    """Endpoints are those of one start: of the same noise level, without noise on the way."""
    if not isinstance(metric, EndpointError):
        return True
    return not solver.stochastic and bool(grid.knots[0].t == model.sde.t_max)


def _read(store: Path, key: str) -> Cell | None:
    """A cell of the store; one that cannot be read counts as absent and is computed again."""
    try:
        cell = Cell.from_dict(json.loads((store / f"{key}.json").read_text()))
        shown = torch.from_numpy(np.load(store / f"{key}.npy", allow_pickle=False))
    except (OSError, ValueError, TypeError, KeyError, EOFError):
        return None
    return replace(cell, shown=shown)


def _write(store: Path, key: str, cell: Cell) -> None:
    store.mkdir(parents=True, exist_ok=True)
    if cell.shown is not None:
        part = store / f".{key}.{os.getpid()}.npy"
        np.save(part, cell.shown.numpy())
        os.replace(part, store / f"{key}.npy")
    write_atomic(store / f"{key}.json", json.dumps(cell.to_dict()).encode())


# -- at the door -------------------------------------------------------------------------------


def _truth(model: Any, truth: Tensor | None, samples: int) -> tuple[Tensor | None, Tensor | None]:
    """True samples to compare with, and others, as many as a cell has, to find the floor."""
    if truth is not None:
        if len(truth) < 2 * samples:
            return truth, None
        return truth[samples:], truth[:samples]
    if hasattr(model, "log_prob") and hasattr(model, "sample"):
        return model.sample(max(1000, samples), seed=2**31), model.sample(samples, seed=2**31 + 1)
    return None, None


def _shape(model: Any, shape: Sequence[int] | None, truth: Tensor | None) -> tuple[int, ...]:
    known = truth.shape[1:] if truth is not None else getattr(model, "event_shape", None)
    if shape is None:
        if known is None:
            raise ConfigError("the shape of a sample is not known; write shape=(1, 28, 28)")
        return tuple(known)
    if known is not None and tuple(shape) != tuple(known):
        raise ShapeError(f"shape {tuple(shape)} does not fit true samples of {tuple(known)}")
    return tuple(shape)


def _start(
    model: Predictor, seeds: SampleSeeds, shape: tuple[int, ...], dtype: torch.dtype
) -> Tensor:
    return model.sde.prior_sample(seeds.open(shape, dtype))
