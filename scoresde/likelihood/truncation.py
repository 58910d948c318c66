r"""The effect of the noise at t_min on a log-density, to first order.

A likelihood is a density of the state at t_min, which contains noise. In y = x/alpha, noise is
added by the heat equation, dp/d(rho^2) = (1/2) Laplacian p. So to first order in rho^2

    log p_0(y) - log p_rho(y) = -(1/2) rho^2 (tr H + |s|^2),

with s and H the gradient and the Hessian of log p_rho. The network gives both: rho eps = -rho^2 s,
and the trace of the Jacobian of rho eps is -rho^2 tr H, of which Hutchinson's estimate is unbiased.
The change from y to x adds D log(alpha) for the volume, and s . (x - y) for the shift.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ..model import Predictor
from .frame import NoFrame
from .log_density import TimeRangeWarning, density_flow


def truncation(model: Predictor, x: Tensor, **settings: Any) -> Tensor:
    """log p_0(x) - log p_{t_min}(x) to first order in the noise's variance, in nats, shape (B,).

    It costs one network evaluation with divergence.

    Args:
        model: the model.
        x: the state at t_min, shape (B, *).
        settings: t_min, divergence, end and seeds, as in `log_likelihood`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TimeRangeWarning)
        flow, _, x = density_flow(model, x, frame=NoFrame(), **settings)
    tau = flow.ends[0]
    with torch.no_grad():
        y = flow.start(x)
        dy, traces = flow.velocity_and_traces(tau, y, flow.stream.draw())
    inverse = math.exp(-2 * tau)
    square, move = ((dy * v).flatten(1).sum(1) * inverse for v in (dy, y - x))
    volume = x[0:1].numel() * float(flow.low.log_alpha)
    return 0.5 * (traces.mean(1) - square) + move + volume
