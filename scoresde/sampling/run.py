"""The driver: one loop over a fixed grid, for every solver.

`iterate` is a generator that owns the grid, the noise, counting, dtype and device; `sample` is
that generator run to its end.
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
    check_batch,
    check_device,
    check_dtype,
    check_grid,
    check_model,
    check_noise,
    check_shape,
)
from .._internal.counted import Counted, format_nfe, mean_nfe, spread_nfe
from ..errors import ConfigError, NonFiniteError, ScoreSDEWarning, ShapeError, require
from ..grid import Grid
from ..model import Predictor, device_of, event_shape_of
from ..noise import NoiseSource, NoiseStream, source
from ..prediction import Prediction
from ..sde.knot import Knot
from ..solvers.legs import parts
from ..solvers.solver import Solver
from ..wrapper import begin
from .choose import choose
from .start import Start, at_knot, draw_start, start_of, warn_of_leap


class NonFiniteWarning(ScoreSDEWarning):
    """Some samples of a batch are not finite; the others are kept."""


class StepInfo(NamedTuple):
    """Where a run stands after `step` of `steps` steps (0: the start).

    Attributes:
        x: the state at `knot`, shape (B, *).
        cost: what `nfe` is made of when it is asked for, so that the loop itself makes no tensor.
        prediction: the model's last prediction so far. Solvers of one evaluation a step made it
            where the step began; others at their last stage. None at the start, and where the
            last evaluation was of a part of the batch.
    """

    step: int
    steps: int
    knot: Knot
    x: Tensor
    cost: int | Tensor
    prediction: Prediction | None = None

    @property
    def x0(self) -> Tensor | None:
        """The clean data that `prediction` expects, shape (B, *), computed when it is read; None
        where there is no prediction. Under guidance the guided one.
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
    """What `sample` returns.

    Attributes:
        x: samples, shape (B, *), in the dtype that was asked for.
        nfe: network evaluations of each sample, shape (B,), int64, on the CPU.
        steps: steps taken.
        grid: the grid that was followed.
        start: the noise level at its first knot, and why it is there.
        noise: where the noise came from; the same source gives the same samples.
        seconds: wall-clock time.
        trajectory: states kept, the start first, with `keep`; else empty. Each holds its
            prediction too, about twice the memory of the state.
        failures: for samples that are not finite, their place in the batch and the reason.
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
        model: what predicts, such as a `ScoreModel`.
        solver: the rule for one step, or its name, such as "Heun".
        grid: the knots, from a maker in `scoresde.grid`.
        x: the start, shape (B, *), the state at the grid's first knot. Without it the start is
            drawn at that knot's scale, N(0, sigma^2 I).
        shape: (B, *), needed where x is not given.
        seeds: one number for the batch, or one a sample.
        noise: another source of noise, instead of `seeds`.
        dtype: of the state; x's own, else float32.
        device: of the state; x's own, else the model's where it has parameters, else the CPU.
        final: "solver" takes a grid's step to sigma = 0 with the solver's own rule, "none" stops
            before it, "denoise" ends with the first-order Tweedie step.
        grad: keep the graph for backward passes.

    Yields:
        The start, then the state after every step.

    Raises:
        ConfigError: for settings that contradict one another.
        ShapeError, DtypeError, NonFiniteError: for a start that cannot be right.
    """
    check_model(model)
    solver = as_solver(solver)
    check_grid(grid)
    run = _checked(model, solver, grid, shape, seeds, noise, dtype, device, final, grad)
    return run.follow(model, x, run.noise)


