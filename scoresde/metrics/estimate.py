"""A measured number with its interval, and tests whether two such numbers differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ..errors import ConfigError
from .distances import endpoint_errors, rms

_MANY = 100  # draws that are enough for a quantile at 2.5 %


class Estimate(NamedTuple):
    """A measured number with its 95 % interval.

    Attributes:
        value: the number.
        low, high: ends of the interval.
        draws: values on resampled data, for paired comparisons; empty where there are none.
    """

    value: float
    low: float
    high: float
    draws: tuple[float, ...] = ()

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def __repr__(self) -> str:  # without the draws, which can be thousands
        return f"Estimate({self})"

    def shifted(self, by: float) -> Estimate:
        """The estimate with a constant added to value, interval and draws."""
        draws = tuple(draw + by for draw in self.draws)
        return Estimate(self.value + by, self.low + by, self.high + by, draws)


@runtime_checkable
class Metric(Protocol):
    """The interface of a metric: a name, and a call from samples to an `Estimate`.

    A metric may also have an attribute `better`: "lower" (the default), "higher", or "zero" for a
    signed number that is best at 0.
    """

    @property
    def name(self) -> str:
        """A few words, shown as the head of a column."""

    def __call__(self, x: Tensor) -> Estimate:
        """The metric of samples x, shape (B, *)."""


def badness(value: float, better: str) -> float:
    """The value of a metric, transformed so that smaller is better.

    Raises:
        ConfigError: if `better` is not "lower", "higher" or "zero".
    """
    if better == "lower":
        return value
    if better == "higher":
        return -value
    if better == "zero":
        return abs(value)
    raise ConfigError(f"better must be 'lower', 'higher' or 'zero', got {better!r}")


def bootstrap(
    statistic: Callable[..., Any], *data: np.ndarray, resamples: int = 1000, seed: int = 0
) -> Estimate:
    """A statistic with its percentile bootstrap interval.

    Each array of `data` has shape (n,), and all are resampled by the same rows.
    `statistic(*data, axis=-1)` must be vectorised, like the functions of numpy.
    """
    value, n = float(statistic(*data, axis=-1)), len(data[0])
    if n < 2:
        return Estimate(value, math.nan, math.nan)
    rows = _rows(n, resamples, seed)
    draws = np.asarray(statistic(*(part[rows] for part in data), axis=-1))
    low, high = np.quantile(draws, (0.025, 0.975))
    return Estimate(value, float(low), float(high), tuple(draws.tolist()))


def centred_bootstrap(
    value: float, statistic: Callable[[np.ndarray], float], n: int, resamples: int, seed: int
) -> Estimate:
    """Bootstrap of a distance between sets of samples, from `statistic(rows)` of resampled rows.

    A resample repeats points, so its distance to any other set is too large on average. The spread
    of the bootstrap is right, its centre is not. The interval is therefore the value plus or minus
    1.96 standard deviations of the bootstrap.
    """
    if n < 2 or resamples < 2:
        return Estimate(value, math.nan, math.nan)
    draws = np.array([statistic(rows) for rows in _rows(n, resamples, seed)])
    half = 1.96 * float(np.std(draws, ddof=1))
    centred = draws - draws.mean() + value
    return Estimate(value, value - half, value + half, tuple(centred.tolist()))


def pair_bootstrap(
    value: float, within: np.ndarray, across: np.ndarray, resamples: int, seed: int
) -> Estimate:
    """Bootstrap interval of a discrepancy between samples and a fixed set.

    The statistic is the mean of k(x_i, x_j) over pairs i != j, minus 2 times the mean of a(x_i).
    It equals `value` up to a constant that does not depend on x.

    Hoeffding's decomposition writes the error as two sums. The first, over samples, has the terms
    g(x_i) = E k(x_i, X) - a(x_i). The second, over pairs, has the part of k that is not a sum of
    functions of one sample. Where the two distributions are nearly equal, g vanishes and the
    second sum dominates. Resampling rows then gives intervals up to 1.7 times too wide, since g is
    estimated by means, and the noise of these means is counted as spread of g. So each sum gets
    multipliers of its own. With d_i = (how often a resample contains i) - 1, the first sum has the
    multipliers d_i, and g is shrunk to its variance without that noise. The second sum has the
    multipliers d_i d_j (Dehling & Mikosch, "Random Quadratic Forms and the Bootstrap for
    U-Statistics", 1994).

    Args:
        value: the discrepancy.
        within: k(x_i, x_j), symmetric, shape (n, n).
        across: a(x_i), shape (n,).
    """
    n = len(across)
    if n < 3 or resamples < 2:
        return Estimate(value, math.nan, math.nan)
    means = (within.sum(1) - np.diag(within)) / (n - 1)
    first = (means - means.mean()) * (n - 1) / (n - 2)
    pairs = within - means.mean() - first[:, None] - first
    np.fill_diagonal(pairs, 0.0)
    single = first - (across - across.mean())
    spread, noise = float(single.var(ddof=1)), float((pairs**2).sum()) / (n * (n - 1) ** 2)
    single = single * math.sqrt(max(0.0, 1.0 - noise / spread)) if spread > 0 else single
    draws = []
    for rows in _rows(n, resamples, seed):
        d = np.bincount(rows, minlength=n) - 1.0
        draws.append(2 * (d @ single) / n + d @ pairs @ d / (n * (n - 1)))
    centred = np.array(draws) - np.mean(draws) + value
    half = 1.96 * float(np.std(centred, ddof=1))
    return Estimate(value, value - half, value + half, tuple(centred.tolist()))


def difference(a: Estimate, b: Estimate, *, better: str = "lower") -> Estimate | None:
    """How much worse a is than b, with a paired interval; None if they cannot be paired.

    Both must come from the same metric, the same number of samples and the same seeds. The
    difference is significant if the interval does not contain 0.
    """
    if len(a.draws) != len(b.draws) or len(a.draws) < 2:
        return None
    value = badness(a.value, better) - badness(b.value, better)
    pairs = zip(a.draws, b.draws, strict=True)
    draws = np.array([badness(x, better) - badness(y, better) for x, y in pairs])
    draws += value - draws.mean()
    if len(draws) >= _MANY:  # one sample can dominate an RMS, which is then far from normal
        low, high = map(float, np.quantile(draws, (0.025, 0.975)))
    else:
        half = 1.96 * float(np.std(draws, ddof=1))
        low, high = value - half, value + half
    return Estimate(value, low, high, tuple(draws.tolist()))


def error_ratio(
    x: Tensor, other: Tensor, reference: Tensor, *, statistic: str = "rms", seed: int = 0
) -> Estimate:
    """Endpoint error of x divided by that of `other`, from the same starts, with a paired interval.

    The difference is significant if the interval does not contain 1. `statistic` is "rms" or
    "median".
    """
    a, b = (endpoint_errors(z, reference).numpy() for z in (x, other))
    of = rms if statistic == "rms" else np.median

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return of(a, axis=axis) / of(b, axis=axis)

    return bootstrap(ratio, a, b, resamples=2000, seed=seed)


def _rows(n: int, resamples: int, seed: int) -> np.ndarray:
    """Rows of each resample, the same for every set of n samples, so that sets can be paired."""
    return np.random.default_rng(seed).integers(0, n, (resamples, n))
