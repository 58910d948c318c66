"""By a measure of the samples themselves, such as the Frechet distance to true ones.

A sampler that follows the flow of a network closely need not have the best samples: the network is
wrong in places, and at few evaluations errors of the solver may work against its own, or with them.
A measure of samples is noisy and has no gradient at hand, so that candidates are drawn at random
and the best kept (an evolution strategy without recombination). Li et al., "AutoDiffusion", 2023,
search time steps by the Frechet distance in this way; here the rule moves too. All candidates see
the same starts and the same noise, so that differences are far less noisy than values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, ScoreSDEError
from ..metrics import Estimate, Metric, difference, quotient
from ..model import Predictor
from ..solvers.exponential import ExponentialMultistep
from .candidates import stock_grids
from .hops import hop
from .metered import Bar, Metered
from .trial import Candidate, Found, samples

_HOPS = 24  # a round
_FINALISTS = 3
_WALKERS = 4
_ENDS = (0.25, 0.5)  # rho of the last knot, all of which is left to the step to sigma = 0


@dataclass(eq=False)
class Judge:
    """Starts, shape (B, *), and what samples from them are measured by."""

    model: Metered
    x: Tensor
    measure: Metric

    def estimate(self, candidate: Candidate) -> Estimate:
        """The measure of a candidate's samples.

        Raises:
            ScoreSDEError: for a candidate that cannot be run, or whose samples are not finite.
        """
        return self.measure(samples(self.model, self.x, candidate))

    def rate(self, candidate: Candidate) -> float:
        """Its value; infinite where there is none."""
        try:
            return self.estimate(candidate).value
        except ScoreSDEError:
            return math.inf

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The candidate with the least value; the first unless that is below its own by more than
        chance.
        """
        stock, *others = candidates
        default, rated = self.estimate(stock), []
        for one in others:
            with suppress(ScoreSDEError):
                rated.append((self.estimate(one), one))
        if not rated:
            return stock
        least, best = min(rated, key=lambda pair: pair[0].value)
        gain = difference(least, default)
        return best if gain is not None and gain.high < 0 else stock


def by_measure(
    model: Predictor,
    x: Tensor,
    sizes: Sequence[int],
    base: Candidate,
    rounds: int,
    measure: Metric,
    bar: Bar,
    *,
    free: bool,
) -> Found:
    """The solver and grid whose samples have the least of a measure.

    Args:
        model: what predicts.
        x: starts, shape (B, *).
        sizes: how many of them are to tune on, to decide on and to state the gain on.
        base: the default.
        rounds: of random moves.
        measure: a distance: lower is better, and 0 perfect.
        bar: shows how far it is.
        free: whether the solver may change too.

    Raises:
        ConfigError: for a measure of which less is not better.
        ScoreSDEError: what the measure says of the default's samples, such as that they are not
            finite, or of another shape than true ones.
    """
    if getattr(measure, "better", "lower") != "lower":
        raise ConfigError(
            f"{measure.name} is no distance, of which less is better and 0 perfect; write "
            "measure=FrechetDistance(images, features)"
        )
    meter = Metered(model, bar)
    drawn, deciding, test = (Judge(meter, part, measure) for part in torch.split(x, list(sizes)))
    few = Judge(meter, drawn.x[: max(2, sizes[0] // 2)], measure)
    bar.says("screening")
    default = few.estimate(base).value  # a measure that cannot be taken is told of here
    rated = [(default, base), *((few.rate(one), one) for one in _stock(base, free=free))]
    screened = sorted(rated, key=lambda pair: pair[0])[:_WALKERS]
    bar.says(f"{rounds * _HOPS} random moves")
    start = [(drawn.rate(one), one) for _, one in screened]
    moved = hop(start, rounds * _HOPS, drawn.rate, free=free)
    bar.says("deciding")
    best = deciding.choose([base, *moved[:_FINALISTS]])
    found, stock = (test.estimate(one) for one in (best, base))
    return Found(best, measure.name, found.value, quotient(found, stock), None, meter.spent)


def _stock(base: Candidate, *, free: bool) -> list[Candidate]:
    """Where the search begins, besides the default: the solver on hand-made grids; where it may
    change, multistep rules in x0 and lambda instead, whose order falls again in the last steps.
    """
    sde, steps = base.grid.sde, base.grid.steps
    if not free:
        return [base._replace(name=n, grid=g) for n, g in stock_grids(sde, steps).items()]
    found: list[Candidate] = []
    for values, corrector in ((2, 0), (3, 0), (3, 3)):
        caps = tuple(min(k + 1, values, steps - k) for k in range(steps))
        rule = ExponentialMultistep(values, "x0", "lambda", corrector=corrector, caps=caps)
        found += [
            Candidate(name, rule, grid) for name, grid in stock_grids(sde, steps, _ENDS).items()
        ]
    return found
