"""The probability flow of a model as a plain ODE."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import SolverError, ZeroSNRError
from ..model import Predictor, parameters_of
from ..prediction import Prediction
from ..scalar import Scalar, scale, widest
from ..sde.knot import Knot
from ..sde.process import per_sample
from .backend import Parts
from .clocks import Clock


@dataclass(frozen=True, eq=False)
class VectorField:
    """The right-hand side du/dtau of the probability flow between two knots, in a `Clock`.

    The model is evaluated only at times between the two knots. Times outside by round-off are
    clamped; a solver that goes further outside gets an error.

    Attributes:
        model: the model.
        clock: the variable and the state, see `scoresde.ode.clocks`.
        low, high: the cleaner and the noisier end, knots with float fields.
        dtype: dtype of the state that the model receives; the solver's state may be more precise.

    Raises:
        ZeroSNRError: if `high` has alpha = 0, where only the clock "angle" exists.
        SolverError: for a call outside the range.
    """

    model: Predictor
    clock: Clock
    low: Knot
    high: Knot
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        if self.high.is_zero_snr and not self.clock.axis.at_zero_snr:
            raise ZeroSNRError(
                f"x / alpha does not exist at t = {self.high.t:g}, where alpha = 0; write "
                "solver=ProbabilityFlow(clock='angle'), or a process with a smaller t_max"
            )

    def knot(self, tau: Scalar, like: Tensor) -> Knot:
        """The knot at tau: a float, or one number per sample, shape (B,)."""
        along = self.clock.axis
        ends = sorted((float(along.read(knot)), knot) for knot in (self.low, self.high))
        (first, start), (last, stop) = ends
        if isinstance(tau, Tensor):  # only the library's own integrators, which stay inside
            t = along.time(self.model.sde, per_sample(tau.clamp(first, last), like))
            assert isinstance(t, Tensor)  # for the type checker
            return self.model.sde.at(t.clamp(float(self.low.t), float(self.high.t)), like=like)
        slack = 1e-9 * (last - first)
        if not first - slack <= tau <= last + slack:
            raise SolverError(
                f"the solver called the model outside its interval [{first:.6g}, {last:.6g}], "
                f"at {tau:.6g}; write a smaller first or largest step"
            )
        if tau <= first:
            return start
        if tau >= last:
            return stop
        t = float(along.time(self.model.sde, tau))
        return self.model.sde.at(min(max(t, float(self.low.t)), float(self.high.t)))

    def predict(self, tau: Scalar, u: Tensor) -> Prediction:
        """The model's prediction at the state u, shape (B, *)."""
        knot = self.knot(tau, u)
        return self.model(scale(self.clock.scale(knot), u).to(self._kind(u)), knot)

    def velocity(self, tau: Scalar, u: Tensor) -> Tensor:
        """du/dtau, shape (B, *)."""
        return self.clock.velocity(self.predict(tau, u), self.model.sde).to(u.dtype)

    def __call__(self, tau: float, parts: Parts) -> Parts:
        """The field for a backend: the state has one part."""
        return (self.velocity(tau, parts[0]),)

    def parameters(self) -> tuple[Tensor, ...]:
        """The model's parameters that require gradients, for the adjoint method."""
        return tuple(p for p in parameters_of(self.model) if p.requires_grad)

    def rows(self, index: Tensor) -> VectorField:
        """The field of these samples."""
        return replace(self, model=self.model.rows(index))

    def to_state(self, x: Tensor, knot: Knot) -> Tensor:
        """u from x, in float64, so that the solver's time is float64 too; in float32 on a device
        without float64.
        """
        return scale(1.0 / self.clock.scale(knot), x.to(widest(x.device)))

    def to_x(self, u: Tensor, knot: Knot) -> Tensor:
        """x from u, in `dtype`."""
        return scale(self.clock.scale(knot), u).to(self._kind(u))

    def _kind(self, u: Tensor) -> torch.dtype:
        """`dtype`, or the widest that the device has."""
        return widest(u.device) if self.dtype == torch.float64 else self.dtype
