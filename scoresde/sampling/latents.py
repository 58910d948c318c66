"""Data to latents and back, along the probability flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._internal.checks import as_flow, check_batch, check_graph, check_lockstep, check_model
from ..errors import ShapeError
from ..model import Predictor
from ..solvers.probability_flow import ProbabilityFlow
from ..wrapper import begin


def encode(
    model: Predictor,
    x: Tensor,
    *,
    solver: ProbabilityFlow | str | None = None,
    t_min: float | None = None,
    grad: bool = False,
) -> Tensor:
    """The latents at t_max of the states x at t_min, along the probability flow.

    Args:
        model: the model.
        x: the states, shape (B, *).
        solver: `ProbabilityFlow()` by default, or its name with arguments, as on the command line;
            with clock="angle" it can reach alpha = 0.
        t_min: time of x; the process's t_min by default.
        grad: keep the graph for backward passes.

    Returns:
        The latents, shape (B, *), with NaN in samples for which the solver failed.

    Raises:
        ConfigError: for another solver, since only the probability flow runs both ways.
        DtypeError, ShapeError: if x is not a floating-point tensor of shape (B, *).
    """
    return _follow(model, x, solver, t_min, grad, up=True)


def decode(
    model: Predictor,
    z: Tensor,
    *,
    solver: ProbabilityFlow | str | None = None,
    t_min: float | None = None,
    grad: bool = False,
) -> Tensor:
    """The states at t_min of latents at t_max: the inverse of `encode`."""
    return _follow(model, z, solver, t_min, grad, up=False)


def _follow(
    model: Predictor, x: Tensor, solver: Any, t_min: float | None, grad: bool, *, up: bool
) -> Tensor:
    check_model(model)
    check_batch(x, "the data" if up else "the latent")
    check_graph(grad)
    flow, sde = as_flow(solver), model.sde
    if flow.backend.evals_per_solve is None:
        check_lockstep(model, type(flow).__name__, grad)
    ends = sde.at(sde.t_min if t_min is None else t_min), sde.at(sde.t_max)
    with torch.set_grad_enabled(grad):
        return flow.solve(begin(model), x, *(ends if up else ends[::-1]))[0]


def round_trip_error(
    model: Predictor,
    x: Tensor,
    *,
    solver: ProbabilityFlow | str | None = None,
    t_min: float | None = None,
    grad: bool = False,
) -> Tensor:
    """The distance between x and `decode(encode(x))`, one number per sample.

    The flow is a bijection, so this is only the error of the solver, in both directions together.

    Returns:
        Root mean square over the coordinates, in units of x, shape (B,); NaN if the solver failed.
    """
    latent = encode(model, x, solver=solver, t_min=t_min, grad=grad)
    back = decode(model, latent, solver=solver, t_min=t_min, grad=grad)
    with torch.set_grad_enabled(grad):
        return (back - x).flatten(1).square().mean(1).sqrt()


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation between latents, sample by sample, shape (B, *).

    Shoemake, "Animating Rotation with Quaternion Curves", 1985. Between two independent normal
    latents, points on the arc have the norm of a normal latent; points on the straight line have a
    smaller one. Parallel latents, and latents of norm 0, are interpolated linearly.

    Args:
        a, b: the latents, shape (B, *).
        weight: 0 for a, 1 for b; a number, or one per sample, shape (B,).

    Raises:
        ShapeError: for latents of different shapes.
    """
    if a.shape != b.shape:
        raise ShapeError(f"latents must have one shape, got {tuple(a.shape)}, {tuple(b.shape)}")
    wide = [-1, *[1] * (a.ndim - 1)]
    w = torch.as_tensor(weight, dtype=a.dtype, device=a.device).reshape(wide)
    sizes = [v.flatten(1).norm(dim=1).reshape(wide) for v in (a, b)]
    zero = (sizes[0] == 0) | (sizes[1] == 0)
    unit = [v / torch.where(zero, 1.0, size) for v, size in zip((a, b), sizes, strict=True)]
    # The angle from half chords, which is accurate for small and for large angles.
    apart, together = ((unit[0] + s * unit[1]).flatten(1).norm(dim=1) for s in (-1, 1))
    angle = 2 * torch.atan2(apart, together).reshape(wide)
    whole = angle.sin()
    straight = (whole < 1e-6) | zero
    whole = torch.where(straight, torch.ones_like(whole), whole)
    first = torch.where(straight, 1 - w, ((1 - w) * angle).sin() / whole)
    second = torch.where(straight, w, (w * angle).sin() / whole)
    return first * a + second * b


def interpolate(
    model: Predictor,
    a: Tensor,
    b: Tensor,
    count: int,
    *,
    solver: ProbabilityFlow | str | None = None,
    t_min: float | None = None,
    grad: bool = False,
) -> Tensor:
    """Interpolation between data a and b: encode both, `slerp` the latents, decode.

    Args:
        model: the model.
        a, b: the data, shape (B, *).
        count: number of points, with both ends; the ends are a and b up to the solver's error.
        solver, t_min, grad: see `encode`.

    Returns:
        The points, shape (B, count, *).

    Raises:
        ShapeError: for fewer than two points, or data of different shapes.
    """
    if count < 2:
        raise ShapeError(f"count must be a whole number, 2 or more, got {count!r}")
    if a.shape != b.shape:
        raise ShapeError(f"data must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    first, last = (encode(model, x, solver=solver, t_min=t_min, grad=grad) for x in (a, b))
    weights = torch.linspace(0, 1, count, dtype=torch.float64).tolist()
    rows = torch.arange(len(a), device=a.device).repeat_interleave(count)
    with torch.set_grad_enabled(grad):
        latents = torch.stack([slerp(first, last, weight) for weight in weights], 1).flatten(0, 1)
    found = decode(model.rows(rows), latents, solver=solver, t_min=t_min, grad=grad)
    return found.reshape(len(a), count, *a.shape[1:])
