"""The probability-flow ODE, solved by an ODE backend between the knots of a grid."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..ode import Backend, TorchDiffEq, VectorField, clock, integrate_rows
from ..sde import SDE
from ..sde.knot import Knot
from .solver import Carry, Solver

_POINTS = 4  # points used by the extrapolation to sigma = 0


@dataclass(frozen=True)
class ProbabilityFlow(Solver):
    r"""The probability-flow ODE, solved to the backend's own accuracy between the knots of a grid.

    Song et al. 2021, eq. 13, in one of the variables of `scoresde.ode.clocks`.

    The step to sigma = 0 first goes to the process's t_min. From there it extrapolates the denoised
    x0 to rho = 0, where x0 equals the state. Along the flow of a smooth density x0 is an even
    function of rho. With rho^2 at 1, 2, 3 and 4 times its value at t_min,
    x(0) = 4 x0(1) - 6 x0(2) + 4 x0(3) - x0(4) + O(rho^8). Three Runge-Kutta steps give the
    states at the points 2, 3 and 4.

    If the backend fails, the batch is split and solved again; samples that fail alone become NaN.

    Attributes:
        backend: `TorchDiffEq(...)` or `SciPy(...)`.
        clock: "t", "lambda", "log_rho", "rho" or "angle". Only "angle" can start at alpha = 0.
    """

    backend: Backend = field(default_factory=TorchDiffEq)
    clock: str = "lambda"

    def __post_init__(self) -> None:
        clock(self.clock)

    @property
    def order(self) -> float:
        """Order of the backend's method."""
        return self.backend.order

    @property
    def starts_at_zero_snr(self) -> bool:
        """True only if the clock is the angle."""
        return self.clock == "angle"

    def evals(self, grid: Grid) -> int | None:
        """See `Solver.evals`."""
        one = self.backend.evals_per_solve
        if one is None:
            return None
        if not grid.ends_clean:
            return one * grid.steps
        last = grid.knots[-2]
        down = one if _floor(grid.sde, last).lam > last.lam else 0
        return one * (grid.steps - 1) + down + 4 * (_POINTS - 1) + 1

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        if not s.is_clean:
            return self.solve(model, x, t, s)[0], None
        floor = _floor(model.sde, t)
        if floor.lam > t.lam:
            x = self.solve(model, x, t, floor)[0]
        return _to_clean(model, x, floor), None

    def solve(self, model: Predictor, x: Tensor, t: Knot, s: Knot) -> tuple[Tensor, dict[int, str]]:
        """The state at s, shape (B, *), from x at t, forwards or backwards in time.

        Returns:
            The state, with NaN in samples that failed, and the reason for each failed sample, by
            its index in the batch.
        """
        low, high = (t, s) if t.lam > s.lam else (s, t)
        flow = VectorField(model, clock(self.clock), low, high, x.dtype)
        tau = [float(flow.clock.axis.read(knot)) for knot in (t, s)]
        solved = integrate_rows(self.backend, flow, (flow.to_state(x, t),), *tau)
        return flow.to_x(solved.parts[0], s), solved.failures


def _floor(sde: SDE, t: Knot) -> Knot:
    """The knot where the extrapolation to sigma = 0 starts: t_min, or t if t is cleaner."""
    low = sde.at(sde.t_min)
    if low.is_clean:  # t_min has no noise: stop at a noise level that is small enough
        low = sde.at_lambda(max(float(t.lam), math.log(1e3)))
    return low if low.lam > t.lam else t


def _to_clean(model: Predictor, x: Tensor, t: Knot) -> Tensor:
    """x at rho = 0 from the denoised x0 at points rho^2 = (1 + k h) rho_t^2, k = 0, 1, ..."""
    sde = model.sde
    room = 2.0 * float(t.lam - sde.at(sde.t_max).lam)  # distance to the noisy end, in log rho^2
    h = min(1.0, math.expm1(min(room, 2.0)) / (_POINTS - 1))
    if h <= 0.0:  # no noisier time exists
        return model(x, t).x0
    first = -float(t.lam)
    taus = [first + 0.5 * math.log1p(k * h) for k in range(_POINTS)]
    flow = VectorField(model, clock("log_rho"), t, sde.at_lambda(-taus[-1]), x.dtype)
    y = flow.to_state(x, t)
    denoised = []
    for here, there in pairwise(taus):
        y, x0 = _runge_kutta(flow, y, here, there)
        denoised.append(x0.to(y.dtype))
    denoised.append(flow.predict(taus[-1], y).x0.to(y.dtype))
    weights = _at_zero([1.0 + k * h for k in range(_POINTS)])
    return torch.stack([w * d for w, d in zip(weights, denoised, strict=True)]).sum(0).to(x.dtype)


def _runge_kutta(flow: VectorField, y: Tensor, start: float, end: float) -> tuple[Tensor, Tensor]:
    """One step of the classical Runge-Kutta rule, and the denoised x0 at its start."""
    h = end - start
    prediction = flow.predict(start, y)
    k1 = flow.clock.velocity(prediction, flow.model.sde).to(y.dtype)
    k2 = flow.velocity(start + 0.5 * h, y + 0.5 * h * k1)
    k3 = flow.velocity(start + 0.5 * h, y + 0.5 * h * k2)
    k4 = flow.velocity(end, y + h * k3)
    return y + (h / 6) * (k1 + 2 * k2 + 2 * k3 + k4), prediction.x0


def _at_zero(nodes: list[float]) -> list[float]:
    """Weights that evaluate at zero the polynomial through values at `nodes`."""
    return [math.prod(q / (q - p) for q in nodes if q != p) for p in nodes]
