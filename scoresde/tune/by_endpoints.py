"""By the distance of endpoints to true ones: the search for solvers that draw no noise.

Stock grids and those of a pilot are screened, the best are moved, and other starts decide.
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
_HOPPED = 100  # steps of one sample in hops, a round
_NEGLIGIBLE = 0.03  # error of the reference, in units of the default's
_LONGEST = 1000  # evaluations of the reference, or a little more


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
    """The solver and grid with the smallest endpoint errors; the default unless the RMS is lower
    by more than chance.

    Args:
        model: what predicts.
        x: starts, shape (B, *).
        sizes: how many of them are to tune on, to decide on and to state the gain on.
        base: the default.
        rounds: of hops and of Jacobians.
        bar: shows how far it is.
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
    # Over the coordinates of a sample, of which a span may have had fewer.
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

    Its steps are doubled until that changes endpoints by far less than the default's error is.
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
                f"the model leads to endpoints that are not finite, in {steps} evaluations from "
                "the prior; see sample(model, nfe=100, shape=...).failures for where that begins"
            )
        if gap <= _NEGLIGIBLE * error:
            break
        if steps >= _LONGEST:
            warnings.warn(
                f"after {steps} evaluations the reference still moves by {gap:.1e}, where the "
                f"default's error is {error:.1e}: the gain is known no better than that; a state "
                "in float64 (dtype=torch.float64), or a smoother network, may help",
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
    """Rules on the best of their grids, or the one rule on all grids; the best first."""
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
    """The best candidates moved: several a little on few starts, hopping on from there; the best of
    these on all; and once more for the RMS alone.
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
    """The smallest objective among those whose RMS is no worse than the smallest one but by
    chance: the RMS alone may hang on a handful of starts. The default, which comes first, unless
    the RMS is below its own by more than chance.
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
