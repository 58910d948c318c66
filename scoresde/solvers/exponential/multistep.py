r"""Exponential linear multistep methods: one family for the fast solvers.

DDIM, DPM-Solver++ (2M, 3M and their SDE forms), DEIS, LMS, iPNDM, PNDM, UniPC, SA-Solver and
exponential Adams-Bashforth are the rule

    x_s = decay x_t + sum_j W_j u_j + spread z

with different settings of `ExponentialMultistep`. `presets` has them by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import NamedTuple

from torch import Tensor

from ...axis import AXES, Axis, axis
from ...errors import ConfigError, unknown_name
from ...grid import Grid
from ...model import Predictor
from ...noise import NoiseStream
from ...sde import SDE
from ...sde.knot import Knot
from ..last_step import further_evals, to_clean
from ..precompute import ahead
from ..solver import Carry, Solver
from .forms import Form, form
from .rule import Rule, apply
from .single_step import stages, through
from .tableaus import tableau
from .weights import PUBLISHED, Coordinate, apart, step_weights


class Plan(NamedTuple):
    """One step, with its coefficients.

    Attributes:
        t, s: start and end of the step.
        rule: the rule for x_s, including the correction of x_t.
        inner: for a Runge-Kutta step, its stages after the first; else empty.
    """

    t: float
    s: float
    rule: Rule
    inner: tuple[tuple[Knot, Rule], ...] = ()


class Run(NamedTuple):
    """The carry of `ExponentialMultistep`.

    Attributes:
        plans: the coefficients of all steps.
        done: number of steps taken.
        past: predictions at earlier knots, newest first.
    """

    plans: tuple[Plan, ...]
    done: int = 0
    past: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class ExponentialMultistep(Solver):
    r"""The exponential multistep family: a step from the last predictions u_j.

        x_s = decay x_t + sum_j W_j u_j + spread z

    The linear part of the process is integrated exactly (`forms`). The prediction u is replaced by
    the polynomial through its last values (`weights`). One evaluation per step. The first steps use
    the values that exist so far, or are Runge-Kutta steps (`start`), with one evaluation per stage.

    The step to sigma = 0 uses the last values too: in an odd polynomial in the angle for eps and v,
    in an even one for x0. With tau > 0 the last values are noisy, so the step is that of
    `last_step`, with two further evaluations.

    A corrector (UniC; Zhao et al., "UniPC", 2023, algorithm 1) computes the state at t again, from
    the state before, as soon as the prediction at t is known. The prediction at t is not repeated:
    a step still takes one evaluation, and the order rises by one. The corrected state differs from
    the predicted one only by a sum of predictions. So one rule corrects and predicts at once; it
    costs one further value in the polynomial, and only predictions are stored.

    Attributes:
        values: number of predictions in the polynomial, from 1 to 12.
        prediction: the prediction u: "eps", "x0" or "v".
        coordinate: the variable of the polynomial: the name of an axis (see `scoresde.axis`), a
            `Focus` or another `Axis`, or "index", the position in the grid.
        weights: "exact", or as published: "mean" (iPNDM), "dpm++", "bh1" and "bh2" (UniPC).
        start: a Runge-Kutta method of `tableaus` for the first values - 1 steps; "" for none.
        corrector: number of values in the corrector's polynomial besides the new one; 0 for none.
        sigma_data: standard deviation of data for which v is zero, if prediction="v".
        tau: noise scale; 0 is the probability flow, 1 the reverse SDE.
        tau_min, tau_max: range of rho in which tau applies; outside it tau is 0.
        caps: for each step of a grid the most values it may use, as `scoresde.tune` finds them for
            one grid. Steps after the last cap have none.
    """

    values: int = 3
    prediction: str = "v"
    coordinate: Coordinate = "angle"
    weights: str = "exact"
    start: str = ""
    corrector: int = 0
    sigma_data: float = 1.0
    tau: float = 0.0
    tau_min: float = 0.0
    tau_max: float = math.inf
    caps: tuple[int, ...] = ()

    compiles = True

    def __post_init__(self) -> None:
        form(self.prediction)
        if not 0 < self.sigma_data < math.inf:
            raise ConfigError(f"sigma_data must be positive, got {self.sigma_data!r}")
        if not isinstance(self.coordinate, Axis) and self.coordinate not in (*AXES, "index"):
            raise unknown_name("coordinate", self.coordinate, (*AXES, "index"))
        if self.start:
            tableau(self.start)
            if self.tau > 0:
                raise ConfigError(f"start={self.start!r} is deterministic; write start='' with tau")
        if self.weights not in PUBLISHED:
            raise unknown_name("weights", self.weights, PUBLISHED)
        if not isinstance(self.values, int) or not 1 <= self.values <= 12:
            raise ConfigError(f"values must be a whole number from 1 to 12, got {self.values!r}")
        if not isinstance(self.corrector, int) or not 0 <= self.corrector <= 12:
            raise ConfigError(f"corrector must be 0 (none) to 12, got {self.corrector!r}")
        if not all(isinstance(cap, int) and cap >= 1 for cap in self.caps):
            raise ConfigError(f"caps must be whole numbers, 1 or more, got {self.caps!r}")
        if not self.tau >= 0 or not 0 <= self.tau_min <= self.tau_max:
            raise ConfigError(
                "need tau >= 0 and 0 <= tau_min <= tau_max, got "
                f"tau={self.tau!r}, tau_min={self.tau_min!r}, tau_max={self.tau_max!r}"
            )
        if self.coordinate == "index" and self.weights != "mean":
            raise ConfigError(
                "a polynomial in the index of the grid is not defined between the knots; "
                "write weights='mean', or another coordinate"
            )
        if self.weights == "bh1" and self.prediction == "v":
            raise ConfigError("weights='bh1' needs prediction='x0' or 'eps'")

    @property
    def order(self) -> int:
        """The order of convergence in theory; it can be lower than the number of values.

        Published weights that differ from the exact integral limit it to 2. A first step with one
        value limits it to 2 as well, or to 3 with a corrector; a `start` method of order p raises
        this limit to p + 1. In the index the order is 1, and with noise it is 1 in the weak sense.
        """
        if self.tau > 0 or self.coordinate == "index":
            return 1
        order = self.values if self.weights in ("exact", "bh1", "bh2") else min(self.values, 2)
        if self.corrector:
            order = min(order, self.corrector) + 1
        if self.values == 1 and not self.corrector:
            return 1
        first = tableau(self.start).order if self.start else 1 + (self.corrector > 0)
        return min(order, first + 1, *self.caps[1:])

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.tau > 0

    @property
    def starts_at_zero_snr(self) -> bool:
        """True for x0 and v. For eps the rule divides by alpha, which is 0 there."""
        return self.prediction != "eps"

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """The coefficients of every step, in float64."""
        return Run(_plans(self, grid.sde, grid.knots))

    def evals(self, grid: Grid) -> int:
        """One per step and per further stage of the start, plus those of `last_step`."""
        last = further_evals(grid) if self.stochastic else 0
        if not self.start:
            return grid.steps + last
        started = sum(self._started(grid, k) for k in range(grid.steps))
        return grid.steps + last + started * len(tableau(self.start).nodes)

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        run: Run = carry
        plan = run.plans[run.done]
        if plan.t != t.t or plan.s != s.t:
            raise ConfigError(
                f"step {run.done} was prepared from t = {plan.t:g} to {plan.s:g}, not from "
                f"{t.t:g} to {s.t:g}; call init(model, grid) with the grid of this run"
            )
        kind = self._form
        prediction = model(x, t)
        past = (kind.read(prediction), *run.past)
        if s.is_clean and self.stochastic:
            return apply(plan.rule, to_clean(model, prediction), past, None), run
        z = noise.increment(t, s) if plan.rule.spread else None
        values = through(plan.inner, model, kind, x, past[0]) if plan.inner else past
        x = apply(plan.rule, x, values, z)
        # A correction subtracts what the last predictor added, so it needs the same values again.
        keep = max(self.values, self.corrector) if self.corrector else self.values - 1
        return x, Run(run.plans, run.done + 1, past[:keep])

    @property
    def _form(self) -> Form:
        return form(self.prediction, self.sigma_data)

    def _started(self, grid: Grid, k: int) -> bool:
        """Whether step k is a Runge-Kutta step of the start."""
        return bool(self.start) and k < self.values - 1 and not grid.knots[k + 1].is_clean

    def _cap(self, k: int) -> int:
        return self.caps[k] if k < len(self.caps) else 12

    def _predict(self, grid: Grid, k: int) -> Rule:
        """The rule for the next state from the state at knot k, without a correction."""
        t, s = grid.knots[k : k + 2]
        count = max(self.values, self.corrector + 1) if s.is_clean else self.values
        count = min(count, self._cap(k))
        return self._rule(grid, t, s, range(k, max(k - count, -1), -1))

    def _correct(self, grid: Grid, k: int, predict: Rule) -> tuple[float, ...]:
        """The correction of the state at knot k + 1 once the prediction there is known.

        Returns:
            The weight of each prediction, newest first.
        """
        t, s = grid.knots[k : k + 2]
        earlier = range(k - 1, max(k - min(self.corrector, self._cap(k)), -1), -1)
        weights = self._rule(grid, t, s, (k, k + 1, *earlier)).weights
        if len(weights) == 1:
            return ()  # from alpha = 0
        again = (weights[1], weights[0], *weights[2:])
        return tuple(
            new - old for new, old in zip_longest(again, (0.0, *predict.weights), fillvalue=0.0)
        )

    def _rule(self, grid: Grid, t: Knot, s: Knot, places: Iterable[int]) -> Rule:
        nodes = [(i, grid.knots[i]) for i in places]
        if self.coordinate != "index" and not axis(self.coordinate).at_zero_snr:
            # This axis has no finite value at alpha = 0: only t itself may lie there.
            nodes = nodes[:1] + [node for node in nodes[1:] if not node[1].is_zero_snr]
            nodes = nodes[:1] if t.is_zero_snr else nodes
        used = nodes if self.coordinate == "index" else apart(nodes, t, s)
        tau = self.tau if self.tau_min <= t.rho <= self.tau_max and not s.is_clean else 0.0
        kind = self._form
        weights = step_weights(
            kind, grid.sde, t, s, used, coordinate=self.coordinate, rule=self.weights, tau=tau
        )
        if len(used) < len(nodes):
            known = {i: weight for (i, _), weight in zip(used, weights, strict=False)}
            weights = tuple(known.get(i, 0.0) for i, _ in nodes)
        return Rule(kind.decay(t, s, tau), weights, kind.spread(t, s, tau) if tau else 0.0)


@ahead
def _plans(solver: ExponentialMultistep, sde: SDE, knots: tuple[Knot, ...]) -> tuple[Plan, ...]:
    """The coefficients of all steps."""
    grid = Grid(sde, knots)
    plans: list[Plan] = []
    correction: tuple[float, ...] = ()  # of the state at t: weights of the predictions up to t
    for k, (t, s) in enumerate(pairwise(knots)):
        times = float(t.t), float(s.t)
        if solver._started(grid, k):
            start = stages(solver._form, tableau(solver.start), sde, t, s)
            plans.append(Plan(*times, start.last, start.inner))
        elif s.is_clean and solver.stochastic:
            # `to_clean` starts from the predicted state; the correction is added to its result.
            due = Rule(1.0, (), 0.0)
            if correction:  # never at alpha = 0, where a first and only step may start
                due = due.after(correction, 1.0 / float(t.alpha))
            plans.append(Plan(*times, due))
        else:
            rule = solver._predict(grid, k)
            plans.append(Plan(*times, rule.after(correction, rule.decay)))
            if solver.corrector and not s.is_clean:
                correction = solver._correct(grid, k, rule)
    return tuple(plans)
