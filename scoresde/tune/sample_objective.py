"""What candidates are judged by: a metric of their samples from one set of starts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..errors import ConfigError, ScoreSDEError
from ..metrics import Estimate, Metric, difference
from .cost import Metered
from .endpoint_objective import Candidate, samples


class Judge:
    """Starts, and what samples from them are measured by.

    Args:
        model: what predicts.
        x: starts, shape (B, *).
        metric: a distance: less is better.
        noise: which noise solvers draw that draw some; other starts should have another number.
    """

    def __init__(self, model: Metered, x: Tensor, metric: Metric, noise: int = 0) -> None:
        self._model, self._x, self._noise = model, x, noise
        self._metric, self._quick = metric, _without_interval(metric)

    def estimate(self, candidate: Candidate) -> Estimate:
        """The metric of a candidate's samples, with its draws.

        Raises:
            ScoreSDEError: for a candidate that cannot be run, or whose samples are not finite.
        """
        return self._metric(samples(self._model, self._x, candidate, self._noise))

    def rate(self, candidate: Candidate) -> float:
        """The value alone; infinite where there is none."""
        try:
            value = self._quick(samples(self._model, self._x, candidate, self._noise)).value
        except ScoreSDEError:
            return math.inf
        return value if math.isfinite(value) else math.inf

    def check(self, candidate: Candidate) -> float:
        """The value for a candidate that must have one, and draws to compare it by.

        Raises:
            ConfigError: where either is missing.
            ScoreSDEError: see `estimate`.
        """
        found: Any = self.estimate(candidate)
        name = self._metric.name
        if not isinstance(found, Estimate) or not math.isfinite(found.value):
            raise ConfigError(
                f"{name} of {len(self._x)} of the default's samples is {found!r}, not an Estimate "
                "of a finite value; see that the true samples are finite"
            )
        if len(found.draws) < 2:
            raise ConfigError(
                f"{name} of {len(self._x)} samples has no draws, by which a gain is told from "
                "chance; take more starts, or give Estimate(value, low, high, draws)"
            )
        return found.value

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The candidate with the least value; the first unless that is below its own by more than
        chance.
        """
        first, *others = candidates
        rated = [(self.rate(one), one) for one in others]
        value, best = min(rated, key=lambda pair: pair[0], default=(math.inf, first))
        if not math.isfinite(value):
            return first
        gain = difference(self.estimate(best), self.estimate(first))
        return best if gain is not None and gain.high < 0 else first


def _without_interval(metric: Metric) -> Metric:
    """The same metric without its bootstrap, which can take longer than the samples."""
    if dataclasses.is_dataclass(metric) and hasattr(metric, "resamples"):
        return dataclasses.replace(metric, resamples=0)
    return metric
