r"""Integration on a fixed grid with one evaluation a node.

A predictor-corrector multistep method in the mode PEC (Hairer, Norsett & Wanner, "Solving Ordinary
Differential Equations I", 1993, III.1): the Adams-Bashforth polynomial through the last p slopes
predicts the state at the next node, the network is asked there once, and the Adams-Moulton
polynomial through that slope and p - 1 before it corrects. The traces at all nodes are integrated
in the end, by piecewise polynomials through the p nearest nodes on both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .flow import DensityFlow
from .method import Method, Path, variance_of_mean


@dataclass(frozen=True)
class FixedGrid(Method):
    """Predictor-corrector on the same nodes for every sample: the workhorse for images.

    Attributes:
        nodes: evaluations, the two ends included.
        order: p, from 1 to 5.
        places: where the nodes are, as fractions of the interval in log rho, ascending from 0 to
            1; even where None. `calibrated_grid` finds good ones on a pilot.
        pilot_error: error found on the pilot, in nats per dimension; the error estimate is not
            allowed below it.
    """

    nodes: int = 41
    order: int = 4
    places: tuple[float, ...] | None = None
    pilot_error: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, int) or self.nodes < 2 or self.order not in range(1, 6):
            raise ConfigError(
                f"need 2 nodes or more and an order from 1 to 5, got nodes={self.nodes!r}, "
                f"order={self.order!r}"
            )
        at = self.places
        if at is not None and (
            len(at) != self.nodes or at[0] != 0 or at[-1] != 1 or not bool(np.all(np.diff(at) > 0))
        ):
            raise ConfigError(
                f"places must be {self.nodes} fractions ascending from 0 to 1, got {at!r}"
            )

    def taus(self, first: float, last: float) -> list[float]:
        """The nodes in log rho."""
        places = np.linspace(0, 1, self.nodes) if self.places is None else np.asarray(self.places)
        taus: list[float] = (first + (last - first) * places).tolist()
        return [first, *taus[1:-1], last]

    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """See `Method`."""
        return self.follow(flow, z)[0]

    def follow(self, flow: DensityFlow, z: Tensor) -> tuple[Path, Tensor]:
        """`run`, and local errors of the log-density on each interval, shape (nodes - 1, B)."""
        if not getattr(flow.divergence, "fresh", False):
            flow = flow.fixed()
        taus = self.taus(*flow.ends)
        slopes: list[Tensor] = []  # the latest `order` ones
        traces: list[Tensor] = []
        drifts: list[Tensor] = []
        for n, tau in enumerate(taus):
            guess = z
            if n:
                past = taus[max(0, n - self.order) : n]
                guess = z + _along(_weights(past, taus[n - 1], tau), slopes)
            probes = flow.probes if flow.probes is not None else flow.stream.draw()
            slope, trace = flow.velocity_and_traces(tau, guess, probes)
            traces.append(trace)
            if n:
                past = taus[max(0, n - self.order + 1) : n + 1]
                fixed = z + _along(_weights(past, taus[n - 1], tau), [*slopes, slope][-len(past) :])
                score = flow.frame.score(slope, guess, tau)
                drifts.append((score * (fixed - guess)).flatten(1).sum(1).detach().abs())
                z = fixed
            slopes = [*slopes, slope][-self.order :]
        return self._path(flow, z, taus, torch.stack(traces), torch.stack(drifts))

    def _path(
        self, flow: DensityFlow, z: Tensor, taus: list[float], traces: Tensor, drifts: Tensor
    ) -> tuple[Path, Tensor]:
        exact, fresh = flow.divergence.exact, flow.probes is None and not flow.divergence.exact
        full, less = (
            torch.as_tensor(quadrature(taus, p), dtype=z.dtype, device=z.device)
            for p in (self.order, max(self.order - 1, 1))
        )
        columns = torch.einsum("n,nbp->bp", full.sum(0), traces)
        local = ((full - less) @ traces.detach().mean(2)).abs()
        gap = torch.einsum("n,nb->b", (full - less).sum(0), traces.detach().mean(2)).square()
        if fresh:
            each = torch.stack([variance_of_mean(t, exact=False) for t in traces])
            variance = full.sum(0).square() @ each
            # What chance alone would make of the gap between the two orders.
            gap = gap - ((full - less).sum(0).square() @ each).nan_to_num()
        else:
            variance = variance_of_mean(columns, exact=exact)
        drifts = _MILNE[self.order] * drifts
        size = z[0].numel() if len(z) else 1
        error = (gap.clamp_min(0.0).sqrt() + drifts.sum(0)).clamp_min(self.pilot_error * size)
        return _with_failures(Path(z, columns.mean(1), variance, error)), local + drifts

    def with_nodes(self, nodes: int) -> FixedGrid:
        """The same density of nodes, more or fewer of them."""
        if self.places is None:
            return replace(self, nodes=nodes)
        at = np.interp(np.linspace(0, 1, nodes), np.linspace(0, 1, self.nodes), self.places)
        return replace(self, nodes=nodes, places=tuple(at.tolist()), pilot_error=0.0)


# Error of the corrector in units of corrector less predictor, for both of order p.
_MILNE = {1: 1.0, 2: 1 / 6, 3: 1 / 10, 4: 19 / 270, 5: 27 / 502}


def quadrature(taus: list[float], order: int) -> np.ndarray:
    """Weights of the integral over each interval of the polynomial through the `order` nodes
    nearest to it, shape (nodes - 1, nodes).
    """
    weights = np.zeros((len(taus) - 1, len(taus)))
    count = min(order, len(taus))
    for k in range(len(taus) - 1):
        first = min(max(k + 1 - count // 2, 0), len(taus) - count)
        part = slice(first, first + count)
        weights[k, part] = _weights(taus[part], taus[k], taus[k + 1])
    return weights


def _weights(nodes: list[float], start: float, end: float) -> list[float]:
    """Weights of the integral from start to end of the polynomial through `nodes`."""
    # In units of the interval, so that the powers stay of order one.
    at = (np.asarray(nodes) - start) / (end - start)
    powers = np.arange(len(nodes))
    moments = 1.0 / (powers + 1)
    weights = np.linalg.solve(at[None, :] ** powers[:, None], moments)
    result: list[float] = ((end - start) * weights).tolist()
    return result


def _along(weights: list[float], slopes: list[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = torch.add(total, slope, alpha=weight)
    return total


def _with_failures(path: Path) -> Path:
    """Samples that are not finite become NaN throughout, with a reason."""
    whole = torch.isfinite(path.z.flatten(1)).all(1) & torch.isfinite(path.log_det)
    for place in (~whole).nonzero().flatten().tolist():
        path.failures[place] = "not finite on the way"
    path.log_det = torch.where(whole, path.log_det, math.nan)
    path.variance = torch.where(whole, path.variance, math.nan)
    path.error = torch.where(whole, path.error, math.nan)
    return path
