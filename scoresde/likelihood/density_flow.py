"""The ODE of the state together with the log-density."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .._internal.graph import check_graph
from ..axis import LOG_RHO
from ..model import Predictor
from ..ode import Parts, VectorField, clock
from ..prediction import Prediction
from ..scalar import Scalar, scale
from ..sde.knot import Knot
from .divergence import Divergence, value_and_traces
from .frame import Frame
from .probes import ProbeStream


@dataclass(frozen=True, eq=False)
class DensityFlow:
    """The ODE, along tau = log rho, of the state z in a frame and of the rest of the trace.

    The frame knows a part of the trace in closed form; the rest is integrated numerically.

    Attributes:
        model: the model.
        divergence: the rule that computes the trace.
        frame: the variables.
        low, high: the ends, knots of floats.
        stream: the source of probes.
        probes: fixed probes, shape (P, B, *), for solvers that need a deterministic field.
        closed: a model with a closed-form divergence, or None.
        grad: keep graphs.
    """

    model: Predictor
    divergence: Divergence
    frame: Frame
    low: Knot
    high: Knot
    stream: ProbeStream
    probes: Tensor | None = None
    closed: Any = None
    grad: bool = False

    @property
    def field(self) -> VectorField:
        """The flow of y = x/alpha without the density."""
        return VectorField(self.model, clock("log_rho"), self.low, self.high)

    @property
    def ends(self) -> tuple[float, float]:
        """tau at the clean and at the noisy end."""
        return float(LOG_RHO.read(self.low)), float(LOG_RHO.read(self.high))

    def start(self, x: Tensor) -> Tensor:
        """z at the clean end, from x at the clean end."""
        return self.frame.enter(self.field.to_state(x, self.low), self.ends[0])

    def finish(self, z: Tensor) -> Tensor:
        """x at the noisy end, from z at the noisy end, in float64."""
        return self.field.to_x(self.frame.leave(z, self.ends[1]), self.high)

    def velocity(self, tau: Scalar, z: Tensor) -> Tensor:
        """dz/dtau, shape (B, *), by a forward pass without divergence."""
        dy = self.field.velocity(tau, self.frame.leave(z, tau))
        return self.frame.velocity(dy, z, tau)

    def velocity_and_traces(
        self, tau: Scalar, z: Tensor, probes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """dz/dtau, and the trace without the part that the frame knows, shape (B, columns)."""
        y, field = self.frame.leave(z, tau), self.field
        if self.closed is not None and self.divergence.exact:
            prediction = field.predict(tau, y)
            dy = field.clock.velocity(prediction, self.model.sde)
            traces = self._closed_trace(prediction)[:, None]
        else:

            def velocity(u: Tensor) -> Tensor:
                prediction = field.predict(tau, u)
                check_graph(prediction.raw, u, "the model")  # x0 and v have one through x itself
                return field.clock.velocity(prediction, self.model.sde).to(u.dtype)

            dy, traces = value_and_traces(velocity, y, self.divergence, probes, grad=self.grad)
        known = self.frame.trace(tau, z[0].numel())
        if isinstance(known, Tensor):
            known = known.reshape(-1, 1)
        control = getattr(self.divergence, "control", 0.0)
        if control and probes is not None:
            traces = traces - control * (self.gaussian_traces(tau, probes) - known)
        return self.frame.velocity(dy, z, tau), traces - known

    def gaussian_traces(self, tau: Scalar, probes: Tensor) -> Tensor:
        """v^T A v, shape (B, P), with the Jacobian A = rho^2 S^(-1) of the frame's Gaussian."""
        columns = [(self.frame.pull(v, tau) * v).flatten(1).sum(1) for v in probes]
        return torch.stack(columns, 1)

    def _closed_trace(self, prediction: Prediction) -> Tensor:
        # d(rho eps)/dy = rho alpha d eps/dx, with eps = -sigma score and rho alpha = sigma.
        knot = prediction.knot
        trace: Tensor = self.closed.divergence(prediction.x, knot)
        variance = knot.sigma**2
        return -scale(variance.reshape(-1) if isinstance(variance, Tensor) else variance, trace)

    def __call__(self, tau: float, parts: Parts) -> Parts:
        """The `Field` of a backend; its parts are z and the integral of the traces."""
        return self.velocity_and_traces(tau, parts[0], self.probes)

    def parameters(self) -> tuple[Tensor, ...]:
        """See `VectorField.parameters`."""
        return self.field.parameters()

    def fixed(self) -> DensityFlow:
        """The same flow with fixed probes, drawn now; the flow itself if it has fixed probes."""
        if self.probes is not None:
            return self
        return replace(self, probes=self.stream.draw())

    def rows(self, index: Tensor) -> DensityFlow:
        """The flow of these samples."""
        return replace(
            self,
            model=self.model.rows(index),
            stream=self.stream.rows(index),
            probes=None if self.probes is None else self.probes[:, index],
            closed=None if self.closed is None else self.closed.rows(index),
        )


def closed_form(model: Predictor) -> Predictor | None:
    """The model if it has a closed-form divergence, else None."""
    return model if callable(getattr(model, "divergence", None)) else None


def no_traces(z: Tensor, columns: int) -> Tensor:
    """Zeros of shape (B, columns)."""
    return torch.zeros(len(z), columns, dtype=z.dtype, device=z.device)
