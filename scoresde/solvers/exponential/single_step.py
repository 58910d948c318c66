"""Exponential Runge-Kutta methods: DPM-Solver, DPM-Solver++, RES, DPM2, fourth-order methods."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from ...grid import Grid
from ...model import Predictor
from ...noise import NoiseStream
from ...sde import SDE
from ...sde.knot import Knot
from ..precompute import ahead
from ..solver import Carry, Solver
from .forms import Form, form
from .rule import Rule, apply
from .tableaus import Tableau, tableau
from .weights import step_weights


class Stages(NamedTuple):
    """A step: its later stages, each a knot with the rule for its state, and the rule for x_s."""

    inner: tuple[tuple[Knot, Rule], ...]
    last: Rule


class _Run(NamedTuple):
    plans: tuple[Stages, ...]
    done: int = 0
    past: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ExponentialRK(Solver):
    r"""The exponential Runge-Kutta family: single steps for the probability flow.

        x_i = decay_i x_t + h_i sum_j a_ij u_j;  x_s = decay x_t + h sum_j b_j u_j

    The flow has three forms: w' = -w + u in lambda with w = x/alpha and u = x0; w' = w + u in
    lambda with w = x/sigma and u = -eps; w' = u in the angle with w = x/r and u = v. Every tableau
    of `tableaus` works with each of them. One evaluation per stage. The step to sigma = 0 takes one
    evaluation: it extrapolates the first stages of the last `order` steps (`weights`).

    Attributes:
        method: name of the tableau.
        prediction: the prediction: "eps", "x0" or "v".
    """

    method: str = "dpm3"
    prediction: str = "x0"

    compiles = True

    def __post_init__(self) -> None:
        tableau(self.method)
        form(self.prediction)

    @property
    def order(self) -> int:
        """The order of the tableau."""
        return tableau(self.method).order

    @property
    def starts_at_zero_snr(self) -> bool:
        """True if the nodes lie on the angle: prediction="v", and not a tableau in t."""
        return self.prediction == "v" and tableau(self.method).coordinate is None

    def evals(self, grid: Grid) -> int:
        """One per stage; one for a step to sigma = 0."""
        return grid.steps + len(tableau(self.method).nodes) * (grid.steps - grid.ends_clean)

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """The coefficients of every step, in float64."""
        return _Run(_plans(self, grid.sde, grid.knots))

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        run: _Run = carry
        plan, kind = run.plans[run.done], form(self.prediction)
        first = kind.read(model(x, t))
        past = (first, *run.past)[: self.order]
        values = past if s.is_clean else through(plan.inner, model, kind, x, first)
        return apply(plan.last, x, values, None), _Run(run.plans, run.done + 1, past)


@ahead
def _plans(solver: ExponentialRK, sde: SDE, knots: tuple[Knot, ...]) -> tuple[Stages, ...]:
    """The coefficients of all steps."""
    plans = []
    kind, table = form(solver.prediction), tableau(solver.method)
    for k, (t, s) in enumerate(pairwise(knots)):
        if s.is_clean:
            nodes = [(i, knots[i]) for i in range(k, max(k - table.order, -1), -1)]
            weights = step_weights(kind, sde, t, s, nodes, coordinate="rho", rule="exact", tau=0.0)
            plans.append(Stages((), Rule(kind.decay(t, s, 0.0), weights, 0.0)))
        else:
            plans.append(stages(kind, table, sde, t, s))
    return tuple(plans)


def stages(kind: Form, table: Tableau, sde: SDE, t: Knot, s: Knot) -> Stages:
    """The rules of one Runge-Kutta step from t to s, neither of them the clean end."""
    start, end = (float(kind.axis.read(knot)) for knot in (t, s))
    h = end - start
    if table.coordinate == "t":
        inner = [_copy(s) if c == 1 else sde.at(t.t + c * (s.t - t.t)) for c in table.nodes]
    else:
        inner = [_copy(s) if c == 1 else kind.axis.knot(sde, start + c * h) for c in table.nodes]
    fractions = [(float(kind.axis.read(knot)) - start) / h for knot in (t, *inner)]
    rules = [
        Rule(kind.decay(t, to, 0.0), tuple(h * kind.scale(to) * a for a in row), 0.0)
        for to, row in zip((*inner, s), table.rows(kind.stiffness * h, fractions), strict=True)
    ]
    return Stages(tuple(zip(inner, rules[:-1], strict=True)), rules[-1])


def through(
    inner: tuple[tuple[Knot, Rule], ...], model: Predictor, kind: Form, x: Tensor, first: Tensor
) -> tuple[Tensor, ...]:
    """The predictions of all stages, given the first."""
    values: tuple[Tensor, ...] = (first,)
    for knot, rule in inner:
        values = (*values, kind.read(model(apply(rule, x, values, None), knot)))
    return values


def _copy(knot: Knot) -> Knot:
    """A copy: torch.compile fails if a constant of a run is the same object as an input."""
    return Knot(*knot)
