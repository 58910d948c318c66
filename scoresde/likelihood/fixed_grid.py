r"""Integration on a fixed grid with one evaluation at each node.

It is a predictor-corrector multistep method in the mode PEC (Hairer, Norsett & Wanner, "Solving
Ordinary Differential Equations I", 1993, III.1). The Adams-Bashforth polynomial through the last p
slopes predicts the state at the next node. The network is evaluated there once. The Adams-Moulton
polynomial through the new slope and p - 1 earlier ones corrects the state. At the end, the traces
at all nodes are integrated, by piecewise polynomials through the p nearest nodes on both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from .density_flow import DensityFlow
from .method import Method, Path, variance_of_mean

_CAUTION = 2.0
"""Safety factor on the state error; Milne's estimate is too small on coarse grids."""


@dataclass(frozen=True)
class FixedGrid(Method):
    """Predictor-corrector method on the same nodes for every sample; a good choice for images.

    Attributes:
        nodes: number of nodes, which is the number of evaluations; it includes both ends.
        order: p, from 1 to 5.
        places: the nodes, as fractions of the interval in log rho, ascending from 0 to 1. None
            means evenly spaced, with shorter first steps. `calibrated_grid` fits them to a model.
        pilot_error: error on a pilot, in nats per dimension; the error estimate is at least this
            large.
    """

    nodes: int = 41
    order: int = 4
    places: tuple[float, ...] | None = None
    pilot_error: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, int) or self.nodes < 2 or self.order not in range(1, 6):
            raise ConfigError(
                f"FixedGrid needs 2 nodes or more and an order from 1 to 5, got "
                f"nodes={self.nodes!r}, order={self.order!r}"
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
        places = graded(self.nodes, self.order) if self.places is None else self.places
        taus: list[float] = (first + (last - first) * np.asarray(places)).tolist()
        return [first, *taus[1:-1], last]

    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """See `Method`."""
        return self.follow(flow, z)[0]

    def follow(self, flow: DensityFlow, z: Tensor) -> tuple[Path, Tensor]:
        """`run`, with local errors of the log-density on each interval, shape (nodes - 1, B)."""
        if not getattr(flow.divergence, "fresh", False):
            flow = flow.fixed()
        taus, p = self.taus(*flow.ends), self.order
        slopes: list[Tensor] = []  # the latest p
        traces: list[Tensor] = []
        drifts: list[Tensor] = []
        for n, tau in enumerate(taus):
            guess = z
            if n:
                past = taus[max(0, n - p) : n]
                guess = z + _along(_weights(past, taus[n - 1], tau), slopes)
            probes = flow.probes if flow.probes is not None else flow.stream.draw()
            slope, trace = flow.velocity_and_traces(tau, guess, probes)
            slopes = [*slopes, slope][-p:]
            traces.append(trace)
            if n:
                past = taus[max(0, n - p + 1) : n + 1]
                z = z + _along(_weights(past, taus[n - 1], tau), slopes)
                score = flow.frame.score(slope, guess, tau)
                drift = (score * (z - guess)).flatten(1).sum(1).detach()
                drifts.append(_error_share(taus, n, p) * drift.abs())
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
        gaps = (full - less) @ traces.detach().mean(2)
        square = gaps.square().sum(0)
        if fresh:
            each = torch.stack([variance_of_mean(t, exact=False) for t in traces])
            variance = full.sum(0).square() @ each
            # Subtract the part of the gap between the two orders that comes from random probes.
            square = square - ((full - less).square().sum(0) @ each).nan_to_num()
        else:
            variance = variance_of_mean(columns, exact=exact)
        size = z[0].numel() if len(z) else 1
        # Local errors have effectively random signs, so their squares add up.
        error = square.clamp_min(0.0).sqrt() + _CAUTION * drifts.square().sum(0).sqrt()
        error = error.clamp_min(self.pilot_error * size)
        return _with_failures(Path(z, columns.mean(1), variance, error)), gaps.abs() + drifts

    def with_nodes(self, nodes: int) -> FixedGrid:
        """A grid with another number of nodes and the same density of nodes."""
        if self.places is None:
            return replace(self, nodes=nodes)
        at = np.interp(np.linspace(0, 1, nodes), np.linspace(0, 1, self.nodes), self.places)
        return replace(self, nodes=nodes, places=tuple(at.tolist()), pilot_error=0.0)


def _error_share(taus: list[float], n: int, order: int) -> float:
    """Error of the corrected state at node n, divided by (corrected - predicted).

    Both states are integrals of polynomials through equally many slopes. Their errors are the same
    divided difference times an integral of a node polynomial (Milne's device, on any grid). At the
    start, the corrector has one slope more, and the whole difference is the error estimate.
    """
    if n < order:
        return 1.0
    step = taus[n - 1], taus[n]
    predicted = _node_integral(taus[n - order : n], *step)
    corrected = _node_integral(taus[n - order + 1 : n + 1], *step)
    return abs(corrected / (predicted - corrected))


def _node_integral(nodes: list[float], start: float, end: float) -> float:
    """The integral from start to end of the product of (tau - node) over the nodes."""
    power = np.poly1d(np.asarray(nodes), r=True).integ()
    return float(power(end) - power(start))


def quadrature(taus: list[float], order: int) -> np.ndarray:
    """Quadrature weights of each interval, shape (nodes - 1, nodes).

    They integrate the polynomial through the `order` nodes nearest to the interval.
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
    # In units of the interval, so that the powers are of order one.
    at = (np.asarray(nodes) - start) / (end - start)
    powers = np.arange(len(nodes))
    moments = 1.0 / (powers + 1)
    weights = np.linalg.solve(at[None, :] ** powers[:, None], moments)
    result: list[float] = ((end - start) * weights).tolist()
    return result


def graded(nodes: int, order: int, places: np.ndarray | None = None) -> tuple[float, ...]:
    """`nodes` fractions from 0 to 1 with shorter first steps.

    The first step of `places` (evenly spaced by default) is halved order - 1 times towards 0, since
    the formulas have lower order there. The other places do not change.
    """
    extra = order - 1 if nodes > 2 * order else 0
    if places is None:
        places = np.linspace(0, 1, nodes - extra)
    start = places[1] * 0.5 ** np.arange(extra, 0, -1)
    return (0.0, *start.tolist(), *places[1:-1].tolist(), 1.0)


def _along(weights: list[float], slopes: list[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = torch.add(total, slope, alpha=weight)
    return total


def _with_failures(path: Path) -> Path:
    """Set all values of samples that are not finite to NaN, and store a reason."""
    whole = torch.isfinite(path.z.flatten(1)).all(1) & torch.isfinite(path.log_det)
    for place in (~whole).nonzero().flatten().tolist():
        path.failures[place] = "not finite on the way"
    path.log_det = torch.where(whole, path.log_det, math.nan)
    path.variance = torch.where(whole, path.variance, math.nan)
    path.error = torch.where(whole, path.error, math.nan)
    return path
