"""Endpoints of the probability flow, solved tightly, with a statement of how tightly."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..grid import uniform_lambda
from ..metrics import endpoint_errors
from ..model import Predictor
from ..ode import TorchDiffEq
from ..sampling import sample
from ..solvers.probability_flow import ProbabilityFlow


@dataclass(frozen=True, eq=False)
class Reference:
    """Endpoints to compare with.

    Attributes:
        x: endpoints, shape (B, *), float64.
        accuracy: RMS difference from a solve at ten times the tolerance: above the true error.
        nfe: evaluations per sample that both solves took.
    """

    x: Tensor
    accuracy: float
    nfe: int


def solve_reference(
    model: Predictor, x: Tensor, *, rtol: float | None = None, clock: str = "angle"
) -> Reference:
    """Solve the probability flow from x, shape (B, *), at t_max down to sigma = 0.

    Dormand & Prince's method through torchdiffeq, in float64 outside the network.

    Args:
        rtol: tolerance of the local error; 1e-9 for a start in float64 and 1e-6 for others, since
            a network that computes in float32 has noise of its own near that.
        clock: see `ProbabilityFlow`.

    Raises:
        NonFiniteError: if some endpoint is not finite.
    """
    grid = uniform_lambda(model.sde, 2)  # to t_min at once, then to sigma = 0
    if rtol is None:
        rtol = 1e-9 if x.dtype == torch.float64 else 1e-6
    found = []
    for tol in (10 * rtol, rtol):
        solver = ProbabilityFlow(TorchDiffEq(rtol=tol, atol=tol), clock=clock)
        found.append(sample(model, solver, grid, x=x.to(torch.float64)))
    if found[1].failures:
        place, why = next(iter(found[1].failures.items()))
        raise NonFiniteError(f"the reference of sample {place} is not finite: {why}")
    loose, tight = found
    accuracy = float(endpoint_errors(loose.x, tight.x).square().mean().sqrt())
    nfe = sum(int(torch.as_tensor(out.nfe).max()) for out in found)
    return Reference(tight.x, accuracy, nfe)
