"""Checks at the door: each made once, before a loop, never in it."""

from __future__ import annotations

import inspect
from operator import index
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DtypeError, ShapeError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseSource
from ..sde import SDE
from ..solvers.probability_flow import ProbabilityFlow
from ..solvers.solver import Solver
from . import specs


def check_model(model: Any) -> None:
    """Raise ConfigError, saying what to write, for what is not a predictor."""
    if isinstance(model, Predictor) and not isinstance(model, type):
        return
    hint = "wrap a network first: ScoreModel(net, VPSDE(), predicts='eps', time=...)"
    if isinstance(model, str):
        hint = f"write load_pretrained({model!r}), or ring8(VPSDE()) of scoresde.exact.problems"
    elif isinstance(model, SDE):
        hint = "the model comes first, and brings its process along"
    raise ConfigError(f"a model must know its process, got {_name(model)}; {hint}")


def check_kind(value: Any, kind: type, what: str, hint: str) -> None:
    """Raise ConfigError, saying what to write, for a value of another kind."""
    if not isinstance(value, kind):
        given = repr(value) if isinstance(value, str | int | float) else _name(value)
        raise ConfigError(f"{what} must be a {kind.__name__}, got {given}; write {hint}")


def as_solver(solver: Any) -> Solver:
    """The solver, or that of a name such as "Heun"; ConfigError, saying what to write, for neither.

    See `scoresde._internal.specs`.
    """
    if isinstance(solver, str):
        return specs.solver(solver)
    if isinstance(solver, Solver):
        return solver
    if inspect.isclass(solver) and issubclass(solver, Solver):
        hint = f"write {solver.__name__}()"
    elif hasattr(solver, "evals"):
        hint = f"a corrector goes into PredictorCorrector(corrector={type(solver).__name__}(...))"
    else:
        hint = "write one, such as Heun() or 'Heun'"
    raise ConfigError(f"the solver must be an instance of Solver, got {_name(solver)}; {hint}")


def as_flow(solver: Any) -> ProbabilityFlow:
    """The solver of something that runs both ways in time; `ProbabilityFlow()` for None.

    Raises:
        ConfigError: for any other solver.
    """
    found = ProbabilityFlow() if solver is None else as_solver(solver)
    if isinstance(found, ProbabilityFlow):
        return found
    raise ConfigError(
        "between data and latents only the probability flow runs both ways, got "
        f"{specs.describe(found)}; write solver=ProbabilityFlow(...), or leave it out"
    )


def check_grid(grid: Any) -> None:
    """Raise ConfigError, saying what to write, for what is not a grid."""
    if isinstance(grid, Grid):
        return
    if isinstance(grid, int):
        hint = f"uniform_lambda(model.sde, {grid})"
    elif callable(grid) and hasattr(grid, "__name__"):
        hint = f"{grid.__name__}(model.sde, 20)"
    elif isinstance(grid, str) and grid.endswith(".json"):
        hint = f"solver, grid = tune.load({grid!r}, model) after `from scoresde import tune`"
    elif isinstance(grid, str) and specs.is_named(grid, specs.GRIDS):
        name, bracket, rest = grid.partition("(")
        bound = rest if bracket else ")"
        hint = f"{name}(model.sde, 20{', ' if bracket else ''}{bound} of scoresde.grid"
    else:
        hint = "from_times(model.sde, [...]) for your own times"
    raise ConfigError(f"the grid must be a Grid, got {_name(grid)}; write {hint}")


def check_budget(nfe: Any) -> None:
    """Raise ConfigError for what is no number of network evaluations."""
    if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < 1:
        raise ConfigError(f"a budget is a whole number of evaluations, 1 or more, got {nfe!r}")


def check_noise(noise: Any, seeds: Any) -> None:
    """Raise ConfigError for noise that is no source, or is given twice."""
    if noise is None:
        return
    if not isinstance(noise, NoiseSource):
        hint = "Predrawn((...,))" if isinstance(noise, Tensor | list | tuple) else "BatchSeed(0)"
        raise ConfigError(f"noise must be a NoiseSource, got {_name(noise)}; write noise={hint}")
    if not (isinstance(seeds, int) and seeds == 0):
        raise ConfigError(f"give seeds or noise, not both; got seeds={seeds!r} and {noise!r}")


def check_tensor(x: Any, what: str) -> None:
    """Raise DtypeError, saying what to write, unless x is a floating-point tensor."""
    if not isinstance(x, Tensor):
        hint = "torch.as_tensor(x)" if hasattr(x, "__array__") else "torch.tensor(x)"
        raise DtypeError(f"{what} must be a tensor, got {_name(x)}; write {hint}")
    if not x.is_floating_point():
        raise DtypeError(f"{what} must be floating point, got {x.dtype}; write x.float()")


def check_batch(x: Any, what: str) -> None:
    """Raise DtypeError or ShapeError unless x is floating point, of shape (B, *)."""
    check_tensor(x, what)
    if x.ndim == 0:
        raise ShapeError(f"{what} must have shape (B, *), got a single number; write x[None]")


def check_shape(shape: Any, form: str) -> tuple[int, ...]:
    """The shape as whole numbers, such as "(B, ...)"; ShapeError for anything else."""
    try:
        sizes = tuple(index(n) for n in shape)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 0:
        raise ShapeError(f"shape must be {form} in whole numbers, got {shape!r}")
    return sizes


def check_dtype(dtype: Any) -> None:
    """Raise DtypeError unless dtype is None or a floating-point torch dtype."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return
    raise DtypeError(f"dtype must be floating point, got {dtype!r}; write dtype=torch.float32")


def check_device(device: Any) -> None:
    """Raise ConfigError for a CUDA device where there is none."""
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device={str(device)!r}, but no CUDA device is here; write device='cpu'")


def _name(value: Any) -> str:
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
