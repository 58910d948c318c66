"""Checks at the door: each made once, before a loop, never in it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from .errors import ConfigError, DtypeError
from .grid import Grid
from .model import Predictor
from .noise import NoiseSource
from .solvers.base import Solver


def check_model(model: Any) -> None:
    """Raise ConfigError, saying what to write, for what is not a predictor."""
    if isinstance(model, Predictor) and not isinstance(model, type):
        return
    raise ConfigError(
        f"a model must know its process, got {_name(model)}; wrap a network first: "
        "ScoreModel(net, VPSDE(), predicts='eps', time=...)"
    )


def check_solver_type(solver: Any) -> None:
    """Raise ConfigError, saying what to write, for what is not a solver."""
    if isinstance(solver, Solver):
        return
    if inspect.isclass(solver) and issubclass(solver, Solver):
        hint = f"write {solver.__name__}()"
    elif isinstance(solver, str):
        hint = f"write names.solver({solver!r}) after `from scoresde import names`, or Heun()"
    elif hasattr(solver, "evals"):
        hint = f"a corrector goes into PredictorCorrector(corrector={type(solver).__name__}(...))"
    else:
        hint = "write one, such as Heun()"
    raise ConfigError(f"the solver must be an instance of Solver, got {_name(solver)}; {hint}")


def check_grid(grid: Any) -> None:
    """Raise ConfigError, saying what to write, for what is not a grid."""
    if isinstance(grid, Grid):
        return
    hint = (
        f"uniform_lambda(model.sde, {grid})"
        if isinstance(grid, int)
        else "from_times(model.sde, [...]) for your own times"
    )
    raise ConfigError(f"the grid must be a Grid, got {_name(grid)}; write {hint}")


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
