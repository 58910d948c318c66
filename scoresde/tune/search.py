"""What is searched for, from which starts, and by what."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from .._internal.checks import calls_within, check_event_shape, explained_shape
from .._internal.witness import name_of
from ..errors import ConfigError
from ..metrics import Metric
from ..model import Predictor, event_shape_of
from ..noise import SampleSeeds
from ..sampling.choose import choose
from ..solvers.legs import evaluations
from ..solvers.solver import Solver
from ..wrapper import evals_per_call
from .by_bound import by_bound
from .by_endpoints import by_endpoints
from .by_metric import by_metric, check_metric
from .cost import Bar
from .endpoint_objective import Candidate
from .result import Tuned


def tune(
    model: Predictor,
    solver: Solver | str,
    nfe: int,
    *,
    event_shape: Sequence[int] | None = None,
    starts: int | None = None,
    held_out: int | None = None,
    seed: int = 1_000_000,
    dtype: torch.dtype = torch.float32,
    rounds: int | None = None,
    metric: Metric | None = None,
    key: str | None = None,
    progress: bool = False,
) -> Tuned:
    """Find the grid on which a solver makes the smallest endpoint error at a budget; for a
    stochastic solver, one on the way to the smallest bound on the KL divergence of its samples;
    with a `metric`, the grid whose samples have the least of it. With "recommended" the solver is
    chosen as well.

    Args:
        model: what predicts.
        solver: a solver, or its name. With "recommended" order, corrector, prediction variable and
            coordinate change too, and the default that the gain is stated against is the
            recommended solver on its own grid; "recommended(stochastic=True)" stays what it is.
        nfe: the budget, in network evaluations a sample; the most that the solver can use of it
            is taken.
        event_shape: shape of one sample, without the batch; that of a closed-form model by
            default.
        starts: starts to tune on, of which a quarter is used most, those with large errors before
            others; 96 by default, and 2,048 for a closed-form model (16,384 up to 16 dimensions);
            256 with a metric.
        held_out: starts to choose on, and as many others to state the gain on; half of `starts` by
            default, and at least 4,096 for a closed-form model tuned with the default `starts`;
            twice `starts` with a metric.
        seed: start k has the seed `seed + k`. The default is far from the seeds that `sample` and
            `compare` begin with, so that a grid is not judged on the starts it was tuned on.
        dtype: of the state.
        rounds: how long to search: hops, and Jacobians for each of the finalists (with a metric,
            24 random moves each); 1 by default, and 3 for a closed-form model. 0 leaves all
            candidates as they are.
        metric: a distance to what samples should be, such as `FrechetDistance(images, features)`:
            less is better, and 0 perfect, with draws to compare by (see `Estimate`). Its samples
            should be others than those that the result is judged by.
        key: a name for the model, which you change whenever the model changes. It takes the place
            of the model's fingerprint, where that cannot be known or is slow to find.
        progress: show a bar (needs tqdm).

    Raises:
        FingerprintError: where the content of the model cannot be known; write `key=`.
        ConfigError: for a solver that chooses its own steps, a budget of one step, too few
            starts, or a metric that is no distance, not finite or without draws.
        NonFiniteError: for a model whose reference endpoints, or with a metric the default's
            samples, are not finite.
        ScoreSDEError: what the metric says of the default's samples.
    """
    if metric is not None:
        check_metric(metric)
    who = name_of(model, key)
    rule, default = choose(model.sde, solver, None, calls_within(model, nfe))
    if default.steps < 2:
        raise ConfigError(f"{nfe} network evaluations leave no knot to move; write a larger nfe")
    closed: Sequence[int] = event_shape_of(model) or ()
    event = tuple(closed) if event_shape is None else check_event_shape(event_shape, closed or None)
    if not event:
        raise ConfigError("the shape of a sample is not known; write event_shape=(1, 28, 28)")
    if starts is None:
        starts, most = _counts(event if closed else None, metric)
        held_out = most if held_out is None else held_out
    elif held_out is None:
        held_out = starts // 2 if metric is None else 2 * starts
    if rounds is not None and metric is None and rule.stochastic:
        raise ConfigError(
            f"rounds={rounds!r} is of a search, and the grid of a solver that draws noise is found "
            "without one; leave rounds out, or give a metric"
        )
    if rounds is None:
        rounds = 3 if closed else 1
    if min(starts, held_out) < 2:
        raise ConfigError(
            f"starts to tune on and to decide on must be 2 or more each, got starts={starts!r}, "
            f"held_out={held_out!r}; write starts=64"
        )
    sizes = (starts, held_out, held_out)
    seeds = SampleSeeds(tuple(range(seed, seed + sum(sizes))))
    x = model.sde.prior_sample(seeds.open((sum(sizes), *event), dtype))
    base, free = Candidate("default", rule, default), _chosen_too(solver)
    with Bar(progress) as bar, explained_shape(model, event):
        if metric is not None:
            found = by_metric(model, x, sizes, base, rounds, metric, bar, free=free)
        elif rule.stochastic:
            found = by_bound(model, x, sizes, base, bar)
        else:
            found = by_endpoints(model, x, sizes, base, rounds, bar, free=free)
    best = found.best
    return Tuned(
        solver=best.solver,
        grid=best.grid,
        model=who,
        nfe=(evaluations(best.solver, best.grid) or 0) * evals_per_call(model),
        budget=nfe,
        source=best.name,
        metric=found.metric,
        error=found.error,
        ratio=found.ratio,
        typical=found.typical,
        change=found.change,
        cost=found.cost,
    )


def _chosen_too(solver: Solver | str) -> bool:
    """Whether the solver is left to the tuner: "recommended", in capitals or not."""
    return isinstance(solver, str) and solver.strip().lower() in ("recommended", "recommended()")


def _counts(closed: Sequence[int] | None, metric: Metric | None) -> tuple[int, int]:
    """Starts to tune on, and to decide on; `closed` is the shape of a closed form's samples."""
    if metric is not None:
        return 256, 512
    if closed is None:
        return 96, 48
    starts = 16384 if math.prod(closed) <= 16 else 2048
    return starts, max(starts // 2, 4096)  # a handful of starts hold most of the squared error
