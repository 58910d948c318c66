"""The interface of integrators, which solve a `DensityFlow` from the clean to the noisy end."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..ode import Backend, integrate_rows
from .density_flow import DensityFlow, no_traces


@dataclass(eq=False)
class Path:
    """The result of a method, for a batch of B samples.

    Attributes:
        z: the state at the noisy end, shape (B, *).
        log_det: the integral of the traces, a mean over probes, shape (B,).
        variance: variance of `log_det` from random probes, shape (B,); NaN if unknown.
        error: estimate of the integration's own error of the log-density, in nats, shape (B,). For
            95% of samples it should exceed a third of the true error. NaN if the method gives none.
        failures: reason of each failure, by index in the batch; their values are NaN.
        traced: evaluations that also computed the divergence, shape (B,); None means all.
    """

    z: Tensor
    log_det: Tensor
    variance: Tensor
    error: Tensor
    failures: dict[int, str] = field(default_factory=dict)
    traced: Tensor | None = None


class Method(ABC):
    """An integrator of state and log-density, as a frozen value."""

    @abstractmethod
    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """Integrate from z, shape (B, *), at the clean end."""


@dataclass(frozen=True)
class BlackBox(Method):
    """A general ODE solver (a `Backend`) as a method, with fixed probes and one step size."""

    backend: Backend

    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """See `Method`."""
        divergence = flow.divergence
        start = z, no_traces(z, divergence.columns)
        solved = integrate_rows(self.backend, flow.fixed(), start, *flow.ends)
        traces = solved.parts[1]
        return Path(
            z=solved.parts[0],
            log_det=traces.mean(1),
            variance=variance_of_mean(traces, exact=divergence.exact),
            error=torch.full_like(traces[:, 0], math.nan),
            failures=solved.failures,
        )


def variance_of_mean(columns: Tensor, *, exact: bool) -> Tensor:
    """Variance of the mean over probes, shape (B,), from shape (B, P); NaN for one probe."""
    if exact:
        return torch.zeros_like(columns[:, 0]).detach()
    if columns.shape[1] < 2 or len(columns) == 0:
        return torch.full_like(columns[:, 0], math.nan).detach()
    return columns.detach().var(1) / columns.shape[1]
