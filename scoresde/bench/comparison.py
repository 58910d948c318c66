"""Steps against quality: every solver on every grid at every budget, from the same seeds."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._internal import specs
from .._internal.checks import check_budget, check_model
from .._internal.fingerprint import fingerprint
from .._internal.witness import name_of
from ..errors import ConfigError, FingerprintError, ShapeError
from ..metrics import EndpointError, Metric
from ..metrics.features import Features
from ..model import Predictor, event_shape_of
from ..noise import SampleSeeds
from ..sampling.choose import GridMaker
from ..sampling.run import NonFiniteWarning
from ..solvers.solver import Solver
from .live import live
from .named_metrics import AtHand, Wanted
from .reference import Reference, solve_reference
from .runner import Job, make_path, scored
from .schedule import gathered, run
from .store import Store
from .table import Setup, Table, missing
from .tasks import Fixed, Peer, Row, Task, tasks

_PACKAGES = ("scoresde", "torch", "numpy", "scipy", "torchdiffeq", "POT", "diffusers")


def compare(
    model: Predictor | Mapping[str, Predictor],
    solvers: Row | Sequence[Row],
    *,
    nfe: int | Sequence[int],
    metric: Wanted | Sequence[Wanted] | None = None,
    grids: GridMaker | str | Sequence[GridMaker | str] = ("uniform_lambda",),
    truth: Tensor | None = None,
    features: Features | None = None,
    samples: int = 64,
    shape: Sequence[int] | None = None,
    first_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    tolerance: float | None = None,
    absent: Mapping[str, str] | None = None,
    cache: str | Path | None = None,
    key: str | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Table:
    """Measure how quality grows with network evaluations.

    Deterministic solvers are compared with a tight solve of the probability flow from the same
    starts, sample by sample; by distribution, all solvers are compared with true samples, and
    stochastic ones share one Brownian path a sample. No solver exceeds a budget (`grid_for`), and
    the table names what each took.

    Under `torchrun`, every process computes its share of the cells and returns the whole table.

    Args:
        model: what predicts; or several by name, of the same data on different processes.
        solvers: one or several solvers, or names such as "DDIM(eta=1.0)", or "recommended", which
            brings its own grid, or a `Fixed` solver and grid, or samplers of other libraries
            (`benchmarks/peers`). Those that choose their own steps are run once each.
        nfe: one budget or several, in network evaluations per sample.
        metric: measures, or names of `scoresde.bench.MEASURES`, or functions that make one of what
            there is to compare with (`AtHand`), one or several; by default the
            RMS and median endpoint error of deterministic solvers and, where true samples are at
            hand, the energy distance of all, the Frechet distance in features where some are
            given, and the NLL gap of closed-form models.
        grids: one or several makers of grids, or names such as "karras(exponent=5)".
        truth: true samples, shape (m, *); drawn from the model where it is a closed-form one.
        features: maps samples (B, *) to features (B, F), see `scoresde.metrics.features`.
        samples: samples a cell.
        shape: of one sample, without the batch; that of `truth` or of a closed-form model.
        first_seed: sample k is drawn from seed `first_seed + k` in every cell.
        dtype: of the state.
        tolerance: of the reference endpoints, see `solve_reference`.
        absent: peers that are not installed and why, to be listed.
        cache: a folder; work found there is not done again.
        key: a name for the models, which you change whenever one of them changes. It takes the
            place of their fingerprints, where those cannot be known or are slow to find.
        jobs: worker processes.
        progress: show the table as it fills (needs rich).

    Raises:
        FingerprintError: with a cache, where the content of a model cannot be known; write `key=`.
        ConfigError: for settings that contradict one another. A cell that fails does not raise;
            it is reported with its reason, and the others go on.
        NonFiniteError: if the reference of every sample is not finite. Where that of some is not,
            they are left out of endpoint errors, with a warning and a note in the table.
        ShapeError: for features or true samples of a shape that does not fit.
    """
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    for each in models.values():
        check_model(each)
    nfe = list(nfe) if isinstance(nfe, Iterable) else [nfe]
    for budget in nfe:
        check_budget(budget)
    solvers = [solvers] if isinstance(solvers, str | Solver | Fixed | Peer) else list(solvers)
    given = [grids] if isinstance(grids, str) or callable(grids) else grids
    makers = [specs.grid(g) if isinstance(g, str) else g for g in given]
    if not models or not solvers or not nfe:
        raise ConfigError("compare needs a model, a solver and a budget at least")
    first = next(iter(models.values()))
    truth, spare = _truth(first, truth, samples)
    shape = _shape(first, shape, truth)
    seeds = tuple(range(first_seed, first_seed + samples))
    store = Store(cache)
    work: list[tuple[Job, Task]] = []
    about: dict[str, dict[str, Any]] = {}
    for process, one in models.items():
        stream = SampleSeeds(seeds).open((samples, *shape), dtype)
        start = one.sde.prior_sample(stream)
        todo = list(tasks(one.sde, solvers, makers, nfe, process))
        needed = _needs_reference(metric, todo)
        who = _name(one, key and f"{key}, {process}", cache)
        reference = _reference(one, who, start, tolerance, store) if needed else None
        at_hand = AtHand(one, None if reference is None else reference.x, truth, features)
        metrics = at_hand.all(metric)
        identity, measured = fingerprint([who, start, seeds]), [fingerprint(m) for m in metrics]
        path = None
        if not all(task.stochastic for task in todo):
            path = make_path(one, start, f"path-{identity}", store)
        kept = None if cache is None else str(cache)
        job = Job(one, start, seeds, metrics, identity, measured, path, kept)
        work += [(job, job.keyed(task)) for task in todo]
        about[process] = {"model": who, "sde": one.sde.to_dict()}
        if reference is not None:
            about[process]["reference"] = {
                "accuracy": reference.accuracy, "nfe": reference.nfe, "missing": reference.missing
            }  # fmt: skip
            if reference.missing:
                warnings.warn(missing(reference.missing, samples), NonFiniteWarning, stacklevel=2)
    setup = Setup(
        models=about,
        samples=samples,
        first_seed=first_seed,
        dtype=str(dtype).removeprefix("torch."),
        truth=0 if truth is None else len(truth),
        truth_digest="" if truth is None else fingerprint(truth),
        shape=shape,
        tolerance=tolerance,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        better={m.name: getattr(m, "better", "lower") for m in metrics},
        floor={
            m.name: scored(m, spare, f"floor-{fingerprint(spare)}-{digest}", store)
            for m, digest in zip(metrics, measured, strict=True)
            if spare is not None and not isinstance(m, EndpointError)
        },
        absent=dict(absent or {}),
        environment=environment(),
    )
    with gathered() as together, live([task.cell for _, task in work], setup, progress) as show:
        done = {}
        try:
            for place, cell in run([partial(job, task) for job, task in work], jobs):
                done[place] = cell
                show(cell)
        except KeyboardInterrupt as stop:
            stop.add_note(f"{len(done)} of {len(work)} cells done")
            raise
        done = together(done)
    return Table(tuple(done[place] for place in range(len(work))), setup)


def environment() -> dict[str, str]:
    """Versions and hardware that a measurement was made with."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        **found,
        "machine": platform.machine(),
        "processor": _processor(),
        "system": platform.system(),
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "gpu": gpu,
    }


