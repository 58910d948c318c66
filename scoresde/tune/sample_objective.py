"""The objective of tuning by a metric: the metric of samples from one set of starts."""

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
    """Judges candidates by a metric of their samples from one set of starts.

    Args:
        model: the model.
        x: starts, shape (B, *).
        metric: a distance: lower is better.
        noise: a number that selects the noise of stochastic solvers; use another number for other
            starts.
    """

    def __init__(self, model: Metered, x: Tensor, metric: Metric, noise: int = 0) -> None:
        self._model, self._x, self._noise = model, x, noise
        self._metric, self._quick = metric, _without_interval(metric)

    def estimate(self, candidate: Candidate) -> Estimate:
        """The metric of a candidate's samples, with its draws.

        Raises:
            ScoreSDEError: if the candidate cannot be run, or its samples are not finite.
        """
        return self._metric(samples(self._model, self._x, candidate, self._noise))

    def rate(self, candidate: Candidate) -> float:
        """The metric's value without interval; infinite if it has none or is not finite."""
        try:
            value = self._quick(samples(self._model, self._x, candidate, self._noise)).value
        except ScoreSDEError:
            return math.inf
        return value if math.isfinite(value) else math.inf

    def check(self, candidate: Candidate) -> float:
        """The metric's value for a candidate that must have a finite value and draws.

        Raises:
            ConfigError: if the value is not finite, or there are no draws.
            ScoreSDEError: see `estimate`.
        """
        found: Any = self.estimate(candidate)
        name = self._metric.name
        if not isinstance(found, Estimate) or not math.isfinite(found.value):
            raise ConfigError(
                f"{name} of {len(self._x)} of the default's samples is {found!r}, not an Estimate "
                "with a finite value; check that the true samples are finite"
            )
        if len(found.draws) < 2:
            raise ConfigError(
                f"{name} of {len(self._x)} samples has no draws, which decide whether a gain is "
                "significant; take more starts, or return Estimate(value, low, high, draws)"
            )
        return found.value

    def choose(self, candidates: Sequence[Candidate]) -> Candidate:
        """The candidate with the smallest value, if it is significantly better than the first.

        Otherwise the first candidate.
        """
        first, *others = candidates
        rated = [(self.rate(one), one) for one in others]
        value, best = min(rated, key=lambda pair: pair[0], default=(math.inf, first))
        if not math.isfinite(value):
            return first
        gain = difference(self.estimate(best), self.estimate(first))
        return best if gain is not None and gain.high < 0 else first


def _without_interval(metric: Metric) -> Metric:
    """The same metric without its bootstrap, which can take longer than sampling."""
    if dataclasses.is_dataclass(metric) and hasattr(metric, "resamples"):
        return dataclasses.replace(metric, resamples=0)
    return metric
