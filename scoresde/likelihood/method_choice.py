"""Choose an integrator for a model, by its errors on a few pilot samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError
from ..model import Predictor, dtype_of
from ..noise import generator, normal
from .calibrate import Pilot
from .divergence import Divergence
from .end import EndLike
from .fixed_grid import FixedGrid
from .frame import Frame
from .log_density import density_flow
from .method import Method
from .per_sample import PerSample

_NODES = (17, 23, 31, 41, 55, 75)


@dataclass(frozen=True)
class Choice:
    """The result of `choose_method`: a method, its error and the cost of the choice.

    Attributes:
        method: the method, for `log_likelihood`.
        error: its error in bits per dimension: for a grid the mean on the pilot, for the adaptive
            method the tolerance of a step.
        floor: the error from the network's round-off, in bits per dimension.
        pilot_evals: network evaluations of the choice, for each pilot sample.
    """

    method: Method
    error: float
    floor: float
    pilot_evals: int

    def __str__(self) -> str:
        return (
            f"{_described(self.method)}: {self.error:.1e} bits/dim on the pilot, round-off "
            f"{self.floor:.1e}, {self.pilot_evals} evaluations a pilot sample"
        )


def choose_method(
    model: Predictor,
    pilot: Tensor,
    *,
    error: float = 1e-3,
    t_min: float | None = None,
    divergence: Divergence | None = None,
    frame: Frame | None = None,
    end: EndLike = None,
    seeds: int | Sequence[int] = 0,
) -> Choice:
    """Choose the cheapest integrator whose mean error on a pilot is small enough.

    The pilot follows one dense grid. From it, grids of 17 to 75 nodes are fitted and tested, the
    smallest first. If none is accurate enough, the adaptive method is chosen. This happens if modes
    separate suddenly, at a different time for each sample. The target is never below the network's
    round-off.

    Args:
        model: the model.
        pilot: a few typical samples, such as 4 to 16 images, shape (B, *).
        error: the largest allowed error of the integration, in bits per dimension.
        t_min, divergence, frame, end, seeds: the same as in the later call of `log_likelihood`.

    Raises:
        ConfigError: for an error that is not positive.
        NonFiniteError: if a pilot sample fails.
    """
    if not error > 0:
        raise ConfigError(f"the error must be positive, got {error!r}; write error=1e-3")
    settings: dict[str, Any] = {
        "t_min": t_min, "divergence": divergence, "frame": frame, "end": end,
        "seeds": seeds,
    }  # fmt: skip
    floor = round_off(model, pilot, **settings)
    target = max(error, floor)
    seen = Pilot(model, pilot, 2 * _NODES[-1], **settings)
    cost = 2 + seen.dense.nodes
    if seen.error < target * math.log(2):
        for nodes in _NODES:
            grid, found, _ = seen.grid(nodes)
            cost += nodes
            if found < target * math.log(2):
                return Choice(grid, found / math.log(2), floor, cost)
    return Choice(PerSample(0.3 * target * math.log(2)), 0.3 * target, floor, cost)


def round_off(model: Predictor, pilot: Tensor, **settings: Any) -> float:
    """Error of the log-density from the network's round-off, in bits per dimension.

    In the middle of the path, the trace is computed at two states that differ in the last digit of
    the network's dtype. Their difference, over one unit of log rho, is the estimate.

    Args:
        model: the model.
        pilot: a few typical samples, shape (B, *).
        **settings: t_min, divergence, frame, end and seeds, as in `log_likelihood`.
    """
    flow, _, x = density_flow(model, pilot, **settings)
    flow = flow.fixed()
    tau = 0.5 * sum(flow.ends)
    clean = flow.field.to_state(x, flow.low)
    random = generator("round-off")
    noise, last = (normal(x.shape, random).to(clean) for _ in range(2))
    with torch.no_grad():
        z = flow.frame.enter(clean + math.exp(tau) * noise, tau)
        near = z * (1 + torch.finfo(dtype_of(model)).eps * last)
        _, a = flow.velocity_and_traces(tau, z, flow.probes)
        _, b = flow.velocity_and_traces(tau, near, flow.probes)
    size = max(pilot.shape[1:].numel(), 1)
    return float((a - b).mean(1).abs().mean()) / (size * math.log(2))


def _described(method: Method) -> str:
    if isinstance(method, FixedGrid):
        return f"a calibrated grid of {method.nodes} nodes"
    return repr(method)
