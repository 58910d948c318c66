"""Compute one cell: run it or read it from the store, then score it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .. import __version__
from .._internal.fingerprint import fingerprint
from ..errors import NonFiniteError
from ..metrics import EndpointError, Estimate, Metric
from ..model import Predictor, device_of
from ..noise import BrownianPath, NoiseSource, SampleSeeds
from ..sampling.run import NonFiniteWarning, StepInfo, sample
from ..scalar import scale
from ..solvers.legs import evaluations
from ..wrapper import evals_per_call
from .memory import peak_memory
from .reference import ReferencePath, normalised
from .store import Store
from .table import Cell
from .tasks import Task

_VERSION = 3  # of stored runs; old files are ignored after a change
_SHOWN, _POINTS = 16, 1000  # images, and points of the plane


class Run(NamedTuple):
    """The result of a run.

    Attributes:
        x: samples, shape (B, *).
        numbers: evaluations per sample, seconds, bytes; shape (3,), float64.
        states: states of the first few samples after every step, shape (steps + 1, k, *); or
            empty.
    """

    x: Tensor
    numbers: Tensor
    states: Tensor


@dataclass(frozen=True, eq=False)
class Job:
    """The settings that all cells of one model share; called with a task, it returns the cell.

    Attributes:
        model: the model.
        start: states at t_max, shape (B, *).
        seeds: the seed of each sample.
        metrics: the metrics.
        identity: fingerprint of the model's name, start and seeds.
        measured: fingerprints of the metrics.
        path: the exact path of the first few starts, or None.
        cache: folder of finished work, or None.
    """

    model: Predictor
    start: Tensor
    seeds: tuple[int, ...]
    metrics: Sequence[Metric]
    identity: str
    measured: Sequence[str]
    path: ReferencePath | None
    cache: str | None

    def __call__(self, task: Task) -> Cell:
        """The cell of a task; if it fails, `failed` has the reason."""
        if task.solver is None and task.peer is None:
            return task.cell
        try:
            return self._filled(task)
        except Exception as error:
            reason = " ".join(str(error).split()) or "no reason given"
            return replace(task.cell, failed=f"{type(error).__name__}: {reason}")

    def keyed(self, task: Task) -> Task:
        """The task with the key of its run. Keys are made before any run can change an object."""
        peer = task.peer
        who = task.solver or (peer and [type(peer), peer.name, peer.package, peer.version])
        budget = task.cell.budget if peer else None
        about = [_VERSION, __version__, self.identity, who, task.grid, budget]
        return task._replace(key=fingerprint(about))

    def _filled(self, task: Task) -> Cell:
        store, key = Store(self.cache), task.key
        kept = store.tensors(key)
        run = Run(**kept) if kept is not None and set(kept) == set(Run._fields) else None
        if run is None:
            run = self._run(task)
            store.keep_tensors(key, run._asdict())
        scores: dict[str, Estimate] = {}
        for metric, digest in zip(self.metrics, self.measured, strict=True):
            if _applies(metric, task):
                scores[metric.name] = scored(metric, run.x, f"{key}-{digest}", store)
        nfe, seconds, memory = run.numbers.tolist()
        shown = _SHOWN if run.x[0].numel() > 2 else _POINTS
        cell = replace(
            task.cell, nfe=nfe, seconds=seconds, memory=memory, scores=scores, shown=run.x[:shown]
        )
        return self._with_path(cell, task, run.states)

    def _run(self, task: Task) -> Run:
        states: list[Tensor] = []
        few = _few(self.start)
        device = device_of(self.model)
        with peak_memory(device) as memory:
            began = time.perf_counter()
            if task.peer is not None:
                budget = max(1, (task.cell.budget or 1) // evals_per_call(self.model))
                x, nfe = task.peer.run(self.model, budget, self.start.to(device), self.seeds[0])
                if bad := int((~torch.isfinite(x.reshape(len(x), -1)).all(1)).sum()):
                    raise NonFiniteError(f"{bad} of {len(x)} samples are not finite")
                cost = float(nfe)
            else:
                assert task.solver is not None  # for the type checker: a task has
                assert task.grid is not None  # a solver with its grid, or a peer
                first = task.grid.knots[0].sigma / self.model.sde.at(self.model.sde.t_max).sigma

                def watch(info: StepInfo) -> None:
                    states.append(info.x[:few].detach().cpu().clone())

                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NonFiniteWarning)  # the cell says it
                    out = sample(
                        self.model, task.solver, task.grid, x=scale(first, self.start),
                        noise=self._noise(task), device=device, callback=watch,
                    )  # fmt: skip
                if out.failures:
                    place, why = next(iter(out.failures.items()))
                    raise NonFiniteError(
                        f"{len(out.failures)} of {len(self.start)} samples are not finite; "
                        f"sample {place}: {why}"
                    )
                x, cost = out.x, out.mean_nfe
            seconds = time.perf_counter() - began
        numbers = torch.tensor([cost, seconds, memory[0]], dtype=torch.float64)
        return Run(x.cpu(), numbers, torch.stack(states) if states else x.new_empty(0))

    def _noise(self, task: Task) -> NoiseSource:
        """The noise: one Brownian path for each sample, the same for all stochastic solvers."""
        assert task.solver is not None  # for the type checker
        fixed = task.grid is not None and evaluations(task.solver, task.grid) is not None
        kind = BrownianPath if task.solver.stochastic and fixed else SampleSeeds
        return kind(self.seeds)

    def _with_path(self, cell: Cell, task: Task, states: Tensor) -> Cell:
        if task.grid is None or not len(states):
            return cell
        knots = task.grid.knots
        ways = torch.stack([normalised(x, k) for x, k in zip(states, knots, strict=True)])
        cell = replace(cell, trajectory=ways)
        if self.path is None or task.stochastic or knots[0].t != self.model.sde.t_max:
            return cell
        errors = self.path.errors(knots, states)
        # At alpha = 0, rho is infinite and cannot be drawn; the error there is 0.
        pairs = tuple(
            (float(k.rho), error)
            for k, error in zip(knots, errors, strict=True)
            if not k.is_zero_snr
        )
        return replace(cell, path_error=pairs)


def scored(metric: Metric, x: Tensor, key: str, store: Store) -> Estimate:
    """A score, read from the store or computed and stored."""
    score = store.score(key)
    if score is None:
        score = metric(x)
        store.keep_score(key, score)
    return score


def make_path(model: Predictor, start: Tensor, key: str, store: Store) -> ReferencePath | None:
    """The exact path of the first few starts, read from the store or solved and stored.

    None if the path is not finite.
    """
    kept = store.tensors(key)
    if kept is not None and set(kept) == {"angles", "states"}:
        return ReferencePath(kept["angles"], kept["states"])
    try:
        path = ReferencePath.solve(model, start[: _few(start)])
    except NonFiniteError:
        return None
    store.keep_tensors(key, {"angles": path.angles, "states": path.states})
    return path


def _few(start: Tensor) -> int:
    """How many samples' paths are kept: 16 in the plane, 5 colour images."""
    return min(len(start), max(4, min(16, 16384 // start[0].numel())))


def _applies(metric: Metric, task: Task) -> bool:
    """Whether a metric applies: endpoint errors need a deterministic run that starts at t_max."""
    if not isinstance(metric, EndpointError) or task.stochastic:
        return not isinstance(metric, EndpointError)
    return task.grid is None or bool(task.grid.knots[0].t == task.grid.sde.t_max)
