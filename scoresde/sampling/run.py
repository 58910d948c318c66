"""The driver: one loop over a fixed grid, for every solver.

`iterate` is a generator: it handles the grid, the noise, the count of evaluations, dtype and
device. `sample` runs it to the end.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .._internal.checked import bad_rows, explain
from .._internal.checks import (
    as_solver,
    calls_within,
    check_batch,
    check_device,
    check_dtype,
    check_graph,
    check_grid,
    check_lockstep,
    check_model,
    check_noise,
    check_shape,
)
from .._internal.counted import Counted, format_nfe, mean_nfe, spread_nfe
from .._internal.labels import short
from ..errors import ConfigError, NonFiniteError, ScoreSDEWarning, ShapeError, require
from ..grid import Grid
from ..model import Predictor, device_of, event_shape_of
from ..noise import NoiseSource, NoiseStream, source
from ..prediction import Prediction
from ..sde.knot import Knot
from ..solvers.legs import evaluations, parts
from ..solvers.solver import Solver
from ..wrapper import begin
from .choose import choose
from .start import (
    DATA_STD,
    Start,
    at_knot,
    data_std_of,
    draw_start,
    start_of,
    warn_of_leap,
)


class NonFiniteWarning(ScoreSDEWarning):
    """Some samples of a batch are not finite; the others are kept."""


class SizeWarning(ScoreSDEWarning):
    """Some samples of a batch are thousands of times larger than the data; all are kept."""


_ABSURD = 1000.0  # times the deviation of the data, or 1


class StepInfo(NamedTuple):
    """The state of a run after `step` of `steps` steps (0: the start).

    Attributes:
        x: the state at `knot`, shape (B, *).
        cost: evaluations so far, from which `nfe` is computed on demand: one number, or one per
            sample.
        prediction: the model's last prediction so far. Solvers with one evaluation per step make
            it at the start of the step, others at their last stage. None at the start of a run,
            or if the last evaluation was of a part of the batch.
    """

    step: int
    steps: int
    knot: Knot
    x: Tensor
    cost: int | Tensor
    prediction: Prediction | None = None

    @property
    def x0(self) -> Tensor | None:
        """The clean data of `prediction`, shape (B, *); None if there is no prediction.

        Under guidance this is the guided x0. It is computed when it is read.
        """
        return None if self.prediction is None else self.prediction.x0

    @property
    def nfe(self) -> Tensor:
        """Network evaluations of each sample so far, shape (B,), int64, on the CPU."""
        return spread_nfe(self.cost, self.x.shape[0])

    @property
    def mean_nfe(self) -> float:
        """Mean of `nfe` over the samples."""
        return mean_nfe(self.nfe)


@dataclass(frozen=True, eq=False)
class SampleResult:
    """The result of `sample`.

    Attributes:
        x: samples, shape (B, *), in the requested dtype.
        nfe: network evaluations of each sample, shape (B,), int64, on the CPU.
        steps: number of steps taken.
        grid: the grid of the run.
        start: the noise level at its first knot, and the reason for it.
        noise: the source of the noise; the same source gives the same samples.
        seconds: wall-clock time.
        trajectory: the states that `keep` asked for, the start first; else empty. Each also holds
            its prediction, which takes about twice the memory of the state.
        failures: the reason for each sample that is not finite, by its index in the batch.
    """

    x: Tensor
    nfe: Tensor
    steps: int
    grid: Grid
    start: Start
    noise: NoiseSource
    seconds: float
    trajectory: tuple[StepInfo, ...] = ()
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def mean_nfe(self) -> float:
        """Mean of `nfe` over the samples."""
        return mean_nfe(self.nfe)

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"SampleResult(x {tuple(self.x.shape)} {str(self.x.dtype).removeprefix('torch.')}, "
            f"{format_nfe(self.nfe)}, {self.steps} steps from {self.start}, "
            f"{self.seconds:.2g} s{failed})"
        )


def iterate(
    model: Predictor,
    solver: Solver | str,
    grid: Grid,
    *,
    x: Tensor | None = None,
    shape: Sequence[int] | None = None,
    seeds: int | Iterable[int] = 0,
    noise: NoiseSource | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    final: str = "solver",
    grad: bool = False,
) -> Iterator[StepInfo]:
    """Follow a grid step by step, from noise to data.

    Args:
        model: the model, such as a `ScoreModel`.
        solver: the rule for one step, or its name, such as "Heun".
        grid: the knots, from a function of `scoresde.grid`.
        x: the start: the state at the grid's first knot, shape (B, *). Without it the start is
            drawn from N(0, sigma^2 I), with sigma of that knot.
        shape: (B, *), needed if x is not given.
        seeds: one number for the batch, or one per sample.
        noise: a source of noise, instead of `seeds`.
        dtype: dtype of the state; by default that of x, else float32.
        device: device of the state; by default that of x, else the model's if it has parameters,
            else the CPU.
        final: "solver" takes a grid's step to sigma = 0 with the solver's own rule, "none" stops
            before this step, "denoise" ends with the first-order Tweedie step instead.
        grad: keep the graph for backward passes.

    Yields:
        The start, then the state after every step.

    Raises:
        ConfigError: for settings that contradict one another.
        ShapeError, DtypeError, NonFiniteError: for a start of a wrong shape or dtype, or with
            values that are not finite.
    """
    check_model(model)
    solver = as_solver(solver)
    check_grid(grid)
    run = _checked(model, solver, grid, shape, seeds, noise, dtype, device, final, grad)
    return run.follow(model, x, run.noise)


@dataclass(frozen=True, eq=False)
class _Run:
    """The checked settings of a run, which stay the same when some samples are run again.

    Attributes:
        legs: the solvers, each with the part of the grid that it takes.
        shape: shape (B, *) of the start that is drawn; None if a start is given.
    """

    legs: tuple[tuple[Solver, Grid], ...]
    noise: NoiseSource
    shape: tuple[int, ...] | None
    dtype: torch.dtype | None
    device: torch.device | str | None
    grad: bool

    @property
    def steps(self) -> int:
        return sum(part.steps for _, part in self.legs)

    def follow(
        self, model: Predictor, x: Tensor | None, noise: NoiseSource, batch: int | None = None
    ) -> Iterator[StepInfo]:
        """The run from x, or from a drawn start with `batch` samples (by default `shape[0]`)."""
        shape = self.shape if self.shape is None or batch is None else (batch, *self.shape[1:])
        x, stream = self._start(model, x, shape, noise)
        return self._steps(model, x, stream)

    def _start(
        self,
        model: Predictor,
        x: Tensor | None,
        shape: tuple[int, ...] | None,
        noise: NoiseSource,
    ) -> tuple[Tensor, NoiseStream]:
        if (x is None) == (shape is None):
            raise ConfigError("give either x, a start of shape (B, *), or shape=(B, ...)")
        if x is not None:
            check_batch(x, "the start")
            _check_event(model, x.shape)
            x = x.to(device=self.device, dtype=self.dtype)
            # A compiled run must not have a data-dependent branch, so it does not check its start.
            if not torch.compiler.is_compiling() and (bad := bad_rows(x)):
                raise NonFiniteError(f"the start is not finite in samples {bad[:8]}")
            return x, noise.open(x.shape, x.dtype, x.device)
        assert shape is not None  # for the type checker: exactly one of the two is given
        _check_event(model, shape)
        device = device_of(model) if self.device is None else self.device
        stream = noise.open(shape, self.dtype or torch.float32, device)
        return draw_start(model, self.legs[0][1].knots[0], stream.start()), stream

    def _steps(self, model: Predictor, x: Tensor, stream: NoiseStream) -> Iterator[StepInfo]:
        with torch.set_grad_enabled(self.grad):
            counted = Counted(begin(model), remember=True)
        size, done = x.shape[0], 0
        yield StepInfo(0, self.steps, self.legs[0][1].knots[0], x, 0)
        for solver, part in self.legs:
            with torch.set_grad_enabled(self.grad):
                carry = solver.init(counted, part)
            for t, s in pairwise(part.knots):
                with torch.set_grad_enabled(self.grad):
                    moved = solver.step(counted, x, t, s, carry, stream)
                if not isinstance(moved, tuple) or len(moved) != 2:
                    raise ConfigError(
                        f"{type(solver).__name__}.step must return the state and the carry, got "
                        f"{type(moved).__name__}; write `return x, None` if there is no carry"
                    )
                x, carry = moved
                done += 1
                yield StepInfo(done, self.steps, s, x, counted.cost(size), counted.last)


def _checked(
    model: Predictor,
    solver: Solver,
    grid: Grid,
    shape: Sequence[int] | None,
    seeds: int | Iterable[int],
    noise: NoiseSource | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
    final: str,
    grad: bool,
) -> _Run:
    """The settings of a run, checked once, except for the start; see `iterate`."""
    check_noise(noise, seeds)
    check_dtype(dtype)
    check_device(device)
    check_graph(grad)
    if grid.sde != model.sde:
        raise ConfigError(
            f"the grid belongs to the process {grid.sde!r}, the model to {model.sde!r}; "
            "make the grid from model.sde"
        )
    if evaluations(solver, grid, final) is None:
        check_lockstep(model, type(solver).__name__, grad)
    return _Run(
        legs=parts(solver, grid, final),
        noise=noise or source(seeds),
        shape=None if shape is None else check_shape(shape, "(B, ...)"),
        dtype=dtype,
        device=device,
        grad=grad,
    )


def sample(
    model: Predictor,
    solver: Solver | str | None = None,
    grid: Grid | None = None,
    *,
    nfe: int | None = None,
    start: float | str | None = None,
    x: Tensor | None = None,
    shape: Sequence[int] | None = None,
    seeds: int | Iterable[int] = 0,
    noise: NoiseSource | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    final: str = "solver",
    grad: bool = False,
    callback: Callable[[StepInfo], None] | None = None,
    keep: bool | Collection[int] = False,
    progress: bool = False,
) -> SampleResult:
    """Draw a batch of samples: run `iterate` to its end.

    Args:
        model, solver, grid, x, shape, seeds, noise, dtype, device, final, grad: see `iterate`.
            Without a grid, the longest one within `nfe` is used, of the family that suits the
            solver (`default_grid`). Without a solver, or with "recommended", `recommended` chooses
            solver and grid for `nfe`. A start x needs a grid, whose first knot is its time. With
            dtype float16 or bfloat16 the run is in float32 and the samples are cast: three digits
            are too few for a solver that uses eps where alpha is small.
        start: the noise level rho = sigma / alpha at which a run without a grid begins; "end" for
            the end of the process. By default the library never begins where a network that
            predicts eps or the score cannot be trusted, see `scoresde.sampling.start`; the result
            has the level.
        nfe: the most network evaluations per sample, if no grid is given. A call of a guided model
            takes 2, so that 40 pay for 20 calls. By default there are 20 calls.
        callback: called after the start and after every step.
        keep: the states to keep in `trajectory`: True for all, or the numbers of their steps.
        progress: show a bar (needs tqdm).

    Returns:
        The samples, their evaluations, and the samples that failed. A sample that is not finite is
        returned as it is; `failures` names the step where it became non-finite, found by a second
        run of that sample. A `NonFiniteWarning` is shown.

    Raises:
        See `iterate`.
    """
    began = time.perf_counter()
    check_model(model)
    if x is not None and grid is None:
        raise ConfigError(
            "x needs a grid, whose first knot is the time of x; for noise at t_max "
            "write solver, grid = recommended(model.sde, 20), for a state at time t "
            "grid = uniform_lambda(model.sde, 20, t_max=t), then sample(model, solver, grid, x=x)"
        )
    calls = calls_within(model, nfe) if grid is None and nfe is not None else nfe
    rule, path = choose(model, solver, grid, calls, start)
    begun = start_of(model, start) if grid is None else at_knot(path.knots[0])
    if grid is not None and evaluations(rule, path) is not None:  # else it chooses its own steps
        warn_of_leap(model, path)
    asked = dtype or (x.dtype if isinstance(x, Tensor) else None)
    working = torch.float32 if asked in (torch.float16, torch.bfloat16) else dtype
    run = _checked(model, rule, path, shape, seeds, noise, working, device, final, grad)
    count = run.steps
    if not isinstance(keep, bool) and (
        not isinstance(keep, Collection) or any(not 0 <= step <= count for step in keep)
    ):
        raise ConfigError(f"keep={keep!r} must be True, or steps from 0 (start) to {count} (end)")
    steps = run.follow(model, x, run.noise)
    if progress:
        bar = require("tqdm.auto", "cli").tqdm
        steps = bar(steps, total=count + 1, desc=short(rule))
    kept: list[StepInfo] = []
    for info in steps:
        if keep is True or (keep is not False and info.step in keep):
            kept.append(info)
        if callback is not None:
            callback(info)
    failures: dict[int, str] = {}
    if bad := bad_rows(info.x):
        failures = explain(run.follow, model, x, run.noise, bad, info.x.shape[0])
        warnings.warn(
            f"{len(bad)} of {info.x.shape[0]} samples are not finite (the others are kept); "
            f"sample {bad[0]}: {failures[bad[0]]}; see result.failures",
            NonFiniteWarning,
            stacklevel=2,
        )
    samples = _in_dtype(info.x, asked, failures)
    if path.ends_clean and final != "none":
        _warn_of_size(model, info.x, failures)
    return SampleResult(
        x=samples,
        nfe=info.nfe,
        steps=info.step,
        grid=path,
        start=begun,
        noise=run.noise,
        seconds=time.perf_counter() - began,
        trajectory=tuple(kept),
        failures=failures,
    )


def _warn_of_size(model: Predictor, x: Tensor, failures: dict[int, str]) -> None:
    """Add samples of an absurd size to the failures, with one warning."""
    if x.numel() == 0 or x.device.type == "meta":
        return
    limit = _ABSURD * max(data_std_of(model) or DATA_STD, 1.0)
    size = x.detach().reshape(len(x), -1).abs().amax(1)
    large = [row for row in (size > limit).nonzero().flatten().tolist() if row not in failures]
    for row in large:
        failures[row] = (
            f"its largest value is {float(size[row]):.3g}; the solver diverged: write a larger "
            "nfe, another solver, or a lower start"
        )
    if large:
        warnings.warn(
            f"{len(large)} of {len(x)} samples are absurdly large (all are kept); sample "
            f"{large[0]}: {failures[large[0]]}; see result.failures",
            SizeWarning,
            stacklevel=3,
        )


def _in_dtype(x: Tensor, dtype: torch.dtype | None, failures: dict[int, str]) -> Tensor:
    """The samples in a dtype; samples that are too large for it are added to the failures."""
    if dtype is None or dtype == x.dtype:
        return x
    out = x.to(dtype)
    for row in set(bad_rows(out)) - set(failures):
        failures[row] = f"its values are too large for {dtype}; write dtype=torch.float32"
        warnings.warn(f"sample {row}: {failures[row]}", NonFiniteWarning, stacklevel=3)
    return out


def _check_event(model: Predictor, shape: Sequence[int]) -> None:
    """Raise ShapeError if the model knows its event shape (closed forms do) and it is another."""
    event = event_shape_of(model)
    if event is not None and tuple(shape[1:]) != event:
        wanted = ", ".join(map(str, event))
        raise ShapeError(
            f"the model's samples have shape {event}, got a batch of shape {tuple(shape)}; "
            f"write shape=({shape[0]}, {wanted})"
        )
