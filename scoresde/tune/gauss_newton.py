r"""Minimise a trial's objective over knots and settings, by Gauss-Newton with damping.

The objective weighs squared endpoint errors, with weights that depend on the errors themselves
(iteratively reweighted least squares). Steps follow Levenberg and Marquardt. The Jacobian is
computed by finite differences, one run for each parameter. Between these, Broyden's rank-one update
keeps it current (Broyden, "A Class of Methods for Solving Nonlinear Simultaneous Equations", 1965),
so that most steps cost a single run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .endpoint_objective import Candidate, Trial

Array = NDArray[np.float64]

_STEP = 0.03  # of a finite difference; its effect is above the round-off of a float32 network
_RADIUS = 0.5  # largest step of any parameter; all parameters are logarithms
_CARRIED = 5  # steps with one Jacobian
_ENOUGH = 2e-3  # a smaller gain in the objective ends the search


def refine(trial: Trial, make: Callable[[Array], Candidate], start: Array, jacobians: int) -> Array:
    """The best parameters found from `start`, with at most that many Jacobians."""
    theta, damping = start, 1e-2
    errors = trial.errors(make(theta))
    value = trial.objective(errors)
    for _ in range(jacobians):
        before = value
        jacobian = _differences(trial, make, theta, errors)
        for _ in range(_CARRIED):
            step = _step(trial.slope(errors), jacobian, errors, damping)
            moved = trial.errors(make(theta + step))
            found = trial.objective(moved)
            _carry_on(jacobian, moved - errors, step)
            if found < value:
                gain, damping = value - found, max(damping / 4, 1e-7)
                theta, errors, value = theta + step, moved, found
                if gain < _ENOUGH:
                    break
            else:
                damping = min(damping * 8, 1e4)
        if before - value < _ENOUGH:
            break
    return theta


def _differences(
    trial: Trial, make: Callable[[Array], Candidate], theta: Array, errors: Tensor
) -> Tensor:
    """Derivatives of all errors, shape (P, B, D), float32, which is accurate enough for steps."""
    columns = [
        ((trial.errors(make(theta + _STEP * unit)) - errors) / _STEP).to(torch.float32)
        for unit in np.eye(len(theta))
    ]
    return torch.stack(columns)


def _carry_on(jacobian: Tensor, change: Tensor, step: Array) -> None:
    """Broyden's update, in place: the smallest change consistent with the last step."""
    along = torch.from_numpy(step).to(torch.float32)
    missed = change.to(torch.float32) - torch.einsum("p,pbd->bd", along, jacobian)
    jacobian += (along / float(along @ along))[:, None, None] * missed


def _step(slope: Tensor, jacobian: Tensor, errors: Tensor, damping: float) -> Array:
    root = slope.sqrt().to(torch.float32)[:, None]
    rows = (jacobian * root).flatten(1).to(torch.float32)
    curvature = (rows @ rows.T).double().numpy()
    gradient = (rows @ (errors.to(torch.float32) * root).flatten()).double().numpy()
    scale = np.diag(curvature) + 1e-9 * np.trace(curvature) + 1e-300
    step: Array = -np.linalg.solve(curvature + damping * np.diag(scale), gradient)
    return step * min(1.0, _RADIUS / float(np.abs(step).max() + 1e-300))
