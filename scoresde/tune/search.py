"""The search for the best candidate, from stock grids to starts that decide."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..budget import choose
from ..errors import ConfigError, NonFiniteError
from ..identity import fingerprint
from ..metrics import EnergyDistance, difference, endpoint_errors, error_ratio
from ..model import Predictor
from ..noise import SampleSeeds
from ..recommended import recommended
from ..sampling import sample
from ..solvers.base import Solver
from ..solvers.relay import evaluations
from .candidates import families, stock_grids
from .hops import descend, hop
from .kl_bound import Signal, between
from .metered import Metered
from .path import equidistributed, shortest
from .pilot import Pilot
from .result import Tuned, TuningWarning
from .span import in_its_span
from .trial import Candidate, Trial

_PILOTS = 16
_SEMIFINALISTS, _FINALISTS = 4, 2
_HOPPED = 100  # steps of one sample in hops, a round
_NEGLIGIBLE = 0.03  # error of the reference, in units of the default's
_SHARES = (0.25, 0.5, 0.75, 1.0)
_COMPARED = 2048  # samples in an energy distance, at most
_TRUE = 40  # evaluations for the samples that it is measured to
_LONGEST = 1000  # evaluations of the reference, or a little more


def tune(
    model: Predictor,
    solver: Solver | str,
    nfe: int,
    *,
    shape: Sequence[int] | None = None,
    starts: int | None = None,
    held_out: int | None = None,
    first_seed: int = 1_000_000,
    dtype: torch.dtype = torch.float32,
    rounds: int | None = None,
) -> Tuned:
    """Find the grid on which a solver makes the smallest endpoint error at a budget; for a
    stochastic solver, one on the way to the smallest bound on the KL divergence of its samples.

    Args:
        model: what predicts.
        solver: a solver, or its name. With "recommended", the solver is chosen as well: order,
            corrector, prediction variable and coordinate; the default that the gain is stated
            against is then the recommended solver on its own grid.
        nfe: the budget; the most that the solver can use of it is taken.
        shape: of one sample; that of a closed-form model by default.
        starts: starts to tune on, of which a quarter is used most, those with large errors before
            others; 96 by default, and 2,048 for a closed-form model (16,384 up to 16 dimensions).
        held_out: starts to choose on, and as many others to state the gain on; half of `starts` by
            default, and at least 4,096 for a closed-form model tuned with the default `starts`.
        first_seed: first of the seeds of all starts; others than `sample` and `bench` take.
        dtype: of the state.
        rounds: how long to search: hops, and Jacobians for each of the finalists; 1 by default,
            and 3 for a closed-form model. 0 leaves all candidates as they are.

    Raises:
        ConfigError: for a solver that chooses its own steps, a budget of one step, or too few
            starts.
        NonFiniteError: for a model whose reference endpoints are not finite.
    """
    rule, default = choose(model.sde, solver, None, nfe)
    if default.steps < 2:
        raise ConfigError(f"{nfe} evaluations leave no knot to move; write a larger nfe")
    closed: Sequence[int] = getattr(model, "event_shape", ())
    event = tuple(closed if shape is None else shape)
    if not event:
        raise ConfigError("the shape of a sample is not known; write shape=(1, 28, 28)")
    if starts is None:
        starts = 96 if not closed else 16384 if math.prod(event) <= 16 else 2048
        if closed and held_out is None:  # a handful of starts hold most of the squared error
            held_out = max(starts // 2, 4096)
    if rounds is None:
        rounds = 3 if closed else 1
    held_out = starts // 2 if held_out is None else held_out
    if min(starts, held_out) < 2:
        raise ConfigError(
            f"starts to tune on and to decide on must be 2 or more each, got starts={starts!r}, "
            f"held_out={held_out!r}; write starts=64"
        )
    count = starts + 2 * held_out
    seeds = SampleSeeds(tuple(range(first_seed, first_seed + count)))
    x = model.sde.prior_sample(seeds.open((count, *event), dtype))
    few, x = in_its_span(model, x)
    meter, base = Metered(few), Candidate("default", rule, default)
    ends = (0, starts, starts + held_out, len(x))
    parts = [slice(a, b) for a, b in pairwise(ends)]
    if rule.stochastic:
        signal = Signal(meter, x, default)
        best = _by_bound(signal, meter, x, base, *parts[:2])
        measure, typical = "KL bound, nats a dimension,", None
        error = float(signal.bound(best.grid, parts[2]).mean())
        ratio = signal.ratio(best.grid, default, parts[2])
    else:
        reference = _reference(meter, base, x)
        drawn, deciding, test = (
            Trial(meter, x[part], reference[part], torch.ones(len(x[part]), dtype=torch.float64))
            for part in parts
        )
        best = _by_endpoints(drawn, deciding, base, rounds, free=solver == "recommended")
        measure = "RMS endpoint error"
        found, stock = test.run(best.solver, best.grid), test.run(rule, default)
        # Over the coordinates of a sample, of which a span may have had fewer.
        size = math.sqrt(x[0].numel() / math.prod(event))
        error = size * float(endpoint_errors(found, test.reference).square().mean().sqrt())
        ratio = error_ratio(found, stock, test.reference)
        typical = error_ratio(found, stock, test.reference, statistic="median")
    return Tuned(
        solver=best.solver,
        grid=best.grid,
        model=fingerprint(model),
        nfe=evaluations(best.solver, best.grid) or 0,
        budget=nfe,
        source=best.name,
        measure=measure,
        error=error,
        ratio=ratio,
        typical=typical,
        cost=meter.spent,
    )


def _by_endpoints(
    drawn: Trial, deciding: Trial, base: Candidate, rounds: int, *, free: bool
) -> Candidate:
    starts = len(drawn.x)
    pilot = Pilot(drawn.model, drawn.x[:_PILOTS], min(max(48, 4 * base.grid.steps), 160))
    screened = _screen(drawn.subset(max(starts // 8, 16)), base, pilot, free=free)
    train = _informative(drawn, [base, *screened[:2]], max(starts // 4, min(starts, 32)))
    candidates = [base, *screened[:_FINALISTS], *_refined(train, screened, rounds, free=free)]
    return _decide(deciding, candidates)


def _by_bound(
    signal: Signal, model: Metered, x: Tensor, base: Candidate, train: slice, deciding: slice
) -> Candidate:
    """The grid with the least bound, or one on the way to it from the default, whose samples are
    closest to those of the probability flow; the default unless they are closer than its own by
    more than chance.
    """
    least = signal.best(base.grid, train)
    candidates = [base] + [
        base._replace(name=f"{share:.0%} of the way to the least KL bound", grid=grid)
        for share in _SHARES
        for grid in (between(base.grid, least, share),)
    ]
    few = x[train][:_COMPARED].to(model.device)
    distance = EnergyDistance(sample(model, *recommended(model.sde, _TRUE), x=few).x.cpu())
    few = x[deciding][:_COMPARED].to(model.device)
    found = [
        distance(sample(model, one.solver, one.grid, x=few, seeds=0).x.cpu()) for one in candidates
    ]
    best = min(range(len(found)), key=lambda k: found[k].value)
    gain = difference(found[best], found[0])
    return candidates[best] if gain is not None and gain.high < 0 else base


def _reference(model: Metered, base: Candidate, x: Tensor) -> Tensor:
    """Endpoints of all starts in float64, by the recommended solver.

    Its steps are doubled until that changes endpoints by far less than the default's error is.
    """
    few = Trial(model, x[:32].to(torch.float64), x[:32], torch.ones(32))
    steps = max(2 * base.grid.steps, 20)
    found = few.run(base.solver, base.grid)
    coarse = few.run(*recommended(model.sde, steps))
    while True:
        steps *= 2
        fine = few.run(*recommended(model.sde, steps))
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
    return dataclasses.replace(few, x=x.to(torch.float64)).run(*recommended(model.sde, steps))


def _rms(errors: Tensor) -> float:
    return float(errors.square().mean().sqrt())


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
    """The best candidates moved: several a little on few starts, hopping on from there; the best of
    these on all; and once more for the RMS alone.
    """
    if not rounds:
        return []
    few = train.subset(max(len(train.x) // 2, 16))
    named = [start._replace(name=f"{start.name}, refined") for start in screened[:_SEMIFINALISTS]]
    moved = [descend(few, start, 1, free=free) for start in named]
    moved = hop(few, moved, rounds * _HOPPED // screened[0].grid.steps, free=free)
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
    ends = [trial.run(candidate.solver, candidate.grid) for candidate in candidates]
    errors = [trial.difference(end) for end in ends]
    best = ends[min(range(len(ends)), key=lambda k: float(errors[k].square().sum()))]
    equal = [
        (trial.objective(error), candidate)
        for error, end, candidate in zip(errors, ends, candidates, strict=True)
        if bool(torch.isfinite(end).all())
        and not error_ratio(end, best, trial.reference).low > 1
        and error_ratio(end, ends[0], trial.reference).high < 1
    ]
    return min(equal, key=_value)[1] if equal else candidates[0]
