"""By a metric of the samples themselves, such as the Frechet distance to true ones.

A sampler that follows the flow of a network closely need not have the best samples: the network is
wrong in places, and at few evaluations errors of the solver may work against its own, or with them.
A metric of samples is noisy and has no gradient at hand, so that candidates are drawn at random
and the best kept (an evolution strategy without recombination). Li et al., "AutoDiffusion", 2023,
search time steps by the Frechet distance in this way; here the rule moves too. All candidates see
the same starts and the same noise, so that differences are far less noisy than values.
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

_HOPS = 24  # a round
_FINALISTS = 3
_ENDS = (0.25, 0.5)  # rho of the last knot, all of which is left to the step to sigma = 0


def check_metric(metric: object) -> None:
    """Refuse what is no distance.

    Raises:
        ConfigError: see there.
    """
    if not isinstance(metric, Metric):
        raise ConfigError(
            f"metric must be a Metric, a callable with a name, got {metric!r}; write "
            "metric=FrechetDistance(images, features)"
        )
    if getattr(metric, "better", "lower") != "lower":
        raise ConfigError(
            f"{metric.name} is no distance, of which less is better and 0 perfect; write "
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
    """The solver and grid whose samples have the least of a metric.

    Args:
        model: what predicts.
        x: starts, shape (B, *).
        sizes: how many of them are to tune on, to decide on and to state the gain on.
        base: the default.
        rounds: of random moves.
        metric: a distance: lower is better, and 0 perfect.
        bar: shows how far it is.
        free: whether the solver may change too.

    Raises:
        ConfigError: where the metric of the default's samples is not finite, or has no draws.
        ScoreSDEError: what the metric says of the default's samples, such as that they are not
            finite, or of another shape than true ones.
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
    """Where the search begins, besides the default: the solver on hand-made grids; where it may
    change, multistep rules in x0 and lambda instead, whose order falls again in the last steps.
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
