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
    r"""DPM-Solver-12 or -23: the difference of two orders sets the step of each sample.

    Lu et al., "DPM-Solver", 2022, appendix C and algorithms 1-2, for the flow in half log-SNR. The
    error of a step is the root mean square of (high - low) / max(atol, rtol |x|). A step with an
    error of at most 1 is accepted. The next step is 0.9 error^(-1/order) times as long. A rejected
    step keeps its first evaluation.

    Two things differ from the paper. Each sample has its own steps (`adaptive`). States are
    compared as x / sqrt(alpha^2 + sigma^2), so that processes with the same noise levels take the
    same steps; for variance-preserving processes this is x.

    Order 2 or 3 in the number of accepted steps. An accepted step takes `order` evaluations, a
    rejected one `order` - 1. With a grid of two steps, `uniform_lambda(sde, 2)`, the solver chooses
    all its steps. The step to sigma = 0 is that of `last_step`.

    Attributes:
        order: 2 (DPM-Solver-12) or 3 (DPM-Solver-23).
        atol, rtol: tolerances; 0.0078 is one grey level of 256 in (-1, 1).
        first: length of the first step, in half log-SNR.
        max_evals: the most evaluations per sample and step of the grid. A sample that needs more
            becomes NaN.
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
        """None: the number depends on the data."""
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

    The rules are the paper's, written for x / alpha, where d(x / alpha) = eps drho.
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
        """The knot at lam, clamped to the step: outside it the network may not be trained."""
        knot = self.sde.at_lambda(lam)
        assert isinstance(knot.t, Tensor)  # for the type checker: lam is one
        return knot._replace(t=knot.t.clamp(float(self.s.t), float(self.t.t)))


def _excess(h: Tensor) -> Tensor:
    """(e^h - 1) / h - 1."""
    return h.expm1() / h - 1
