"""Tuning by endpoint errors: the search for solvers that draw no noise.

Stock grids and grids from local errors are screened. The best are improved. Other starts decide.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..metrics import endpoint_errors, error_ratio
from ..model import Predictor
from ..sampling.recommend import recommended
from .basin_hopping import Rated, by_value, descend, hop
from .candidates import families, stock_grids
from .cost import Bar, Metered
from .endpoint_objective import Candidate, Found, Trial
from .local_errors import Pilot
from .low_rank import in_its_span
from .result import TuningWarning
from .shortest_path import equidistributed, shortest

_PILOTS = 16
_SEMIFINALISTS, _FINALISTS = 4, 2
_HOPPED = 100  # hops times steps of the grid, in each round
_NEGLIGIBLE = 0.03  # error of the reference, relative to that of the default
_LONGEST = 1000  # the reference stops doubling its steps from here


def by_endpoints(
    model: Predictor,
    x: Tensor,
    sizes: Sequence[int],
    base: Candidate,
    rounds: int,
    bar: Bar,
    *,
    free: bool,
) -> Found:
    """The solver and grid with the smallest endpoint errors.

    The default is returned unless the RMS error of another candidate is significantly lower.

    Args:
        model: the model.
        x: starts, shape (B, *).
        sizes: number of starts to tune on, to decide on, and to measure the gain on.
        base: the default solver and grid.
        rounds: rounds of hops, and number of Jacobians.
        bar: the progress bar.
        free: whether the solver may change too.
    """
    whole = x[0].numel()
    few, x = in_its_span(model, x)
    meter = Metered(few, bar)
    bar.says("reference")
    reference = _reference(meter, base, x)
    drawn, deciding, test = (
        Trial(meter, part, truth, torch.ones(len(part), dtype=torch.float64))
        for part, truth in zip(
            *(torch.split(part, list(sizes)) for part in (x, reference)), strict=True
        )
    )
    starts = len(drawn.x)
    bar.says("pilot and screening")
    count = min(max(48, 4 * base.grid.steps), 160)
    pilot = Pilot(meter, drawn.x[:_PILOTS], count, float(base.grid.knots[0].t))
    screened = _screen(drawn.subset(max(starts // 8, 16)), base, pilot, free=free)
    train = _informative(drawn, [base, *screened[:2]], max(starts // 4, min(starts, 32)))
    bar.says("moving knots")
    candidates = [base, *screened[:_FINALISTS], *_refined(train, screened, rounds, free=free)]
    bar.says("deciding")
    best = _decide(deciding, candidates)
    found, stock = test.run(best), test.run(base)
    # The RMS over all coordinates of a sample; the reduced model may have fewer.
    size = math.sqrt(x[0].numel() / whole)
    return Found(
        best,
        "RMS endpoint error",
        size * _rms(endpoint_errors(found, test.reference)),
        ratio=error_ratio(found, stock, test.reference),
        typical=error_ratio(found, stock, test.reference, statistic="median"),
        cost=meter.spent,
    )


def _reference(model: Metered, base: Candidate, x: Tensor) -> Tensor:
    """Endpoints of all starts in float64, by the recommended solver.

    Its steps are doubled until the endpoints change by at most 3 % of the default's error.
    """
    few = Trial(model, x[:32].to(torch.float64), x[:32], torch.ones(32))
    steps = max(2 * base.grid.steps, 20)
    found = few.run(base)
    coarse = few.run(_recommended(model, steps))
    while True:
        steps *= 2
        fine = few.run(_recommended(model, steps))
        gap, error = (_rms(endpoint_errors(z, fine)) for z in (coarse, found))
        if not (math.isfinite(gap) and math.isfinite(error)):
            raise NonFiniteError(
                f"with {steps} evaluations, the model gives endpoints that are not finite; "
                "sample(model, nfe=100, shape=...).failures shows where that begins"
            )
        if gap <= _NEGLIGIBLE * error:
            break
        if steps >= _LONGEST:
            warnings.warn(
                f"the reference is not accurate: with {steps} evaluations it still changes by "
                f"{gap:.1e}, and the default's error is {error:.1e}; the gain is uncertain by the "
                "ratio of the two; a float64 state (dtype=torch.float64) or a smoother network "
                "may help",
                TuningWarning,
                stacklevel=3,
            )
            break
        coarse = fine
    return dataclasses.replace(few, x=x.to(torch.float64)).run(_recommended(model, steps))


def _recommended(model: Metered, nfe: int) -> Candidate:
    return Candidate("reference", *recommended(model, nfe))


def _rms(errors: Tensor) -> float:
    return float(errors.square().mean().sqrt())


def _screen(trial: Trial, base: Candidate, pilot: Pilot, *, free: bool) -> list[Candidate]:
    """Candidates to improve, best first: each rule on its best grid, or one rule on all grids."""
    steps = base.grid.steps
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
        grids |= stock_grids(base.grid, steps)
    rated: list[Rated] = []
    for rule in rules:
        options = [Candidate(name, rule, grid) for name, grid in grids.items()]
        values = [(trial.objective(trial.errors(option)), option) for option in options]
        rated += [min(values, key=by_value)] if free else values
    return [option for _, option in sorted(rated, key=by_value)]


def _informative(drawn: Trial, candidates: list[Candidate], count: int) -> Trial:
    """`count` of the starts, sampled by error, so that the few that dominate the RMS are included.

    The probability of a start is proportional to 0.5 plus its relative error, and its weight is
    1 / probability.
    """
    size = torch.zeros(len(drawn.x), dtype=torch.float64)
    for candidate in candidates:
        square = drawn.errors(candidate).square().sum(1)
        size += square / square.mean()
    share = 0.5 + (size / len(candidates)).sqrt()
    probability = share * (count / share.sum())
    for _ in range(20):  # clamp at 1, so that no start is taken twice
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
    """The best candidates, improved.

    Several descend a little on half of the starts, and hops continue from there. The best of these
    descend on all starts, and then once more with the RMS alone as the objective.
    """
    if not rounds:
        return []
    few = train.subset(max(len(train.x) // 2, 16))
    named = [start._replace(name=f"{start.name}, refined") for start in screened[:_SEMIFINALISTS]]
    nearby = functools.partial(descend, few, jacobians=1, free=free)
    moved = [nearby(start) for start in named]
    hops = rounds * _HOPPED // screened[0].grid.steps
    moved = hop([(few.rate(one), one) for one in moved], hops, few.rate, nearby, free=free)
    further = [descend(train, start, rounds, free=free) for start in moved[:_FINALISTS]]
    bold = dataclasses.replace(train, typical=0.0)
    for start in further[:]:
        found = descend(bold, start, 1, free=free)
        further.append(found._replace(name=f"{start.name} for the RMS"))
    return further


def _decide(trial: Trial, candidates: list[Candidate]) -> Candidate:
    """The candidate with the smallest objective among those with nearly the smallest RMS.

    A candidate counts if its RMS is not significantly above the smallest RMS, and is significantly
    below that of the default, `candidates[0]`. Without such a candidate, the default is returned.
    The RMS alone does not decide, since it can depend on a few starts.
    """
    ends = [trial.run(candidate) for candidate in candidates]
    errors = [trial.difference(end) for end in ends]
    best = ends[min(range(len(ends)), key=lambda k: float(errors[k].square().sum()))]
    equal = [
        (trial.objective(error), candidate)
        for error, end, candidate in zip(errors, ends, candidates, strict=True)
        if bool(torch.isfinite(end).all())
        and not error_ratio(end, best, trial.reference).low > 1
        and error_ratio(end, ends[0], trial.reference).high < 1
    ]
    return min(equal, key=by_value)[1] if equal else candidates[0]
