"""Compare every solver on every grid at every budget, from the same seeds."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._internal import specs
from .._internal.checks import calls_within, check_kind, check_model, explained_shape
from .._internal.fingerprint import fingerprint
from .._internal.labels import model_name
from .._internal.witness import name_of
from ..errors import ConfigError, FingerprintError
from ..metrics import EndpointError, Metric
from ..model import Predictor
from ..sampling.choose import GridMaker
from ..sampling.run import NonFiniteWarning
from ..solvers.solver import Solver
from .live import live
from .named_metrics import ALIASES, ENDPOINTS, FEATURES, AtHand, Wanted
from .protocol import NOTHING_MORE, STARTS, Against, Starts
from .reference import Reference, solve_reference
from .runner import Job, make_path, scored
from .schedule import gathered, run
from .store import Store
from .table import OWN_GRID, Setup, Table, missing
from .tasks import Fixed, Peer, Row, Task, tasks

_PACKAGES = ("scoresde", "torch", "numpy", "scipy", "torchdiffeq", "POT", "diffusers")
Metrics = Wanted | Sequence[Wanted] | None
"""Metrics, names in `scoresde.bench.METRICS`, or functions that make one; None: the default."""


def compare(
    model: Predictor | Mapping[str, Predictor],
    solvers: Row | Sequence[Row],
    *,
    nfe: int | Sequence[int],
    grids: GridMaker | str | Sequence[GridMaker | str] | None = None,
    metric: Metrics = None,
    against: Against = NOTHING_MORE,
    starts: Starts = STARTS,
    cache: str | Path | None = None,
    key: str | None = None,
    jobs: int = 1,
    progress: bool = False,
) -> Table:
    """Measure how the quality of samples depends on the number of network evaluations.

    Endpoint errors compare a deterministic solver, sample by sample, with a tight solve of the
    probability flow from the same starts. Metrics of distributions compare any solver with true
    samples. All stochastic solvers use the same Brownian path for a sample. No solver exceeds its
    budget (`grid_for`), and the table states the evaluations that each one took.

    Under `torchrun`, every process computes its share of the cells and returns the whole table.

    Args:
        model: a model; or a mapping from names to models of the same data on different processes.
        solvers: one or several. Each is a solver, a name such as "DDIM(eta=1.0)", "recommended",
            which has its own grid, a `Fixed` solver and grid, or a sampler of another library
            (`benchmarks/peers`). A solver that chooses its own steps runs once.
        nfe: one or several budgets, in network evaluations per sample, of which a guided model
            takes 2 a call.
        grids: one or several makers of grids, or names such as "karras(exponent=5)";
            "uniform_lambda" by default.
        metric: one or several. Each is a metric, a name in `scoresde.bench.METRICS`, or a function
            from an `AtHand` to a metric. The default depends on what is given. Deterministic
            solvers get the RMS and the median endpoint error. With true samples, all solvers get
            the energy distance; with features too, the Frechet distance; for a closed-form model,
            the NLL gap.
        against: true samples, features, and the tolerance of the reference endpoints.
        starts: number of samples in a cell, their seed, shape and dtype.
        cache: a folder of finished work. What is found there is not computed again.
        key: a name for the models. Change it whenever one of them changes. It replaces their
            fingerprints, if these cannot be computed or are slow to compute.
        jobs: number of worker processes.
        progress: show the table as it fills (needs rich).

    Raises:
        FingerprintError: if a cache is given and a model has no fingerprint; write `key=`.
        ConfigError: for settings that contradict one another, or that nothing here would use. A
            cell that fails does not raise; the table gives its reason, and the others go on.
        NonFiniteError: if no sample has a finite reference endpoint. If only some have none,
            endpoint errors ignore these samples, with a warning and a note in the table.
        ShapeError: for features or true samples of the wrong shape.
    """
    what = _What.of(model, solvers, nfe, grids)
    how = _How.of(next(iter(what.models.values())), metric, against, starts)
    todo = what.tasks()
    how.check([task for each in todo.values() for task in each])
    store = Store(cache)
    parts = [_part(name, one, todo[name], how, store, key) for name, one in what.models.items()]
    setup = _setup(parts, how, store)
    work = [(part.job, part.job.keyed(task)) for part in parts for task in part.tasks]
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


class _Part(NamedTuple):
    """The cells of one model.

    Attributes:
        name: name of its process; empty if there is only one.
        who: identifies the model in keys: its fingerprint, or the name given.
        job: settings that the cells share.
        tasks: one for each cell.
        reference: true endpoints of the starts; None if no metric needs them.
    """

    name: str
    who: str
    job: Job
    tasks: list[Task]
    reference: Reference | None


@dataclass(frozen=True, eq=False)
class _What:
    """What is compared: models, rows, budgets and grids."""

    models: dict[str, Predictor]
    rows: list[Row]
    budgets: list[int]
    makers: list[GridMaker]
    grids_given: bool

    @classmethod
    def of(cls, model: Any, solvers: Any, nfe: Any, grids: Any) -> _What:
        """The arguments of `compare`, each as a list, checked."""
        models = dict(model) if isinstance(model, Mapping) else {"": model}
        for each in models.values():
            check_model(each)
        budgets = list(nfe) if isinstance(nfe, Iterable) else [nfe]
        for budget in budgets:
            for each in models.values():
                calls_within(each, budget)
        rows = [solvers] if isinstance(solvers, str | Solver | Fixed | Peer) else list(solvers)
        given = ("uniform_lambda",) if grids is None else grids
        given = [given] if isinstance(given, str) or callable(given) else given
        makers = [specs.grid(g) if isinstance(g, str) else g for g in given]
        if not models or not rows or not budgets:
            raise ConfigError("compare needs at least one model, one solver and one budget")
        return cls(models, rows, budgets, makers, grids is not None)

    def tasks(self) -> dict[str, list[Task]]:
        """The cells of each model.

        Raises:
            ConfigError: for a row of the wrong kind, or for grids that no cell uses.
        """
        found = {
            name: list(tasks(model, self.rows, self.makers, self.budgets, name))
            for name, model in self.models.items()
        }
        cells = [task.cell for each in found.values() for task in each]
        if self.grids_given and all(cell.grid in ("", OWN_GRID) for cell in cells):
            raise ConfigError(
                "grids are given, but each of these solvers has its own grid or chooses its steps; "
                "leave grids out"
            )
        return found


@dataclass(frozen=True, eq=False)
class _How:
    """How the comparison is measured: metrics, starts, true samples, and others for the floor."""

    metric: Metrics
    against: Against
    starts: Starts
    event: tuple[int, ...]
    truth: Tensor | None
    spare: Tensor | None

    @classmethod
    def of(cls, model: Predictor, metric: Metrics, against: Against, starts: Starts) -> _How:
        """The arguments of `compare`, checked against the first model."""
        check_kind(against, Against, "against", "against=Against(truth=images)")
        check_kind(starts, Starts, "starts", "starts=Starts(64)")
        truth, spare = against.split(model, starts.count)
        return cls(metric, against, starts, starts.event(model, truth), truth, spare)

    def check(self, todo: Sequence[Task]) -> None:
        """Raise ConfigError for a tolerance or features that nothing uses."""
        if self.against.tolerance is not None and not _needs_reference(self.metric, todo):
            raise ConfigError(
                f"tolerance={self.against.tolerance!r} is for reference endpoints, and nothing "
                "is compared with them here; leave it out, or add metric='rms' and a solver that "
                "draws no noise"
            )
        if self.against.features is not None and not self._takes_features():
            raise ConfigError(
                "features are given, but no metric here uses them; leave them out, or write "
                "metric='frechet' and Against(truth=images, features=...)"
            )

    def _takes_features(self) -> bool:
        if self.metric is None:
            return self.truth is not None
        return any(
            ALIASES.get(one.lower(), one.lower()) in FEATURES
            if isinstance(one, str)
            else not isinstance(one, Metric)
            for one in _listed(self.metric)
        )


def _part(
    name: str, model: Predictor, todo: list[Task], how: _How, store: Store, key: str | None
) -> _Part:
    """The cells of one model, and the settings that they share."""
    who = _name(model, key and f"{key}, {name}", store)
    start = how.starts.draw(model, how.event)
    with explained_shape(model, how.event):
        needed = _needs_reference(how.metric, todo)
        reference = _reference(model, who, start, how.against, store) if needed else None
        if reference is not None and reference.missing:
            said = missing(reference.missing, how.starts.count)
            warnings.warn(said, NonFiniteWarning, stacklevel=3)
        endpoints = None if reference is None else reference.x
        metrics = AtHand(model, endpoints, how.truth, how.against.features).all(how.metric)
        identity = fingerprint([who, start, how.starts.seeds])
        path = None
        if not all(task.stochastic for task in todo):
            path = make_path(model, start, f"path-{identity}", store)
    digests = [fingerprint(metric) for metric in metrics]
    kept = None if store.folder is None else str(store.folder)
    job = Job(model, start, how.starts.seeds, metrics, identity, digests, path, kept)
    return _Part(name, who, job, todo, reference)


def _setup(parts: Sequence[_Part], how: _How, store: Store) -> Setup:
    """The settings that all cells of the table share."""
    about: dict[str, dict[str, Any]] = {}
    for part in parts:
        model = part.job.model
        about[part.name] = {
            "name": model_name(model), "model": part.who, "sde": model.sde.to_dict()
        }  # fmt: skip
        if (found := part.reference) is not None:
            about[part.name]["reference"] = {
                "accuracy": found.accuracy, "nfe": found.nfe, "missing": found.missing
            }  # fmt: skip
    last, spare = parts[-1].job, how.spare
    return Setup(
        models=about,
        samples=how.starts.count,
        seed=how.starts.seed,
        dtype=str(how.starts.dtype).removeprefix("torch."),
        truth=0 if how.truth is None else len(how.truth),
        truth_digest="" if how.truth is None else fingerprint(how.truth),
        event_shape=how.event,
        tolerance=how.against.tolerance,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        better={m.name: getattr(m, "better", "lower") for m in last.metrics},
        floor={
            m.name: scored(m, spare, f"floor-{fingerprint(spare)}-{digest}", store)
            for m, digest in zip(last.metrics, last.measured, strict=True)
            if spare is not None and not isinstance(m, EndpointError)
        },
        environment=environment(),
    )


def _needs_reference(metric: Metrics, todo: Sequence[Task]) -> bool:
    """Whether some metric needs reference endpoints, which must then be solved."""
    if all(task.stochastic for task in todo):
        return False
    # A function may use the endpoints. A Metric object already holds its own reference.
    return metric is None or any(
        one.lower() in ENDPOINTS if isinstance(one, str) else not isinstance(one, Metric)
        for one in _listed(metric)
    )


def _listed(metric: Wanted | Sequence[Wanted]) -> Sequence[Wanted]:
    return [metric] if isinstance(metric, str) or callable(metric) else metric


def _name(model: Predictor, key: str | None, store: Store) -> str:
    """The identity of a model in keys; "unknown" if it has none and there is no cache."""
    try:
        return name_of(model, key)
    except FingerprintError:
        if store.folder is not None:
            raise
        return "unknown"


def _reference(
    model: Predictor, who: str, start: Tensor, against: Against, store: Store
) -> Reference:
    """The reference endpoints, read from the store or solved and stored."""
    rtol = against.tolerance
    key = "reference-" + fingerprint([who, start, rtol])
    kept = store.tensors(key)
    if kept is not None and set(kept) == {"x", "numbers"}:
        accuracy, nfe = kept["numbers"].tolist()
        return Reference(kept["x"], accuracy, int(nfe))
    found = solve_reference(model, start, rtol=rtol, partial=True)
    numbers = torch.tensor([found.accuracy, found.nfe], dtype=torch.float64)
    store.keep_tensors(key, {"x": found.x, "numbers": numbers})
    return found


def environment() -> dict[str, str]:
    """Versions of packages, and hardware, for the record of a measurement."""
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


def _processor() -> str:
    """The processor's name; on Linux it is only in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor()
