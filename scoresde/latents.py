"""Data to latents and back, along the probability flow."""

from __future__ import annotations

from torch import Tensor

from .model import Predictor
from .solvers.probability_flow import ProbabilityFlow


def encode(
    model: Predictor,
    x: Tensor,
    *,
    solver: ProbabilityFlow | None = None,
    t_min: float | None = None,
) -> Tensor:
    """The latent at t_max of x, the state at t_min, shape (B, *); NaN where the solver failed.

    Args:
        model: what predicts.
        x: shape (B, *).
        solver: `ProbabilityFlow()` by default; clock="angle" reaches alpha = 0.
        t_min: the process's own by default.
    """
    sde = model.sde
    low = sde.at(sde.t_min if t_min is None else t_min)
    return (solver or ProbabilityFlow()).solve(model, x, low, sde.at(sde.t_max))[0]


def decode(
    model: Predictor,
    z: Tensor,
    *,
    solver: ProbabilityFlow | None = None,
    t_min: float | None = None,
) -> Tensor:
    """The state at t_min of a latent at t_max: the inverse of `encode`."""
    sde = model.sde
    low = sde.at(sde.t_min if t_min is None else t_min)
    return (solver or ProbabilityFlow()).solve(model, z, sde.at(sde.t_max), low)[0]
