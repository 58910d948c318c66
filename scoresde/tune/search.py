"""`tune`: checks its arguments, draws starts, and runs the search that suits the solver."""

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
from ..sampling.start import draw_start
from ..solvers.legs import evaluations
from ..solvers.solver import Solver
from ..wrapper import begin, evals_per_call
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
    """Find the best time grid for a model, a solver and a budget.

    For a deterministic solver, the best grid has the smallest endpoint errors. For a stochastic
    solver, candidates lie between the default grid and the grid with the smallest bound on the KL
    divergence, and the energy distance of samples decides. With a `metric`, the best grid has the
    smallest metric of samples. With "recommended", the solver is chosen as well.

    Args:
        model: the model.
        solver: a solver, or its name. With "recommended", the search also changes order, corrector,
            prediction variable and coordinate; the gain is then relative to the recommended solver
            on its own grid. "recommended(stochastic=True)" changes only its grid.
        nfe: the budget, in network evaluations per sample; the solver uses as much of it as it can.
        event_shape: shape of one sample, without the batch; by default that of a closed-form model.
        starts: number of starts to tune on. Most work uses a quarter of them, sampled by error. The
            default is 96; for a closed-form model 2,048, and 16,384 up to 16 dimensions; with a
            metric 256.
        held_out: number of starts to choose the best candidate on; as many others measure the gain.
            The default is half of `starts`; for a closed-form model with the default `starts` at
            least 4,096; with a metric twice `starts`.
        seed: start k has the seed `seed + k`. The default is far from the first seeds of `sample`
            and `compare`, so that a grid is not judged on the starts it was tuned on.
        dtype: dtype of the state.
        rounds: length of the search: rounds of hops, and number of Jacobians for each finalist;
            with a metric, each round has 24 random moves. The default is 1, and 3 for a closed-form
            model. With 0, candidates are compared but not improved.
        metric: a distance to true samples, such as `FrechetDistance(images, features)`. Lower is
            better, 0 is perfect, and its `Estimate` needs draws. Use other true samples to judge
            the result.
        key: a name for the model. Change it whenever the model changes. It replaces the model's
            fingerprint, if that cannot be computed or is slow to compute.
        progress: show a bar (needs tqdm).

    Raises:
        FingerprintError: if the model has no fingerprint; write `key=`.
        ConfigError: for a solver that chooses its own steps, a budget of one step, too few
            starts, or a metric that is not a distance, not finite or without draws.
        NonFiniteError: if the reference endpoints are not finite; with a metric, if the default's
            samples are not finite.
        ScoreSDEError: if the metric raises it for the default's samples.
    """
    if metric is not None:
        check_metric(metric)
    who = name_of(model, key)
    with torch.no_grad():
        model = begin(model)
    rule, default = choose(model, solver, None, calls_within(model, nfe))
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
            f"rounds={rounds!r} has no effect here: without a metric, the grid of a solver that "
            "draws noise is found without a search; leave rounds out, or give a metric"
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
    noise = seeds.open((sum(sizes), *event), dtype).start()
    x = draw_start(model, default.knots[0], noise)
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
    """Whether `tune` also chooses the solver: it is "recommended", in any case of letters."""
    return isinstance(solver, str) and solver.strip().lower() in ("recommended", "recommended()")


def _counts(closed: Sequence[int] | None, metric: Metric | None) -> tuple[int, int]:
    """Default numbers of starts to tune on and to decide on.

    `closed` is the shape of a closed-form model's samples, or None for other models.
    """
    if metric is not None:
        return 256, 512
    if closed is None:
        return 96, 48
    starts = 16384 if math.prod(closed) <= 16 else 2048
    return starts, max(starts // 2, 4096)  # many, since a few starts have most squared error
