"""Reference solutions of the probability flow: accurate endpoints, and the path to them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..axis import Focus
from ..errors import NonFiniteError, require
from ..grid import focused, uniform_lambda
from ..metrics import endpoint_errors
from ..model import Predictor, device_of
from ..ode import TorchDiffEq
from ..sampling.run import NonFiniteWarning, sample
from ..scalar import scale
from ..sde.knot import Knot
from ..solvers.exponential import ExponentialMultistep
from ..solvers.probability_flow import ProbabilityFlow

_FINE = 192  # steps of the path; at order 4 the error is too small to be seen in a picture


@dataclass(frozen=True, eq=False)
class Reference:
    """Accurate endpoints of the probability flow.

    Attributes:
        x: endpoints, shape (B, *), float64; NaN where the path is not finite.
        accuracy: RMS difference from a solve at ten times the tolerance. It overestimates the
            true error.
        nfe: evaluations per sample of both solves together.
    """

    x: Tensor
    accuracy: float
    nfe: int

    @property
    def missing(self) -> int:
        """Number of samples without a finite endpoint."""
        return int(self.x.flatten(1).isnan().any(1).sum())


def solve_reference(
    model: Predictor,
    x: Tensor,
    *,
    rtol: float | None = None,
    clock: str = "angle",
    partial: bool = False,
) -> Reference:
    """Solve the probability flow from x, shape (B, *), at t_max down to sigma = 0.

    Dormand & Prince's method through torchdiffeq, in float64 outside the network.

    Args:
        rtol: tolerance of the local error. The default is 1e-9 for a start in float64 and 1e-6 for
            others, since the round-off of a float32 network is near that.
        clock: see `ProbabilityFlow`.
        partial: if only some samples have paths that are not finite, set their endpoints to NaN
            and do not raise.

    Raises:
        NonFiniteError: if some endpoint is not finite; with `partial`, if none is.
    """
    grid = uniform_lambda(model.sde, 2)  # to t_min at once, then to sigma = 0
    if rtol is None:
        rtol = 1e-9 if x.dtype == torch.float64 else 1e-6
    found = []
    for tol in (10 * rtol, rtol):
        solver = ProbabilityFlow(TorchDiffEq(rtol=tol, atol=tol), clock=clock)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonFiniteWarning)  # reported below
            out = sample(model, solver, grid, x=x.to(torch.float64), device=device_of(model))
        found.append(out)
    loose, tight = found
    failed = {**loose.failures, **tight.failures}
    if failed and not (partial and len(failed) < len(x)):
        place, why = next(iter(failed.items()))
        raise NonFiniteError(
            f"the reference endpoint of {len(failed)} of {len(x)} samples is not finite, so "
            f"there is nothing to compare with; sample {place}: {why}"
        )
    endpoints = tight.x.cpu().clone()
    endpoints[list(failed)] = torch.nan
    errors = endpoint_errors(loose.x.cpu(), endpoints)
    accuracy = float(errors[errors.isfinite()].square().mean().sqrt())
    nfe = sum(int(out.nfe.max()) for out in found)
    return Reference(endpoints, accuracy, nfe)


class ReferencePath:
    """The probability flow from a few starts, as a function of the noise level.

    A method of order 4 solves it on a fine grid. Between knots it is a cubic spline of
    x / sqrt(alpha^2 + sigma^2) in the angle atan(sigma / alpha); in these variables it is smooth.

    Args:
        angles: angles of the knots, ascending, shape (n,).
        states: normalised states at the knots, shape (n, B, *), float64.
    """

    def __init__(self, angles: Tensor, states: Tensor) -> None:
        self.angles, self.states = angles, states
        spline = require("scipy.interpolate", "bench").CubicSpline
        self._spline = spline(angles.numpy(), states.numpy())

    @classmethod
    def solve(cls, model: Predictor, x: Tensor) -> ReferencePath:
        """Solve the flow from x, shape (B, *), at t_max.

        Raises:
            NonFiniteError: if a state on the path is not finite.
        """
        focus = Focus()
        solver = ExponentialMultistep(4, "v", focus, corrector=4)
        grid = focused(model.sde, _FINE, focus)
        x, device = x.to(torch.float64), device_of(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonFiniteWarning)
            out = sample(model, solver, grid, x=x, device=device, keep=True)
        if out.failures:
            raise NonFiniteError(
                f"the exact path is not finite: {next(iter(out.failures.values()))}"
            )
        steps = out.trajectory[::-1]
        angles = torch.tensor([float(info.knot.angle) for info in steps], dtype=torch.float64)
        return cls(angles, torch.stack([normalised(info.x, info.knot) for info in steps]))

    def errors(self, knots: Sequence[Knot], states: Tensor) -> list[float]:
        """RMS distance of states (knots, B, *) from the path, in the normalised state."""
        out = []
        for knot, state in zip(knots, states, strict=True):
            truth = torch.from_numpy(np.asarray(self._spline(float(knot.angle))))
            errors = endpoint_errors(normalised(state, knot), truth)
            out.append(float(errors.square().mean().sqrt()))
        return out


def normalised(x: Tensor, knot: Knot) -> Tensor:
    """x / sqrt(alpha^2 + sigma^2), in float64 on the CPU."""
    return scale(1.0 / float(knot.radius), x.detach().cpu().to(torch.float64))
