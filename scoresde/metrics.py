r"""How good samples are: errors of single samples, and distances between distributions.

Two kinds. Where a deterministic solver is judged, each sample has a true endpoint, that of the
exact probability flow from the same start, and the error is a distance between the two. Where
noise is drawn, only distributions can be compared; such a distance is never 0 for finitely many
samples, so it is read next to its *floor*, the same distance between two sets of true samples.

A metric is a callable `samples (B, *) -> Estimate` that holds what it compares with. Intervals
are 95 % bootstrap intervals over samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError, NonFiniteError, ShapeError, require

Features = Callable[[Tensor], Tensor]
"""Samples (B, *) to features (B, F)."""


class Estimate(NamedTuple):
    """A measured number with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


@runtime_checkable
class Metric(Protocol):
    """What the benchmark asks of a measure."""

    @property
    def name(self) -> str:
        """A few words, for the head of a column."""

    def __call__(self, x: Tensor) -> Estimate:
        """The measure of samples x, shape (B, *); smaller is better."""


# -- distances ---------------------------------------------------------------------------------


def endpoint_errors(x: Tensor, reference: Tensor) -> Tensor:
    """RMS difference over the coordinates of each sample, shape (B,), float64.

    Raises:
        ShapeError: if the two are not of one shape (B, *).
    """
    if x.shape != reference.shape:
        raise ShapeError(
            f"endpoints of shape {tuple(x.shape)} against a reference of {tuple(reference.shape)}"
        )
    difference = x.to(torch.float64) - reference.to(torch.float64)
    return difference.reshape(len(x), -1).square().mean(1).sqrt()


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'|, without bias, so it may fall below 0.

    Szekely & Rizzo, "Energy statistics", 2013, eq. 5; the expectations over pairs of one set
    leave out a sample's distance to itself. Shapes (n, *) and (m, *).
    """
    a, b = _pair(x, y)
    cdist = require("scipy.spatial.distance", "bench").cdist
    inside = _off_diagonal(cdist(a, a)) + _off_diagonal(cdist(b, b))
    return float(2 * cdist(a, b).mean() - inside)


def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int = 128, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance over random directions, through POT.

    Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015. The root mean
    square over directions; the same seed takes the same directions. Shapes (n, *) and (m, *).
    """
    a, b = _pair(x, y)
    ot = require("ot", "bench")
    return float(ot.sliced_wasserstein_distance(a, b, n_projections=projections, seed=seed))


