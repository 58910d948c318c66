r"""Integration in two phases: first the path by forward passes, then the divergence.

A Runge-Kutta method needs the trace at every stage. But the integral of a smooth function over a
step needs only a few nodes of a Gauss quadrature. The states at these nodes come from the
continuous extension of the accepted steps. Rejected steps cost no divergence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..scalar import Scalar
from .density_flow import DensityFlow, no_traces
from .divergence import Exact
from .method import Method, Path, variance_of_mean
from .per_sample import PerSample, Run

_CAUTION = 3.0
"""Safety factor on the quadrature error; a divided difference is too small with few nodes."""


@dataclass(frozen=True)
class TwoPhase(Method):
    """Dormand-Prince 5(4) for the path, as in `PerSample`, with a few divergences in each step.

    It needs about half of the divergences of `PerSample` and some more forward passes. It is faster
    if a divergence costs more than a forward pass, as with `Exact()` or several probes.

    Attributes:
        tol: as in `PerSample`, for the state and its effect on the log-density.
        max_evals: largest number of evaluations along the path; a sample that needs more fails.
        max_step: longest step in log rho.
        nodes: number of divergences in each step.
    """

    tol: float = 1e-4
    max_evals: int = 2000
    max_step: float = 1.0
    nodes: int = 3

    def __post_init__(self) -> None:
        PerSample(self.tol, self.max_evals, self.max_step)  # makes the same checks
        if self.nodes not in range(1, 6):
            raise ConfigError(f"nodes must be a whole number from 1 to 5, got {self.nodes!r}")

    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """See `Method`."""
        if not getattr(flow.divergence, "fresh", False):
            flow = flow.fixed()
        rule = PerSample(self.tol, self.max_evals, self.max_step)
        at, weights = (0.5 * part for part in np.polynomial.legendre.leggauss(self.nodes))
        first = Run(rule, _plain(flow), z, tuple((0.5 + at).tolist()))
        path = first.finish()
        nodes = _Nodes(flow, z, first, weights.tolist())
        path.log_det = torch.where(path.log_det.isnan(), math.nan, nodes.traces.mean(1))
        exact, fresh = flow.divergence.exact, flow.probes is None and not flow.divergence.exact
        chance = nodes.variance if fresh else variance_of_mean(nodes.traces, exact=exact)
        path.variance = torch.where(path.log_det.isnan(), math.nan, chance)
        path.error = path.error + _CAUTION * nodes.error()
        path.traced = nodes.count
        return path


@dataclass(frozen=True, eq=False)
class _Plain(DensityFlow):
    """A flow without the divergence."""

    def velocity_and_traces(
        self, tau: Scalar, z: Tensor, probes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and 0 instead of the trace."""
        return self.velocity(tau, z), no_traces(z, 1)


def _plain(flow: DensityFlow) -> _Plain:
    parts = {part.name: getattr(flow, part.name) for part in fields(flow)}
    return _Plain(**{**parts, "divergence": Exact(), "probes": None})


class _Nodes:
    """Traces at the Gauss nodes of every sample, and their integrals."""

    def __init__(self, flow: DensityFlow, z: Tensor, path: Run, weights: list[float]) -> None:
        batch, fresh = len(z), flow.probes is None and not flow.divergence.exact
        self.fractions, steps = path.fractions, path.steps
        self.traces = no_traces(z, flow.divergence.columns)
        self.variance = z.new_zeros(batch)
        self.count = torch.zeros(batch, dtype=torch.long, device=z.device)
        # By sample and node, for the error estimate; missing steps of a sample have length 0.
        shape = batch, len(weights) * len(steps)
        self.at, self.value, self.chance = (z.new_zeros(shape) for _ in range(3))
        self.length = z.new_zeros(batch, len(steps))
        for step in steps:
            rows, places = flow.rows(step.places), step.places
            self.length[places, self.count[places] // len(weights)] = step.h
            for c, weight, state in zip(self.fractions, weights, step.inside, strict=True):
                probes = rows.probes if rows.probes is not None else rows.stream.draw()
                tau, node = step.tau + c * step.h, self.count[places]
                trace = rows.velocity_and_traces(tau, state, probes)[1]
                gain = weight * step.h
                self.traces = self.traces.index_add(0, places, gain[:, None] * trace)
                self.at[places, node] = tau
                self.value[places, node] = trace.detach().mean(1)
                if fresh:
                    spread = variance_of_mean(trace, exact=False)
                    self.chance[places, node] = spread
                    self.variance.index_add_(0, places, gain**2 * spread)
                self.count[places] += 1

    def error(self) -> Tensor:
        """Estimate of the quadrature's error, shape (B,).

        With n nodes, the error of a step is the divided difference of order 2n times the integral
        of the squared node polynomial. There are two windows of 2n + 1 consecutive nodes around
        the step; the larger difference counts. The squares of local errors add up, and the part
        that comes from random probes is subtracted.
        """
        n, device = len(self.fractions), self.at.device
        power = np.poly1d(np.asarray(self.fractions), r=True)
        factor = float((power * power).integ()(1.0))
        reach = torch.arange(2 * n + 1, device=device)
        total = torch.zeros_like(self.variance)
        for k in range(self.length.shape[1]):
            worst = torch.zeros_like(total)
            for before in ((n + 1) // 2, (n + 2) // 2):
                last = (self.count - (2 * n + 1)).clamp_min(0)
                first = last.clamp_max(max(n * k - before, 0))
                window = (first[:, None] + reach).clamp_max(self.at.shape[1] - 1)
                at, value, chance = (
                    part.gather(1, window) for part in (self.at, self.value, self.chance)
                )
                gaps = at[:, :, None] - at[:, None, :] + torch.eye(2 * n + 1).to(at)
                weights = 1.0 / gaps.prod(2)
                square = (weights * value).sum(1).square() - (weights.square() * chance).sum(
                    1
                ).nan_to_num()
                worst = torch.maximum(worst, square)
            local = (factor * self.length[:, k] ** (2 * n + 1)).square() * worst
            total = total + torch.where(self.length[:, k] > 0, local, 0.0)
        return total.sqrt()
