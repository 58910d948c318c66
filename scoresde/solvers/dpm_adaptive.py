"""DPM-Solver with adaptive steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .._internal.step_control import StepControl
from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine, scale
from ..sde import SDE
from ..sde.knot import Knot
from .adaptive import Tolerance, check_max_evals, integrate
from .last_step import to_clean
from .solver import Carry, Solver


@dataclass(frozen=True)
class DPMSolverAdaptive(Solver):
    r"""DPM-Solver-12 or -23: two orders share their evaluations, their difference sets the step.

    Lu et al., "DPM-Solver", 2022, appendix C and algorithms 1-2: the flow in half log-SNR, a step
    from t to s accepted where the root mean square of (high - low) / max(atol, rtol |x|) is at
    most 1, the next one 0.9 error^(-1/order) times as long; but each sample has its own steps
    (`adaptive`). States are compared as x / sqrt(alpha^2 + sigma^2), which for
    variance-preserving processes is x, so that all processes with the same noise levels are solved
    by the same steps. The first evaluation of a step is kept when it is rejected.

    Order 2 or 3 in the accepted steps; 2 or 3 evaluations an accepted step, 1 or 2 a rejected one.
    A grid of two steps, `uniform_lambda(sde, 2)`, leaves all choices to the solver; the step to
    sigma = 0 follows `last_step`.

    Attributes:
        order: 2 (DPM-Solver-12) or 3 (DPM-Solver-23).
        atol, rtol: tolerances; 0.0078 is one grey level of 256 in (-1, 1).
        first: first step in half log-SNR.
        max_evals: evaluations per sample and step of the grid, after which it is given up.
    """

    order: int = 3
    atol: float = 0.0078
    rtol: float = 0.05
    first: float = 0.05
    max_evals: int = 10_000

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ConfigError(f"order must be 2 or 3, got {self.order!r}")
        if not self.first > 0:
            raise ConfigError(f"the first step must be positive, got {self.first!r}")
        Tolerance(self.atol, self.rtol)
        check_max_evals(self.max_evals)

    def evals(self, grid: Grid) -> None:
        """It depends on the data."""
        return None

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        if s.is_clean:
            return to_clean(model, model(x, t)), None
        method = _Flow(model.sde, t, s, self.order)
        frame = scale(1.0 / t.radius, x)
        start, stop = float(t.lam), float(s.lam)
        tolerance = Tolerance(self.atol, self.rtol)
        control = StepControl(0.9, 1 / self.order, self.max_evals)
        out = integrate(method, model, frame, start, stop, self.first, tolerance, control)
        return scale(s.radius, out), None


@dataclass(frozen=True)
class _Flow:
    """Steps of the flow in lambda for x / sqrt(alpha^2 + sigma^2); the slope is eps.

    The rules are those of the paper for x / alpha, which has d(x / alpha) = eps drho.
    """

    sde: SDE
    t: Knot
    s: Knot
    order: int

    @property
    def evals_per_attempt(self) -> int:
        return self.order - 1

    def slope(self, model: Predictor, x: Tensor, at: Tensor) -> Tensor:
        knot = self._knot(at)
        return model(scale(knot.radius, x), knot).eps

    def attempt(
        self, model: Predictor, x: Tensor, slope: Tensor, at: Tensor, h: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        rho_t, rho_s = (-at).exp(), (-(at + h)).exp()
        y = scale((1 + rho_t * rho_t).sqrt(), x)  # x / alpha
        r = 0.5 if self.order == 2 else 1 / 3
        first = self._knot(at + r * h)
        y_1 = affine(1.0, y, first.rho - rho_t, slope)
        eps_1 = model(scale(first.alpha, y_1), first).eps
        low = affine(1.0, y, rho_s - rho_t, slope)
        # (e^h - 1) rho_s is rho_t - rho_s.
        second = affine(1.0, low, 0.5 / r * (rho_s - rho_t), eps_1 - slope)
        if self.order == 2:
            return self._frame(low, rho_s), self._frame(second, rho_s)
        other = self._knot(at + 2 / 3 * h)
        y_2 = affine(1.0, y, other.rho - rho_t, slope)
        y_2 = affine(1.0, y_2, -2 * other.rho * _excess(2 / 3 * h), eps_1 - slope)
        eps_2 = model(scale(other.alpha, y_2), other).eps
        third = affine(1.0, low, -1.5 * rho_s * _excess(h), eps_2 - slope)
        return self._frame(second, rho_s), self._frame(third, rho_s)

    def _frame(self, y: Tensor, rho: Tensor) -> Tensor:
        return scale((1 + rho * rho).rsqrt(), y)

    def _knot(self, lam: Tensor) -> Knot:
        """Rounding must not carry a time outside the step, where the network may know nothing."""
        knot = self.sde.at_lambda(lam)
        assert isinstance(knot.t, Tensor)  # for the type checker: lam is one
        return knot._replace(t=knot.t.clamp(float(self.s.t), float(self.t.t)))


def _excess(h: Tensor) -> Tensor:
    """(e^h - 1) / h - 1."""
    return h.expm1() / h - 1
