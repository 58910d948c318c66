"""Checks of arguments, made once before a loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, DtypeError, ScoreSDEError, ShapeError
from ..grid import Grid
from ..model import Predictor, device_of
from ..noise import NoiseSource
from ..sde import SDE
from ..solvers.probability_flow import ProbabilityFlow
from ..solvers.solver import Solver
from ..wrapper import evals_per_call, networks_of
from . import specs
from .net_facts import bare, in_lockstep


def check_model(model: Any) -> None:
    """Raise ConfigError with a hint if `model` is not a predictor."""
    if isinstance(model, Predictor) and not isinstance(model, type):
        return
    hint = "wrap a network first: ScoreModel(net, VPSDE(), predicts='eps', time=...)"
    if isinstance(model, str):
        hint = f"write load_pretrained({model!r}), or ring8(VPSDE()) of scoresde.exact.problems"
    elif isinstance(model, SDE):
        hint = "pass the model first; it has the process"
    raise ConfigError(f"a model must have a process, got {_name(model)}; {hint}")


def check_kind(value: Any, kind: type, what: str, hint: str) -> None:
    """Raise ConfigError with a hint if `value` is not of this kind."""
    if not isinstance(value, kind):
        given = repr(value) if isinstance(value, str | int | float) else _name(value)
        raise ConfigError(f"{what} must be a {kind.__name__}, got {given}; write {hint}")


def as_solver(solver: Any) -> Solver:
    """The solver, or the solver with a name such as "Heun" (see `scoresde._internal.specs`).

    Raises:
        ConfigError: for anything else, with a hint.
    """
    if isinstance(solver, str):
        return specs.solver(solver)
    if isinstance(solver, Solver):
        return solver
    if inspect.isclass(solver) and issubclass(solver, Solver):
        hint = f"write {solver.__name__}()"
    elif hasattr(solver, "evals_per_call"):
        hint = f"a corrector goes into PredictorCorrector(corrector={type(solver).__name__}(...))"
    else:
        hint = "write one, such as Heun() or 'Heun'"
    raise ConfigError(f"the solver must be an instance of Solver, got {_name(solver)}; {hint}")


def as_flow(solver: Any) -> ProbabilityFlow:
    """The `ProbabilityFlow` solver, for functions that run in both directions of time.

    None gives `ProbabilityFlow()`.

    Raises:
        ConfigError: for any other solver.
    """
    found = ProbabilityFlow() if solver is None else as_solver(solver)
    if isinstance(found, ProbabilityFlow):
        return found
    raise ConfigError(
        "only the probability flow runs both ways between data and latents, got "
        f"{specs.describe(found)}; write solver=ProbabilityFlow(...), or omit the solver"
    )


def check_grid(grid: Any) -> None:
    """Raise ConfigError with a hint if `grid` is not a grid."""
    if isinstance(grid, Grid):
        return
    if isinstance(grid, int):
        hint = f"uniform_lambda(model.sde, {grid})"
    elif callable(grid) and hasattr(grid, "__name__"):
        hint = f"{grid.__name__}(model.sde, 20)"
    elif isinstance(grid, str) and grid.endswith(".json"):
        hint = f"solver, grid = tune.load({grid!r}, model) after `from scoresde import tune`"
    elif isinstance(grid, str) and specs.is_named(grid, specs.GRIDS):
        name, _, rest = grid.rstrip(")").partition("(")
        hint = f"scoresde.grid.{name}(model.sde, 20{', ' if rest else ''}{rest})"
    else:
        hint = "from_times(model.sde, [...]) for your own times"
    raise ConfigError(f"the grid must be a Grid, got {_name(grid)}; write {hint}")


def calls_within(model: Predictor, nfe: int) -> int:
    """How many calls of a model a budget of network evaluations pays for: half as many under
    guidance.

    Raises:
        ConfigError: for what is no budget, or one that does not pay for a single call.
    """
    check_budget(nfe)
    cost = evals_per_call(model)
    if nfe < cost:
        raise ConfigError(
            f"nfe={nfe} does not pay for one call of this {type(model).__name__}, which takes "
            f"{cost} network evaluations; write nfe={10 * cost}"
        )
    return nfe // cost


def check_budget(nfe: Any) -> None:
    """Raise ConfigError if `nfe` is not a whole number, 1 or more."""
    if not isinstance(nfe, int) or isinstance(nfe, bool) or nfe < 1:
        raise ConfigError(f"nfe must be a whole number of evaluations, 1 or more, got {nfe!r}")


def check_noise(noise: Any, seeds: Any) -> None:
    """Raise ConfigError if `noise` is not a NoiseSource, or seeds are given too."""
    if noise is None:
        return
    if not isinstance(noise, NoiseSource):
        hint = "Predrawn((...,))" if isinstance(noise, Tensor | list | tuple) else "BatchSeed(0)"
        raise ConfigError(f"noise must be a NoiseSource, got {_name(noise)}; write noise={hint}")
    if not (isinstance(seeds, int) and seeds == 0):
        raise ConfigError(f"give seeds or noise, not both; got seeds={seeds!r} and {noise!r}")


def check_tensor(x: Any, what: str) -> None:
    """Raise DtypeError with a hint unless x is a floating-point tensor."""
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
    """The shape as whole numbers; ShapeError for anything else, with the form, as "(B, ...)"."""
    try:
        sizes = tuple(index(n) for n in shape)
    except TypeError:
        sizes = ()
    if not sizes or min(sizes) < 0:
        raise ShapeError(f"a shape must be {form} in whole numbers, got {shape!r}")
    return sizes


def check_event_shape(event_shape: Any, known: Any = None) -> tuple[int, ...]:
    """The shape of one sample as whole numbers, without the batch.

    Args:
        event_shape: as the caller gave it.
        known: the shape that the model or its data have; None if it is not known.

    Raises:
        ShapeError: for anything but whole numbers, or if the shape is not the known one.
    """
    event = check_shape(event_shape, "that of one sample, without the batch,")
    if known is None or event == tuple(known):
        return event
    why = "; event_shape has no batch in it" if event[1:] == tuple(known) else ""
    raise ShapeError(
        f"event_shape={event} is not the shape of a sample, {tuple(known)}{why}; write "
        f"event_shape={tuple(known)}, or omit it"
    )


@contextmanager
def explained_shape(model: Predictor, event: tuple[int, ...]) -> Iterator[None]:
    """Turn the error of a network that cannot take samples of this shape into a ShapeError.

    All other errors stay as they are. To find out, the network is called on one sample of zeros.
    """
    try:
        yield
    except ScoreSDEError:
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        one = torch.zeros((1, *event), device=device_of(model))
        try:
            with torch.no_grad():
                model.rows(torch.tensor([0], device=one.device))(one, model.sde.at(model.sde.t_max))
        except (RuntimeError, ValueError, IndexError) as reason:
            raise ShapeError(
                f"the network does not take samples of event_shape={event} "
                f"({str(reason).partition(chr(10))[0]}); event_shape is the shape of one sample, "
                "without the batch, such as (3, 32, 32)"
            ) from error
        raise


def check_lockstep(model: Predictor, what: str, grad: bool) -> None:
    """Raise ConfigError where a network talks to other ranks at each call, and the number of calls
    of `what` depends on the data: a rank that is done would leave the others waiting for ever.
    """
    for net in networks_of(model):
        if kind := in_lockstep(net if grad else bare(net)):
            raise ConfigError(
                f"{what} takes as many calls as its data need, and {kind} waits for all ranks at "
                "each call, so that a run may never end; write a method with a fixed number of "
                "calls, such as a solver on a grid or FixedGrid(41)"
            )


def check_dtype(dtype: Any) -> None:
    """Raise DtypeError unless dtype is None or a floating-point torch dtype."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return
    raise DtypeError(f"dtype must be floating point, got {dtype!r}; write dtype=torch.float32")


def check_graph(grad: bool) -> None:
    """Raise ConfigError where a graph is asked for and torch's inference mode records none."""
    if grad and torch.is_inference_mode_enabled():
        raise ConfigError(
            "grad=True asks for a graph, and torch.inference_mode() records none; leave that mode, "
            "or write `with torch.inference_mode(False):` around this call"
        )


def check_device(device: Any) -> None:
    """Raise ConfigError for a CUDA device if there is none."""
    if device is not None and torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device={str(device)!r}, but there is no CUDA device; write device='cpu'"
        )


def _name(value: Any) -> str:
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