@dataclass(frozen=True, eq=False)
class _Run:
    """The settings of a run, checked: those that stay when some of its samples are run again.

    Attributes:
        legs: the solvers, each with the grid of its own steps.
        shape: (B, *) of the start that is drawn; None where one is given.
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
        """The run from x, or from a drawn start of `batch` samples; by default as many as asked."""
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
            # A compiled trajectory holds no data-dependent branch: it takes its start on trust.
            if not torch.compiler.is_compiling() and (bad := bad_rows(x)):
                raise NonFiniteError(f"the start is not finite in samples {bad[:8]}")
            return x, noise.open(x.shape, x.dtype, x.device)
        assert shape is not None  # for the type checker: exactly one of the two is given
        _check_event(model, shape)
        device = device_of(model) if self.device is None else self.device
        stream = noise.open(shape, self.dtype or torch.float32, device)
        return draw_start(model, self.legs[0][1].knots[0], stream.start()), stream

    def _steps(self, model: Predictor, x: Tensor, stream: NoiseStream) -> Iterator[StepInfo]:
        counted, size, done = Counted(begin(model), remember=True), x.shape[0], 0
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
                        f"{type(moved).__name__}; write `return x, None` where nothing is carried"
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
    """Everything that is given but the start, checked once; see `iterate`."""
    check_noise(noise, seeds)
    check_dtype(dtype)
    check_device(device)
    if grid.sde != model.sde:
        raise ConfigError(
            f"the grid belongs to {grid.sde!r}, the model to {model.sde!r}; "
            "make the grid from model.sde"
        )
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
    """Draw samples: `iterate`, run to its end.

    Args:
        model, solver, grid, x, shape, seeds, noise, dtype, device, final, grad: see `iterate`. A
            state in float16 or bfloat16 is followed in float32, and the samples are cast: three
            digits are too few where alpha is small and eps is what the solver reads.
            Without a grid, the longest that `nfe` pays for, of the family that suits the solver
            (`default_grid`); without a solver, or with "recommended", what `recommended` has for
            `nfe`. A start x needs its grid, which says at what time it is.
        start: the noise level rho = sigma / alpha where a run without a grid begins; "end" for the
            end of the process. By default the library never begins where a network of eps or the
            score cannot be trusted, see `scoresde.sampling.start`; the result says where it began.
        nfe: calls of the model per sample, at most, where no grid is given; 20 by default.
        callback: called after the start and every step.
        keep: which states to keep in `trajectory`: all of them, or those after these steps.
        progress: show a bar (needs tqdm).

    Returns:
        The samples, what they cost, and which of them failed. A sample that is not finite is
        kept as it is and named in `failures` with the step where it went wrong, found by
        running it again; a `NonFiniteWarning` says so.

    Raises:
        See `iterate`.
    """
    began = time.perf_counter()
    check_model(model)
    if x is not None and grid is None:
        raise ConfigError(
            "x is the state at the grid's first knot, and no grid says which; for noise at t_max "
            "write solver, grid = recommended(model.sde, 20), for a state at time t "
            "grid = uniform_lambda(model.sde, 20, t_max=t), then sample(model, solver, grid, x=x)"
        )
    rule, path = choose(model, solver, grid, nfe, start)
    begun = start_of(model, start) if grid is None else at_knot(path.knots[0])
    if grid is not None:
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
        steps = bar(steps, total=count + 1, desc=type(rule).__name__)
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
    return SampleResult(
        x=_in_dtype(info.x, asked, failures),
        nfe=info.nfe,
        steps=info.step,
        grid=path,
        start=begun,
        noise=run.noise,
        seconds=time.perf_counter() - began,
        trajectory=tuple(kept),
        failures=failures,
    )


def _in_dtype(x: Tensor, dtype: torch.dtype | None, failures: dict[int, str]) -> Tensor:
    """The samples in a dtype; those that it cannot hold are added to the failures."""
    if dtype is None or dtype == x.dtype:
        return x
    out = x.to(dtype)
    for row in set(bad_rows(out)) - set(failures):
        failures[row] = f"its values are larger than {dtype} can hold; write dtype=torch.float32"
        warnings.warn(f"sample {row}: {failures[row]}", NonFiniteWarning, stacklevel=3)
    return out


def _check_event(model: Predictor, shape: Sequence[int]) -> None:
    """Closed-form models know the shape of their samples."""
    event = event_shape_of(model)
    if event is not None and tuple(shape[1:]) != event:
        wanted = ", ".join(map(str, event))
        raise ShapeError(
            f"the model's samples have shape {event}, got a batch of shape {tuple(shape)}; "
            f"write shape=({shape[0]}, {wanted})"
        )
