"""The search for the best candidate, from stock grids to starts that decide."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from .. import names
from ..budget import grid_for
from ..errors import ConfigError
from ..grid import Grid, uniform_lambda
from ..identity import fingerprint
from ..metrics import endpoint_errors, error_ratio
from ..model import Predictor, device_of
from ..noise import SampleSeeds
from ..recommended import recommended
from ..sampling import sample
from ..sde import CLEAN, SDE
from ..solvers.base import Solver
from ..solvers.relay import evaluations
from .candidates import Motion, families, stock_grids
from .kl_bound import Signal
from .path import equidistributed, shortest
from .pilot import Pilot
from .refine import refine, with_orders
from .result import Tuned
from .trial import Candidate, Trial

_PILOTS = 16
_TRAINED = 1024  # starts in most runs, at most
_SEMIFINALISTS, _FINALISTS = 6, 2
_NEGLIGIBLE = 0.03  # error of the reference, in units of the default's


def tune(
    model: Predictor,
    solver: Solver | str,
    nfe: int,
    *,
    shape: Sequence[int] | None = None,
    starts: int | None = None,
    held_out: int | None = None,
    first_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    rounds: int = 3,
) -> Tuned:
    """Find the grid on which a solver makes the smallest endpoint error at a budget; for a
    stochastic solver, the smallest bound on the KL divergence of its samples.

    Args:
        model: what predicts.
        solver: a solver, or its name. With "recommended", the solver is chosen as well: order,
            corrector, prediction variable and coordinate; the default that the gain is stated
            against is then the recommended solver on its own grid.
        nfe: the budget; the most that the solver can use of it is taken.
        shape: of one sample; that of a closed-form model by default.
        starts: starts to tune on, of which those with large errors are used most; 192 by default,
            and 2,048 for a closed-form model (4,096 up to 16 dimensions).
        held_out: starts to choose on, and as many others to state the gain on; half of `starts` by
            default.
        first_seed: first of the seeds of all starts.
        dtype: of the state.
        rounds: Jacobians for each of the finalists; 0 leaves all candidates as they are.

    Raises:
        ConfigError: for a solver that chooses its own steps, or a budget of one step.
    """
    rule, default = _default(model.sde, solver, nfe)
    if default.steps < 2:
        raise ConfigError(f"{nfe} evaluations leave no knot to move; write a larger nfe")
    closed: Sequence[int] = getattr(model, "event_shape", ())
    event = tuple(closed if shape is None else shape)
    if not event:
        raise ConfigError("the shape of a sample is not known; write shape=(1, 28, 28)")
    if starts is None:
        starts = 192 if not closed else 4096 if math.prod(event) <= 16 else 2048
    held_out = starts // 2 if held_out is None else held_out
    total = starts + 2 * held_out
    seeds = SampleSeeds(tuple(range(first_seed, first_seed + total)))
    x = model.sde.prior_sample(seeds.open((total, *event), dtype))
    base = Candidate("default", rule, default)
    if rule.stochastic:
        return _by_bound(model, base, x, starts, held_out)
    return _by_endpoints(model, base, x, starts, held_out, rounds, free=solver == "recommended")


def _by_endpoints(
    model: Predictor,
    base: Candidate,
    x: Tensor,
    starts: int,
    held_out: int,
    rounds: int,
    *,
    free: bool,
) -> Tuned:
    pilot = Pilot(model, x[:_PILOTS], min(max(48, 4 * base.grid.steps), 160))
    reference, cost = _reference(model, base, x)
    ends = (0, starts, starts + held_out, len(x))
    drawn, choose, test = (
        Trial(model, x[a:b], reference[a:b], torch.ones(b - a, dtype=torch.float64))
        for a, b in pairwise(ends)
    )
    screen = drawn.subset(min(max(starts // 8, 16), _TRAINED))
    screened = _screen(screen, base, pilot, free=free)
    train = _informative(
        drawn, [base, *screened[:2]], min(max(starts // 4, min(starts, 32)), _TRAINED)
    )
    candidates = [base, *screened[:_FINALISTS], *_refined(train, screened, rounds, free=free)]
    best, stock = _decide(choose, candidates), test.run(base.solver, base.grid)
    chosen = test.run(best.solver, best.grid)
    return Tuned(
        solver=best.solver,
        grid=best.grid,
        model=fingerprint(model),
        nfe=evaluations(best.solver, best.grid) or 0,
        source=best.name,
        measure="RMS endpoint error",
        error=float(endpoint_errors(chosen, test.reference).square().mean().sqrt()),
        ratio=error_ratio(chosen, stock, test.reference),
        typical=error_ratio(chosen, stock, test.reference, statistic="median"),
        cost=cost + pilot.cost + sum(part.cost for part in (screen, drawn, train, choose, test)),
    )


def _by_bound(model: Predictor, base: Candidate, x: Tensor, starts: int, held_out: int) -> Tuned:
    signal = Signal(model, x, base.grid)
    train, choose, test = (
        slice(a, b) for a, b in pairwise((0, starts, starts + held_out, starts + 2 * held_out))
    )
    into = signal.costs(train)
    ends = np.full_like(into, np.inf)
    ends[:, -1] = 0.0  # the last knot stays where it is
    places = shortest(into, ends, base.grid.steps).astype(int)
    inner = [signal.knots[place] for place in places]
    found = base._replace(name="KL bound", grid=Grid(base.grid.sde, (*inner, CLEAN)))
    better = signal.ratio(found.grid, base.grid, choose).high < 1
    best = found if better else base
    return Tuned(
        solver=best.solver,
        grid=best.grid,
        model=fingerprint(model),
        nfe=evaluations(best.solver, best.grid) or 0,
        source=best.name,
        measure="KL bound, nats a dimension,",
        error=float(signal.bound(best.grid, test).mean()),
        ratio=signal.ratio(best.grid, base.grid, test),
        typical=None,
        cost=len(signal.knots) * len(x),
    )


def _default(sde: SDE, solver: Solver | str, nfe: int) -> tuple[Solver, Grid]:
    if isinstance(solver, str) and names.is_pair(solver):
        rule, grid = names.pair(solver)(sde, nfe)
    else:
        rule = names.solver(solver) if isinstance(solver, str) else solver
        grid = grid_for(rule, uniform_lambda, sde, nfe)
    return rule, grid


def _reference(model: Predictor, base: Candidate, x: Tensor) -> tuple[Tensor, int]:
    """Endpoints of all starts in float64, and what they cost, by the recommended solver.

    Its steps are doubled until that changes endpoints by far less than the default's error is.
    """
    few = x[:32].to(device_of(model), torch.float64)
    steps, cost = max(2 * base.grid.steps, 20), base.grid.steps * len(few)
    found = sample(model, base.solver, base.grid, x=few).x
    coarse = sample(model, *recommended(model.sde, steps), x=few).x
    while True:
        cost += steps * len(few)
        steps *= 2
        fine = sample(model, *recommended(model.sde, steps), x=few).x
        gap, error = (endpoint_errors(z, fine).square().mean().sqrt() for z in (coarse, found))
        if gap <= _NEGLIGIBLE * error or steps >= 1000:
            break
        coarse = fine
    trial = Trial(model, x.to(torch.float64), x, torch.ones(len(x)))
    return trial.run(*recommended(model.sde, steps)), cost + steps * len(few) + trial.cost


def _screen(trial: Trial, base: Candidate, pilot: Pilot, *, free: bool) -> list[Candidate]:
    """Rules on the best of their grids, or the one rule on all grids; the best first."""
    sde, steps = base.grid.sde, base.grid.steps
    longest = min(len(pilot.knots) - 2, max(16, 4 * len(pilot.knots) // steps))
    into, ends = pilot.errors(base.solver, longest)
    grids = {
        "default": base.grid,
        "equidistributed": pilot.grid(equidistributed(into, steps, base.solver.order)),
        "shortest path": pilot.grid(shortest(into, ends, steps)),
    }
    rules = [base.solver]
    if free:
        rules = families(base.solver, steps)
    else:
        grids |= stock_grids(sde, steps)
    rated: list[tuple[float, Candidate]] = []
    for rule in rules:
        options = [Candidate(name, rule, grid) for name, grid in grids.items()]
        values = [(trial.objective(trial.errors(option)), option) for option in options]
        rated += [min(values, key=_value)] if free else values
    return [option for _, option in sorted(rated, key=_value)]


def _value(rated: tuple[float, Candidate]) -> float:
    return rated[0]


def _informative(drawn: Trial, candidates: list[Candidate], count: int) -> Trial:
    """`count` of the starts, taken with probability in proportion to their errors (and not to them
    alone), each with the weight 1 / probability: the few that rule the RMS are among them.
    """
    size = torch.zeros(len(drawn.x), dtype=torch.float64)
    for candidate in candidates:
        square = drawn.errors(candidate).square().sum(1)
        size += square / square.mean()
    share = 0.5 + (size / len(candidates)).sqrt()
    probability = share * (count / share.sum())
    for _ in range(20):  # none is taken twice
        probability = probability.clamp(max=1.0)
        probability = probability * (count / probability.sum())
    ends = probability.cumsum(0)
    marks = torch.arange(count, dtype=torch.float64) + 0.5
    rows = torch.searchsorted(ends, marks).clamp(max=len(drawn.x) - 1)
    weight = 1.0 / probability[rows]
    return Trial(drawn.model, drawn.x[rows], drawn.reference[rows], weight / weight.mean())


def _refined(
    train: Trial, screened: list[Candidate], rounds: int, *, free: bool
) -> list[Candidate]:
    """The best candidates moved: several a little on few starts, the best of these on all."""
    rated: list[tuple[float, Candidate]] = []
    few = train.subset(max(len(train.x) // 2, 16))
    for start in screened[:_SEMIFINALISTS] if rounds else []:
        motion = Motion(start._replace(name=f"{start.name}, refined"), free=free)
        moved = motion(refine(few, motion, motion.start, 1))
        rated.append((few.objective(few.errors(moved)), moved))
    train.cost += few.cost
    further = []
    bold = dataclasses.replace(train, typical=0.0)  # for the RMS alone
    for _, start in sorted(rated, key=_value)[:_FINALISTS]:
        motion = Motion(start, free=free)
        moved = motion(refine(train, motion, motion.start, rounds))
        again = Motion(moved._replace(name=f"{moved.name} for the RMS"), free=free)
        further += [moved, again(refine(bold, again, again.start, 1))]
        if free:
            further.append(with_orders(train, moved))
    train.cost += bold.cost
    return further


def _decide(choose: Trial, candidates: list[Candidate]) -> Candidate:
    """The smallest objective among those whose RMS is no worse than the smallest one but by
    chance: the RMS alone may hang on a handful of starts. The default, which comes first, unless
    the RMS is below its own by more than chance.
    """
    ends = [choose.run(candidate.solver, candidate.grid) for candidate in candidates]
    errors = [choose.difference(end) for end in ends]
    best = ends[min(range(len(ends)), key=lambda k: float(errors[k].square().sum()))]
    equal = [
        (choose.objective(error), candidate)
        for error, end, candidate in zip(errors, ends, candidates, strict=True)
        if bool(torch.isfinite(end).all())
        and not error_ratio(end, best, choose.reference).low > 1
        and error_ratio(end, ends[0], choose.reference).high < 1
    ]
    return min(equal, key=_value)[1] if equal else candidates[0]