# -- at the door -------------------------------------------------------------------------------


def _needs_reference(metric: Wanted | Sequence[Wanted] | None, todo: Sequence[Task]) -> bool:
    """Whether endpoints are to be compared, with ones that nobody has solved for yet."""
    if all(task.stochastic for task in todo):
        return False
    if metric is None:
        return True
    given = [metric] if isinstance(metric, str) or callable(metric) else metric
    # A function of the user's may look at the endpoints; a measure that is made has its own.
    return any(
        one.lower() in ("rms", "median") if isinstance(one, str) else not isinstance(one, Metric)
        for one in given
    )


def _name(model: Predictor, key: str | None, cache: str | Path | None) -> str:
    """What stands for a model. Where nothing is kept, it need not be known."""
    try:
        return name_of(model, key)
    except FingerprintError:
        if cache is not None:
            raise
        return "unknown"


def _reference(
    model: Predictor, who: str, start: Tensor, rtol: float | None, store: Store
) -> Reference:
    """The reference, from the store where it is there."""
    key = "reference-" + fingerprint([who, start, rtol])
    kept = store.tensors(key)
    if kept is not None and set(kept) == {"x", "numbers"}:
        accuracy, nfe = kept["numbers"].tolist()
        return Reference(kept["x"], accuracy, int(nfe))
    found = solve_reference(model, start, rtol=rtol, partial=True)
    numbers = torch.tensor([found.accuracy, found.nfe], dtype=torch.float64)
    store.keep_tensors(key, {"x": found.x, "numbers": numbers})
    return found


def _truth(model: Any, truth: Tensor | None, samples: int) -> tuple[Tensor | None, Tensor | None]:
    """True samples to compare with, and others, as many as a cell has, to find the floor."""
    if truth is not None:
        if len(truth) < 2 * samples:
            return truth, None
        return truth[samples:], truth[:samples]
    if hasattr(model, "log_prob") and hasattr(model, "sample"):
        return model.sample(max(2000, samples), seed=2**31), model.sample(samples, seed=2**31 + 1)
    return None, None


def _shape(model: Any, shape: Sequence[int] | None, truth: Tensor | None) -> tuple[int, ...]:
    known = truth.shape[1:] if truth is not None else event_shape_of(model)
    if shape is None:
        if known is None:
            raise ConfigError("the shape of a sample is not known; write shape=(1, 28, 28)")
        return tuple(known)
    if known is not None and tuple(shape) != tuple(known):
        raise ShapeError(f"shape {tuple(shape)} does not fit true samples of {tuple(known)}")
    return tuple(shape)


def _processor() -> str:
    """The processor's name; Linux tells it in a file only."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()
