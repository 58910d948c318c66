r"""What the noise at t_min costs.

The density that a likelihood ends in is that of the state at t_min. In y = x/alpha noise is added
by the heat equation, dp/d(rho^2) = (1/2) Laplacian p, so to first order in rho^2

    log p_0(y) - log p_rho(y) = -(1/2) rho^2 (tr H + |s|^2),

with s and H the gradient and the Hessian of log p_rho. The network has both: rho eps = -rho^2 s,
and the trace of its Jacobian is -rho^2 tr H, which Hutchinson's estimate gives without bias. From
y to x the scale alpha changes too: D log(alpha) for the volume, s . (x - y) for the place.
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

    One network evaluation.

    Args:
        model: what predicts.
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