def wasserstein2(x: Tensor, y: Tensor) -> float:
    """Exact 2-Wasserstein distance between two samples, through POT's network simplex."""
    a, b = _pair(x, y)
    ot = require("ot", "bench")
    return float(np.sqrt(max(0.0, ot.emd2([], [], ot.dist(a, b, metric="sqeuclidean")))))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared 2-Wasserstein distance between Gaussians of the same moments.

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)): Heusel et al., "GANs Trained by a Two
    Time-Scale Update Rule", 2017, eq. 6. On features of a network this is what FID means.
    Shapes (n, F) and (m, F).
    """
    a, b = _pair(x, y)
    shift = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (a, b))
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


# -- metrics -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class EndpointError:
    """Error against the true endpoints of the same starts: RMS over all, or median over samples.

    The RMS is ruled by the few trajectories near a boundary between modes, the median by the
    others.

    Attributes:
        reference: true endpoints, shape (B, *).
        statistic: "rms" or "median".
    """

    reference: Tensor
    statistic: str = "rms"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.statistic not in ("rms", "median"):
            raise ConfigError(f"statistic must be 'rms' or 'median', got {self.statistic!r}")

    @property
    def name(self) -> str:
        """For the head of a column."""
        return f"{self.statistic} endpoint error"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        _check_finite(x)
        errors = endpoint_errors(x, self.reference).numpy()
        return bootstrap(_rms if self.statistic == "rms" else np.median, errors, seed=self.seed)


@dataclass(frozen=True, eq=False)
class EnergyDistance:
    """`energy_distance` to true samples, shape (m, *)."""

    reference: Tensor
    resamples: int = 100
    seed: int = 0
    name: str = "energy distance"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        _check_finite(x)
        a, b = _pair(x, self.reference)
        cdist = require("scipy.spatial.distance", "bench").cdist
        ab, aa, inside_b = cdist(a, b), cdist(a, a), self._inside

        def resampled(rows: np.ndarray) -> float:
            # Pairs of one sample with itself have distance 0; they are no pairs of the law.
            same = (rows[:, None] == rows[None]).sum()
            inside = aa[np.ix_(rows, rows)].sum() / max(len(rows) ** 2 - same, 1)
            return float(2 * ab[rows].mean() - inside - inside_b)

        value = float(2 * ab.mean() - _off_diagonal(aa) - inside_b)
        return _centred(value, resampled, len(a), self.resamples, self.seed)

    @cached_property
    def _inside(self) -> float:
        """Mean distance within the true samples, the same for all that is compared with them."""
        cdist = require("scipy.spatial.distance", "bench").cdist
        b = _pair(self.reference, self.reference)[0]
        return _off_diagonal(cdist(b, b))


@dataclass(frozen=True, eq=False)
class SlicedWasserstein:
    """`sliced_wasserstein` to true samples, shape (m, *)."""

    reference: Tensor
    projections: int = 128
    resamples: int = 30
    seed: int = 0
    name: str = "sliced W2"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        _check_finite(x)

        def distance(rows: np.ndarray) -> float:
            return sliced_wasserstein(
                x[torch.from_numpy(rows)],
                self.reference,
                projections=self.projections,
                seed=self.seed,
            )

        value = distance(np.arange(len(x)))
        return _centred(value, distance, len(x), self.resamples, self.seed)


@dataclass(frozen=True, eq=False)
class FrechetDistance:
    """`frechet_distance` between features of samples and of true ones.

    Attributes:
        reference: true samples, shape (m, *).
        features: maps (B, *) to (B, F).
    """

    reference: Tensor
    features: Features
    resamples: int = 30
    seed: int = 0
    name: str = "Frechet distance"
    _truth: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_truth", self._extract(self.reference))

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        _check_finite(x)
        found = self._extract(x)

        def distance(rows: np.ndarray) -> float:
            return frechet_distance(found[torch.from_numpy(rows)], self._truth)

        value = frechet_distance(found, self._truth)
        return _centred(value, distance, len(x), self.resamples, self.seed)

    def _extract(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            out = self.features(x)
        if out.ndim != 2 or len(out) != len(x):
            raise ShapeError(
                f"features of {len(x)} samples must have shape ({len(x)}, F), "
                f"got {tuple(out.shape)}"
            )
        return out


@dataclass(frozen=True, eq=False)
class NLLGap:
    """Mean exact negative log-likelihood of samples less that of true ones, nats a dimension.

    Below 0 means too concentrated, so the size counts, not the sign: `value` is the gap itself.

    Attributes:
        log_prob: exact log-density of samples (B, *), shape (B,), nats.
        reference: true samples, shape (m, *).
    """

    log_prob: Callable[[Tensor], Tensor]
    reference: Tensor
    seed: int = 0
    name: str = "NLL gap"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        _check_finite(x)
        size = x[0].numel()
        truth = float(-self.log_prob(self.reference).to(torch.float64).mean()) / size
        nll = -self.log_prob(x).to(torch.float64).numpy() / size
        mean = bootstrap(np.mean, nll, seed=self.seed)
        return Estimate(*(float(v - truth) for v in mean))


# -- intervals ---------------------------------------------------------------------------------


def bootstrap(
    statistic: Callable[..., Any], *data: np.ndarray, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """A statistic with its percentile interval (scipy's), over paired data of shape (n,) each.

    `statistic(*data, axis=-1)` must be vectorised, as those of numpy are.
    """
    value = float(statistic(*data, axis=-1))
    if len(data[0]) < 2:
        return Estimate(value, float("nan"), float("nan"))
    stats = require("scipy.stats", "bench")
    found = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


def error_ratio(
    x: Tensor, other: Tensor, reference: Tensor, *, statistic: str = "rms", seed: int = 0
) -> Estimate:
    """Endpoint error of x over that of `other`, from the same starts, with a paired interval.

    The difference is significant where the interval leaves 1 out. `statistic` is "rms" or "median".
    """
    a, b = (endpoint_errors(z, reference).numpy() for z in (x, other))
    of = _rms if statistic == "rms" else np.median

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return of(a, axis=axis) / of(b, axis=axis)

    return bootstrap(ratio, a, b, seed=seed)


def _centred(
    value: float, resampled: Callable[[np.ndarray], float], n: int, resamples: int, seed: int
) -> Estimate:
    """Bootstrap of a distance between samples.

    A resample repeats points and is therefore farther from everything than a fresh sample: the
    spread of the bootstrap is right, its centre is not. The interval is 1.96 of its standard
    deviations around the estimate.
    """
    rng = np.random.default_rng(seed)
    draws = [resampled(rng.integers(0, n, n)) for _ in range(resamples)]
    half = 1.96 * float(np.std(draws, ddof=1))
    return Estimate(value, value - half, value + half)


def _rms(errors: np.ndarray, axis: int = -1) -> Any:
    return np.sqrt(np.mean(np.square(errors), axis=axis))


def _off_diagonal(distances: np.ndarray) -> float:
    n = len(distances)
    return float(distances.sum() / (n * (n - 1)))


def _pair(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ShapeError(
            f"need two sets of at least 2 samples of one shape, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    a, b = (z.detach().cpu().to(torch.float64).reshape(len(z), -1).numpy() for z in (x, y))
    return a, b


def _check_finite(x: Tensor) -> None:
    bad = int((~torch.isfinite(x.reshape(len(x), -1)).all(1)).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(x)} samples are not finite")
