"""Tuning by a metric of samples, such as their Frechet distance to true samples.

A small error against the flow of the network does not always mean good samples. The network has
errors of its own, and at few evaluations the errors of the solver can reduce or increase them.

A metric of samples is noisy, and its gradient is not available. So candidates are moved at random
and the best are kept (an evolution strategy without recombination). Li et al., "AutoDiffusion",
2023, search time steps by the Frechet distance in this way; here the rule of the solver changes
too. All candidates use the same starts and the same noise, so differences between them are far less
noisy than their values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..metrics import Metric, difference
from ..model import Predictor
from ..solvers.exponential import ExponentialMultistep
from .basin_hopping import WALKERS, by_value, hop
from .candidates import stock_grids
from .cost import Bar, Metered
from .endpoint_objective import Candidate, Found
from .sample_objective import Judge

_HOPS = 24  # hops in each round
_FINALISTS = 3
_ENDS = (0.25, 0.5)  # rho of the last knot before sigma = 0


def check_metric(metric: object) -> None:
    """Check that a metric is a distance.

    Raises:
        ConfigError: if it is not a `Metric`, or lower values are not better.
    """
    if not isinstance(metric, Metric):
        raise ConfigError(
            f"metric must be a Metric, a callable with a name, got {metric!r}; write "
            "metric=FrechetDistance(images, features)"
        )
    if getattr(metric, "better", "lower") != "lower":
        raise ConfigError(
            f"{metric.name} is not a distance (lower is better, 0 is perfect); write "
            "metric=FrechetDistance(images, features)"
        )


def by_metric(
    model: Predictor,
    x: Tensor,
    sizes: Sequence[int],
    base: Candidate,
    rounds: int,
    metric: Metric,
    bar: Bar,
    *,
    free: bool,
) -> Found:
    """The solver and grid whose samples have the smallest value of a metric.

    Args:
        model: the model.
        x: starts, shape (B, *).
        sizes: number of starts to tune on, to decide on, and to measure the gain on.
        base: the default solver and grid.
        rounds: rounds of random moves.
        metric: a distance: lower is better, 0 is perfect.
        bar: the progress bar.
        free: whether the solver may change too.

    Raises:
        ConfigError: if the metric of the default's samples is not finite, or has no draws.
        ScoreSDEError: if the metric raises it for the default's samples, for example because they
            are not finite or differ in shape from the true samples.
    """
    meter = Metered(model, bar)
    parts = enumerate(torch.split(x, list(sizes)))
    drawn, deciding, test = (Judge(meter, part, metric, noise) for noise, part in parts)
    few = Judge(meter, x[: max(2, sizes[0] // 2)], metric)
    bar.says("screening")
    rated = [(few.check(base), base)]
    rated += [(few.rate(one), one) for one in _stock(base, free=free)]
    start = [(drawn.rate(one), one) for _, one in sorted(rated, key=by_value)[:WALKERS]]
    bar.says(f"{rounds * _HOPS} random moves")
    moved = hop(start, rounds * _HOPS, drawn.rate, free=free)
    bar.says("deciding")
    best = deciding.choose([base, *moved[:_FINALISTS]])
    found, stock = (test.estimate(one) for one in (best, base))
    return Found(best, metric.name, found.value, change=difference(found, stock), cost=meter.spent)


def _stock(base: Candidate, *, free: bool) -> list[Candidate]:
    """Candidates to begin with, besides the default.

    They are the solver on stock grids. If the solver may change, they are multistep rules in x0 and
    lambda on these grids; the order of a rule falls in its last steps.
    """
    steps = base.grid.steps
    if not free:
        return [base._replace(name=n, grid=g) for n, g in stock_grids(base.grid, steps).items()]
    found: list[Candidate] = []
    for values, corrector in ((2, 0), (3, 0), (3, 3)):
        caps = tuple(min(k + 1, values, steps - k) for k in range(steps))
        rule = ExponentialMultistep(values, "x0", "lambda", corrector=corrector, caps=caps)
        grids = stock_grids(base.grid, steps, _ENDS)
        found += [Candidate(name, rule, grid) for name, grid in grids.items()]
    return found
