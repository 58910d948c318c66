r"""One family for the fast solvers: exponential linear multistep methods.

DDIM, DPM-Solver++ (2M, 3M and their SDE forms), DEIS, LMS, iPNDM, PNDM, UniPC, SA-Solver and
exponential Adams-Bashforth are the rule

    x_s = decay x_t + sum_j W_j u_j + spread z

with different choices of what is written in the class below; `presets` has them by name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from ...coordinate import Coordinate, check
from ...errors import ConfigError, unknown_name
from ...grid import Grid
from ...model import Predictor
from ...noise import NoiseStream
from ...sde.knot import Knot
from ..base import Carry, Solver
from ..last_step import further_evals, to_clean
from .forms import form
from .rule import Rule, apply
from .single_step import Stages, stages, through
from .tableaus import tableau
from .weights import PUBLISHED, step_weights


class Plan(NamedTuple):
    """One step, with its coefficients.

    Attributes:
        t, s: from where to where.
        predict: the rule for x_s.
        correct: the rule for x_t, from the state before and with the prediction at t; None
            where there is nothing to correct.
        start: stages of a Runge-Kutta step that is taken instead of `predict`, if any.
    """

    t: Knot
    s: Knot
    predict: Rule
    correct: Rule | None
    start: Stages | None


class Run(NamedTuple):
    """What one step hands to the next.

    Attributes:
        plans: all steps.
        done: steps taken so far.
        past: predictions at earlier knots, newest first.
        base: for a corrector, the state that the last step began with.
        noise: for a corrector, the noise that the last step drew.
    """

    plans: tuple[Plan, ...]
    done: int = 0
    past: tuple[Tensor, ...] = ()
    base: Tensor | None = None
    noise: Tensor | None = None


@dataclass(frozen=True)
class ExponentialMultistep(Solver):
    r"""x_s = decay x_t + sum_j W_j u_j + spread z, with u_j the last predictions.

    The linear part of the process is integrated exactly (`forms`), the prediction u as a polynomial
    through its last values (`weights`). One evaluation a step. The first steps use as many values
    as there are, or are Runge-Kutta steps (`start`), which cost an evaluation a stage. The step to
    sigma = 0 uses the last values as well, as an odd polynomial in the angle for eps and v, and as
    an even one for x0; with tau > 0 they are as noisy as the path, and the step is that of
    `last_step`, with two further evaluations.

    With a corrector (UniC; Zhao et al., "UniPC", 2023, algorithm 1) the state at t is computed
    again once the prediction there is known, from the state before; the prediction itself is not
    repeated, so that a step still takes one evaluation, and the order rises by one.

    Attributes:
        values: number of predictions in the polynomial, 1 or more.
        prediction: u, one of "eps", "x0" and "v".
        coordinate: in which u is a polynomial: "t", "lambda", "rho", "angle", "index" of the grid,
            or a `Focus`.
        weights: "exact", or as published: "mean" (iPNDM), "dpm++", "bh1" and "bh2" (UniPC).
        start: a Runge-Kutta method of `tableaus` for the first values - 1 steps; "" for none.
        corrector: values in the corrector's polynomial besides the new one; 0 for none.
        tau: share of noise; 0 is the probability flow, 1 the reverse SDE.
        tau_min, tau_max: range of rho in which tau applies; outside it is 0.
    """

    values: int = 3
    prediction: str = "v"
    coordinate: Coordinate = "angle"
    weights: str = "exact"
    start: str = ""
    corrector: int = 0
    tau: float = 0.0
    tau_min: float = 0.0
    tau_max: float = math.inf

    def __post_init__(self) -> None:
        form(self.prediction)
        check(self.coordinate)
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
        if not self.tau >= 0 or not 0 <= self.tau_min <= self.tau_max:
            raise ConfigError(
                "need tau >= 0 and 0 <= tau_min <= tau_max, got "
                f"tau={self.tau!r}, tau_min={self.tau_min!r}, tau_max={self.tau_max!r}"
            )
        if self.coordinate == "index" and self.weights != "mean":
            raise ConfigError(
                "a polynomial in the index of the grid says nothing between its knots; "
                "write weights='mean', or another coordinate"
            )
        if self.weights == "bh1" and self.prediction == "v":
            raise ConfigError("weights='bh1' needs prediction='x0' or 'eps'")

    @property
    def order(self) -> int:
        """What theory promises; the number of values is no promise.

        Published weights that differ from the integral hold it at 2, and so does a first step with
        one value, whose error is of second order: 3 with a corrector, or a `start` avoids it. In
        the index of any grid it is 1, and with noise 1 in the weak sense.
        """
        if self.tau > 0 or self.coordinate == "index":
            return 1
        order = self.values if self.weights in ("exact", "bh1", "bh2") else min(self.values, 2)
        if self.corrector:
            order = min(order, self.corrector) + 1
        if self.values == 1 and not self.corrector:
            return 1
        first = tableau(self.start).order if self.start else 1 + (self.corrector > 0)
        return min(order, first + 1)

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.tau > 0

    @property
    def starts_at_zero_snr(self) -> bool:
        """Whether x/alpha is never formed."""
        return self.prediction != "eps"

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """The coefficients of every step, in float64."""
        return Run(_plans(self, grid))

    def evals(self, grid: Grid) -> int:
        """One a step, and one for every further stage of the start."""
        first = int(grid.knots[0].is_zero_snr and not self.starts_at_zero_snr)
        steps = sum(self._started(grid.knots[first:], k) for k in range(grid.steps - first))
        last = further_evals(grid) if self.stochastic else 0
        return grid.steps + last + (steps * len(tableau(self.start).nodes) if steps else 0)

    def _started(self, knots: tuple[Knot, ...], k: int) -> bool:
        """Whether step k is one of the start's."""
        return bool(self.start) and k < self.values - 1 and not knots[k + 1].is_clean

    def _plan(self, grid: Grid, knots: tuple[Knot, ...], k: int) -> Plan:
        t, s = knots[k], knots[k + 1]
        reach = max(self.values, self.corrector + 1)
        known = [(i, knots[i]) for i in range(k, max(k - reach, -1), -1)]
        if self._started(knots, k):
            start = stages(form(self.prediction), tableau(self.start), grid.sde, t, s)
            return Plan(t, s, start.last, None, start)
        predict, correct = (
            self._rule(grid, t, s, known if s.is_clean else known[: self.values]),
            None,
        )
        if self.corrector and k > 0 and not self._started(knots, k - 1):
            nodes = [known[1], known[0], *known[2 : self.corrector + 1]]
            rule = self._rule(grid, knots[k - 1], t, nodes)
            if len(rule.weights) > 1:
                order = (rule.weights[1], rule.weights[0], *rule.weights[2:])
                correct = rule._replace(weights=order)
        return Plan(t, s, predict, correct, None)

    def _rule(self, grid: Grid, t: Knot, s: Knot, nodes: list[tuple[int, Knot]]) -> Rule:
        if self.coordinate not in ("t", "angle", "index"):
            # A value at alpha = 0 has no place on the other axes; only t itself may be there.
            nodes = nodes[:1] + [node for node in nodes[1:] if not node[1].is_zero_snr]
            nodes = nodes[:1] if t.is_zero_snr else nodes
        tau = self.tau if self.tau_min <= t.rho <= self.tau_max and not s.is_clean else 0.0
        kind = form(self.prediction)
        weights = step_weights(
            kind, grid.sde, t, s, nodes, coordinate=self.coordinate, rule=self.weights, tau=tau
        )
        return Rule(kind.decay(t, s, tau), weights, kind.spread(t, s, tau) if tau else 0.0)

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        run: Run = carry
        plan = run.plans[run.done]
        if plan.t != t or plan.s != s:
            raise ConfigError(
                f"step {run.done} was prepared from t = {plan.t.t:g} to {plan.s.t:g}, not from "
                f"{t.t:g} to {s.t:g}; call init(model, grid) with the grid that is followed"
            )
        kind = form(self.prediction)
        prediction = model(x, t)
        past = (kind.read(prediction), *run.past)
        if plan.correct is not None and run.base is not None:
            x = apply(plan.correct, run.base, past, run.noise)
        if s.is_clean and self.stochastic:
            moved = to_clean(model, prediction)
            return (moved if plan.correct is None else moved + (x - prediction.x) / t.alpha), run
        z = noise.increment(t, s) if plan.predict.spread else None
        values = past if plan.start is None else through(plan.start, model, kind, x, past[0])
        moved = apply(plan.predict, x, values, z)
        keep = max(self.values - 1, self.corrector)
        base, z = (x, z) if self.corrector else (None, None)
        return moved, Run(run.plans, run.done + 1, past[:keep], base, z)


@lru_cache(maxsize=64)
def _plans(solver: ExponentialMultistep, grid: Grid) -> tuple[Plan, ...]:
    """All steps; remembered, since both are values and a grid is used again and again."""
    knots = grid.knots
    if knots[0].is_zero_snr and not solver.starts_at_zero_snr:
        knots = knots[1:]  # the driver takes the first step
    return tuple(solver._plan(grid, knots, k) for k in range(len(knots) - 1))
