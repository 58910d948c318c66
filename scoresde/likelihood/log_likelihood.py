r"""Exact log-densities by integrating the probability flow.

With y = x/alpha and tau = log rho, dy/dtau = rho eps, and along the flow (Chen et al., "Neural
Ordinary Differential Equations", 2018, theorem 1; Song et al. 2021, eq. 39)

    log p_y(y_0) = log p_y(y_1) + integral of tr(d(rho eps)/dy) dtau.

The linear part of the drift has no numerical error: it is in the change from x to y.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..counting import Counted
from ..errors import DtypeError, ShapeError, TimeRangeError, ZeroSNRError
from ..model import Predictor
from ..ode import Backend, TorchDiffEq, integrate_rows
from ..sde import SDE
from ..sde.knot import Knot
from .divergence import Divergence, Hutchinson
from .flow import DensityFlow, closed_form, no_traces
from .frame import Frame, NoFrame
from .prior import prior_log_prob
from .seeds import PROBES, derived, per_sample


class TimeRangeWarning(UserWarning):
    """A likelihood asked for below the times that the network was trained on."""


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """log p_{t_min}(x) for a batch.

    Attributes:
        nats: shape (B,), float64; NaN for samples in `failures`.
        z: the latent, x carried to t_max, shape (B, *), float64.
        stderr: standard error of `nats` from the trace estimator, shape (B,): 0 for the exact
            divergence, NaN where a single probe says nothing about its own spread.
        nfe: network evaluations per sample: a number, or shape (B,) where they differ.
        t_min: the time at which x has this density.
        failures: reasons, by place in the batch.
    """

    nats: Tensor
    z: Tensor
    stderr: Tensor
    nfe: int | Tensor
    t_min: float
    failures: dict[int, str] = field(default_factory=dict)


def log_likelihood(
    model: Predictor,
    x: Tensor,
    *,
    t_min: float | None = None,
    method: Backend | None = None,
    divergence: Divergence | None = None,
    prior: Any = None,
    frame: Frame | None = None,
    seeds: int | Sequence[int] = 0,
    grad: bool = False,
) -> LogLikelihood:
    """log p_{t_min}(x), where x itself is the state at t_min.

    Under guidance this is the density of the guided flow.

    Args:
        model: what predicts; per-sample conditions follow their samples.
        x: shape (B, *); integrated in float64 whatever its dtype (the network keeps its own).
        t_min: where x lives; the process's own by default. Sampling wants 1e-3, likelihoods of
            data 1e-5, if the network was trained that far: below the process's t_min a
            `TimeRangeWarning` says so.
        method: what integrates; `TorchDiffEq()` by default.
        divergence: `Hutchinson()` by default, or `Exact()`.
        prior: density at t_max, see `scoresde.likelihood.prior`; N(0, sigma^2 I) by default.
        frame: variables of the integration, see `scoresde.likelihood.frame`.
        seeds: of the probes, one a sample; a number s stands for s, s + 1, ...
        grad: keep the graph, for gradients with respect to x and the network's parameters.

    Returns:
        Nats with their standard error. A sample that fails is NaN, with its reason.

    Raises:
        ZeroSNRError: if alpha = 0 at t_max.
        TimeRangeError: for a t_min outside the process, or without noise.
        DtypeError, ShapeError: for x that cannot be right.
    """
    method = method if method is not None else TorchDiffEq()
    divergence = divergence if divergence is not None else Hutchinson()
    low, high = _ends(model.sde, t_min)
    if not x.is_floating_point():
        raise DtypeError(f"x must be floating point, got {x.dtype}; use bits_per_dim for integers")
    if x.ndim < 2:
        raise ShapeError(f"x must have shape (B, *event), got {tuple(x.shape)}; write x[None]")
    x = x.to(torch.float64)
    stream = derived(per_sample(seeds, len(x)), PROBES).open(x.shape, x.dtype, x.device)
    counted = Counted(model)
    flow = DensityFlow(
        model=counted,
        divergence=divergence,
        frame=frame or NoFrame(),
        low=low,
        high=high,
        probes=divergence.draw(stream),
        closed=closed_form(model),
        grad=grad,
    )
    with torch.set_grad_enabled(grad):
        start = flow.start(x), no_traces(x, divergence.columns)
        solved = integrate_rows(method, flow, start, *flow.ends)
        z = flow.finish(solved.parts[0])
        nats = _density(flow, prior, z, solved.parts[1])
    failures = dict(solved.failures)
    for place in (~torch.isfinite(nats)).nonzero().flatten().tolist():
        failures.setdefault(place, "the density at the noisy end is not finite")
    return LogLikelihood(
        nats=nats,
        z=z.detach(),
        stderr=_stderr(divergence, solved.parts[1].detach()),
        nfe=counted.nfe(len(x)),
        t_min=float(low.t),
        failures=failures,
    )


def _ends(sde: SDE, t_min: float | None) -> tuple[Knot, Knot]:
    low, high = sde.at(sde.t_min if t_min is None else t_min), sde.at(sde.t_max)
    if high.is_zero_snr:
        raise ZeroSNRError(
            f"a likelihood needs alpha > 0, but alpha = 0 at t_max = {sde.t_max:g}; write "
            f"{type(sde).__name__}(t_max={0.999 * sde.t_max:g}), or the largest time below with "
            "which the network was trained"
        )
    if low.is_clean:
        raise TimeRangeError(
            f"there is no noise at t = {float(low.t):g}, and the network is never asked there; "
            "write a t_min > 0, such as 1e-5"
        )
    if not low.lam > high.lam:
        raise TimeRangeError(f"t_min = {float(low.t):g} must lie below t_max = {sde.t_max:g}")
    if float(low.t) < sde.t_min:
        warnings.warn(
            f"t_min = {float(low.t):g} lies below {sde.t_min:g}, from where on the process says "
            f"that networks are trained; write {type(sde).__name__}(t_min={float(low.t):g}) if "
            "this one was trained further",
            TimeRangeWarning,
            stacklevel=3,
        )
    return low, high


def _density(flow: DensityFlow, prior: Any, z: Tensor, traces: Tensor) -> Tensor:
    """log p(x) at the clean end from the latent and the integrated traces, shape (B,)."""
    first, last = flow.ends
    size = z[0].numel() if len(z) else 0
    known = flow.frame.half_log_det(last) - flow.frame.half_log_det(first)
    stretch = size * (float(flow.high.log_alpha) - float(flow.low.log_alpha))
    return prior_log_prob(prior, flow.model.sde, flow.high, z) + traces.mean(1) + (known + stretch)


def _stderr(divergence: Divergence, traces: Tensor) -> Tensor:
    """Standard error of the mean over probes, each probe's integral being kept apart."""
    if divergence.exact:
        return torch.zeros_like(traces[:, 0])
    count = traces.shape[1]
    if count < 2 or len(traces) == 0:
        return torch.full_like(traces[:, 0], math.nan)
    return traces.std(1) / math.sqrt(count)
