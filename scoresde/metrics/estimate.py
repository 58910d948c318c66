"""A measured number with its interval, and whether two of them differ."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ..errors import ConfigError
from .distances import endpoint_errors, rms

_MANY = 100  # draws from which quantiles at 2.5 % can be read


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

    def __repr__(self) -> str:  # thousands of draws would drown all that holds an estimate
        return f"Estimate({self})"

    def shifted(self, by: float) -> Estimate:
        """The estimate of a number that is larger by a constant."""
        draws = tuple(draw + by for draw in self.draws)
        return Estimate(self.value + by, self.low + by, self.high + by, draws)


@runtime_checkable
class Metric(Protocol):
    """What the benchmark asks of a metric.

    A metric may also have `better`: "lower" (taken where it is absent), "higher", or "zero" for a
    signed number of which the size counts.
    """

    @property
    def name(self) -> str:
        """A few words, for the head of a column."""

    def __call__(self, x: Tensor) -> Estimate:
        """The metric of samples x, shape (B, *)."""


def badness(value: float, better: str) -> float:
    """A number that is smaller for better values of a metric.

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
    """A statistic with its percentile interval, over paired data of shape (n,) each.

    `statistic(*data, axis=-1)` must be vectorised, as those of numpy are.
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
    """Bootstrap of a distance between samples, from `statistic(rows)` of resampled rows.

    A resample repeats points and is therefore farther from everything than a fresh sample: the
    spread of the bootstrap is right, its centre is not. The interval is 1.96 of its standard
    deviations around the value.
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
    """Bootstrap of mean k(x_i, x_j) over pairs i != j, less 2 mean a(x_i), which is `value` less
    what does not depend on x.

    In Hoeffding's decomposition the error is a sum over samples, of g(x_i) = E k(x_i, X) - a(x_i),
    and a sum over pairs, of what k has beyond sums of functions of one sample. Near equality g
    vanishes and the pairs decide. Resampling rows then makes intervals up to 1.7 times too wide: it
    takes the noise of the means that stand for g for a spread of g. So each sum has multipliers of
    its own: d_i (how often a resample has i, less 1) for g, shrunk to its variance without that
    noise, and d_i d_j for the pairs (Dehling & Mikosch, "Random Quadratic Forms and the Bootstrap
    for U-Statistics", 1994).

    Args:
        value: the number.
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
    """How much worse a is than b, with a paired interval; None where they cannot be paired.

    Both must come from one metric and equally many samples, each from the seed of its partner.
    The difference is significant where the interval leaves 0 out.
    """
    if len(a.draws) != len(b.draws) or len(a.draws) < 2:
        return None
    value = badness(a.value, better) - badness(b.value, better)
    pairs = zip(a.draws, b.draws, strict=True)
    draws = np.array([badness(x, better) - badness(y, better) for x, y in pairs])
    draws += value - draws.mean()
    if len(draws) >= _MANY:  # an RMS that one sample rules is far from normal
        low, high = map(float, np.quantile(draws, (0.025, 0.975)))
    else:
        half = 1.96 * float(np.std(draws, ddof=1))
        low, high = value - half, value + half
    return Estimate(value, low, high, tuple(draws.tolist()))


def error_ratio(
    x: Tensor, other: Tensor, reference: Tensor, *, statistic: str = "rms", seed: int = 0
) -> Estimate:
    """Endpoint error of x over that of `other`, from the same starts, with a paired interval.

    The difference is significant where the interval leaves 1 out. `statistic` is "rms" or "median".
    """
    a, b = (endpoint_errors(z, reference).numpy() for z in (x, other))
    of = rms if statistic == "rms" else np.median

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return of(a, axis=axis) / of(b, axis=axis)

    return bootstrap(ratio, a, b, resamples=2000, seed=seed)


def _rows(n: int, resamples: int, seed: int) -> np.ndarray:
    """Rows of each resample: the same for every set of n samples, which makes pairs of them."""
    return np.random.default_rng(seed).integers(0, n, (resamples, n))
