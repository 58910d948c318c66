"""Tuning by a bound on the KL divergence: the search for solvers that draw noise.

The grid with the smallest bound does not always have the best samples (`kl_bound`). So samples
decide between that grid, the default, and grids between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..metrics import EnergyDistance
from ..model import Predictor
from ..sampling.recommend import recommended
from .cost import Bar, Metered
from .endpoint_objective import Candidate, Found, samples
from .kl_bound import Signal, between
from .sample_objective import Judge

_SHARES = (0.25, 0.5, 0.75, 1.0)
_COMPARED = 2048  # samples in an energy distance, at most
_TRUE = 40  # evaluations of the reference samples of that distance


def by_bound(model: Predictor, x: Tensor, sizes: Sequence[int], base: Candidate, bar: Bar) -> Found:
    """The best grid between the default and the grid with the smallest bound, judged by samples.

    The best grid has the smallest energy distance to samples of the probability flow. The default
    is returned unless another grid is significantly better.

    Args:
        model: the model.
        x: starts, shape (B, *).
        sizes: number of starts to tune on, to decide on, and to measure the gain on.
        base: the default solver and grid.
        bar: the progress bar.
    """
    meter = Metered(model, bar)
    bar.says("KL bound")
    signal = Signal(meter, x, base.grid)
    train, deciding = slice(0, sizes[0]), slice(sizes[0], sizes[0] + sizes[1])
    test = slice(deciding.stop, None)
    least = signal.best(base.grid, train)
    candidates = [base] + [
        base._replace(name=f"{share:.0%} of the way to the least KL bound", grid=grid)
        for share in _SHARES
        for grid in (between(base.grid, least, share),)
    ]
    bar.says("deciding")
    flow = Candidate("probability flow", *recommended(model, _TRUE))
    distance = EnergyDistance(samples(meter, x[train][:_COMPARED], flow))
    best = Judge(meter, x[deciding][:_COMPARED], distance).choose(candidates)
    error = float(signal.bound(best.grid, test).mean())
    ratio = signal.ratio(best.grid, base.grid, test)
    return Found(best, "KL bound, nats a dimension,", error, ratio=ratio, cost=meter.spent)
