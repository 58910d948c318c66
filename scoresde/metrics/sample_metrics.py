"""Metrics for comparisons: each maps samples (B, *) to an `Estimate`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, NonFiniteError, ScoreSDEError, ShapeError
from ..exact.mixtures import GaussianMixture
from . import neighbours
from .distances import (
    Kernel,
    distance_kernel,
    endpoint_errors,
    frechet_of_moments,
    gaussian_kernel,
    median_distance,
    moments,
    off_diagonal,
    pair,
    polynomial_kernel,
    rms,
    sliced_wasserstein,
    wasserstein2,
)
from .estimate import Estimate, bootstrap, centred_bootstrap, pair_bootstrap

Features = Callable[[Tensor], Tensor]
"""Maps samples (B, *) to features (B, F)."""


@dataclass(frozen=True, eq=False)
class EndpointError:
    """Distance from the true endpoints of the same starts: RMS or median over samples.

    A few trajectories near a boundary between modes dominate the RMS. The median describes the
    typical trajectory.

    Attributes:
        reference: true endpoints, shape (B, *). Samples whose endpoint is NaN are ignored.
        statistic: "rms" or "median".
        seed: seed of the bootstrap.
    """

    reference: Tensor
    statistic: str = "rms"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.statistic not in ("rms", "median"):
            raise ConfigError(f"statistic must be 'rms' or 'median', got {self.statistic!r}")

    @property
    def name(self) -> str:
        """The name, shown as the head of a column."""
        return f"{self.statistic} endpoint error"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)
        known = ~self.reference.cpu().flatten(1).isnan().any(1)
        errors = endpoint_errors(x.cpu(), self.reference.cpu())[known].numpy()
        return bootstrap(rms if self.statistic == "rms" else np.median, errors, seed=self.seed)


# -- kernels -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _KernelMetric(ABC):
    """`discrepancy` between samples and true samples (m, *), or between their features."""

    reference: Tensor
    features: Features | None = None
    resamples: int = 200
    seed: int = 0

    @abstractmethod
    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Values between points (n, D) and (m, D), shape (n, m)."""

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)
        a, b = pair(_extract(self.features, x), self._truth)
        across, within = self.kernel(a, b).mean(1), self.kernel(a, a)
        value = off_diagonal(within) + self._inside - 2 * float(across.mean())
        return pair_bootstrap(value, within, across, self.resamples, self.seed)

    @cached_property
    def _truth(self) -> Tensor:
        return _extract(self.features, self.reference)

    @cached_property
    def _inside(self) -> float:
        """Mean of the kernel over pairs of true samples."""
        b = pair(self._truth, self._truth)[0]
        return off_diagonal(self.kernel(b, b))


@dataclass(frozen=True, eq=False)
class EnergyDistance(_KernelMetric):
    """`energy_distance` to true samples (m, *), or between features if `features` is given."""

    name: str = "energy distance"

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """-|x - y|."""
        return distance_kernel(a, b)


@dataclass(frozen=True, eq=False)
class MMD(_KernelMetric):
    """`mmd` to true samples (m, *); their median distance is the bandwidth of the kernel."""

    name: str = "MMD"

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """exp(-|x - y|^2 / (2 bandwidth^2))."""
        return self._kernel(a, b)

    @cached_property
    def _kernel(self) -> Kernel:
        return gaussian_kernel(median_distance(self._truth))


@dataclass(frozen=True, eq=False)
class KernelDistance(_KernelMetric):
    """`kernel_distance` between features of samples and of true samples, as in the KID."""

    name: str = "kernel distance"

    def kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """(x . y / F + 1)^3."""
        return polynomial_kernel(a, b)


# -- transport ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SlicedWasserstein:
    """`sliced_wasserstein` to true samples, shape (m, *)."""

    reference: Tensor
    projections: int = 128
    resamples: int = 50
    seed: int = 0
    name: str = "sliced W2"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)

        def distance(rows: np.ndarray) -> float:
            some = x[torch.from_numpy(rows)]
            return sliced_wasserstein(
                some, self.reference, projections=self.projections, seed=self.seed
            )

        value = distance(np.arange(len(x)))
        return centred_bootstrap(value, distance, len(x), self.resamples, self.seed)


@dataclass(frozen=True, eq=False)
class Wasserstein2:
    """`wasserstein2` to true samples (m, *). It is exact; its cost is cubic in their number."""

    reference: Tensor
    resamples: int = 20
    seed: int = 0
    name: str = "W2"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)

        def distance(rows: np.ndarray) -> float:
            return wasserstein2(x[torch.from_numpy(rows)], self.reference)

        value = distance(np.arange(len(x)))
        return centred_bootstrap(value, distance, len(x), self.resamples, self.seed)


@dataclass(frozen=True, eq=False)
class FrechetDistance:
    """`frechet_distance` between features of samples and of true samples.

    Attributes:
        reference: true samples, shape (m, *).
        features: maps (B, *) to (B, F).
    """

    reference: Tensor
    features: Features
    resamples: int = 100
    seed: int = 0
    name: str = "Frechet distance"

    def __post_init__(self) -> None:
        _ = self._truth  # features of the wrong shape raise here, before sampling

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)
        extracted = _extract(self.features, x)
        found = pair(extracted, extracted)[0]

        def distance(rows: np.ndarray) -> float:
            return frechet_of_moments(*moments(found[rows]), *self._truth)

        value = distance(np.arange(len(x)))
        return centred_bootstrap(value, distance, len(x), self.resamples, self.seed)

    @cached_property
    def _truth(self) -> tuple[np.ndarray, np.ndarray]:
        found = _extract(self.features, self.reference)
        return moments(pair(found, found)[0])


# -- regions -----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Precision, recall, density or coverage; see `precision_recall` and `density_coverage`.

    Attributes:
        reference: true samples, shape (m, *).
        name: which of the four.
        features: maps (B, *) to (B, F); the samples themselves by default.
        k: number of nearest neighbours; by default 3 for precision and recall, 5 for density and
            coverage, as in the papers.
        seed: seed of the bootstrap.
    """

    reference: Tensor
    name: str
    features: Features | None = None
    k: int | None = None
    seed: int = 0

    better: ClassVar[str] = "higher"

    def __post_init__(self) -> None:
        if self.name not in ("precision", "recall", "density", "coverage"):
            raise ConfigError(
                f"name must be precision, recall, density or coverage, got {self.name!r}"
            )

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)
        found = _extract(self.features, x)
        if self.name in ("precision", "recall"):
            items = neighbours.precision_recall(found, self._truth, self.k or 3)
        else:
            items = neighbours.density_coverage(found, self._truth, self.k or 5)
        # Resample the terms, not the points: a repeated point would be its own neighbour.
        values = items.fidelity if self.name in ("precision", "density") else items.diversity
        return bootstrap(np.mean, values, resamples=400, seed=self.seed)

    @cached_property
    def _truth(self) -> Tensor:
        return _extract(self.features, self.reference)


# -- closed-form models ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class NLLGap:
    """Mean exact NLL of samples minus that of true samples, in nats per dimension.

    It is positive if samples lie outside the data, and negative if they are too concentrated.

    Attributes:
        log_prob: exact log-density of samples (B, *), shape (B,), nats.
        reference: true samples, shape (m, *).
    """

    log_prob: Callable[[Tensor], Tensor]
    reference: Tensor
    seed: int = 0
    name: str = "NLL gap"

    better: ClassVar[str] = "zero"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)
        size = x[0].numel()
        nll = -self.log_prob(x.to(torch.float64)).cpu().numpy() / size
        truth = self._truth / size
        found = bootstrap(np.mean, nll, seed=self.seed).shifted(-float(truth.mean()))
        # Noise of the true mean. It is the same for all sets of samples, so the draws omit it.
        noise = 1.96 * float(truth.std()) / math.sqrt(len(truth))
        low = found.value - math.hypot(found.value - found.low, noise)
        high = found.value + math.hypot(found.high - found.value, noise)
        return found._replace(low=low, high=high)

    @cached_property
    def _truth(self) -> Tensor:
        return -self.log_prob(self.reference.to(torch.float64)).cpu()


@dataclass(frozen=True, eq=False)
class ModeWeights:
    """Total variation, 0 to 1, between the modes' shares of samples and the mixture's weights.

    Each sample counts for a mode with the posterior probability that it came from that mode.

    Attributes:
        mixture: the distribution of the data.
    """

    mixture: GaussianMixture
    resamples: int = 200
    seed: int = 0
    name: str = "mode weights"

    def __call__(self, x: Tensor) -> Estimate:
        """See `Metric`."""
        check_finite(x)
        clean = self.mixture.sde.clean
        shares = self.mixture.responsibilities(x.to(torch.float64), clean).cpu().numpy()
        weights = self.mixture.weights.cpu().numpy()

        def distance(rows: np.ndarray) -> float:
            return 0.5 * float(np.abs(shares[rows].mean(0) - weights).sum())

        value = distance(np.arange(len(x)))
        return centred_bootstrap(value, distance, len(x), self.resamples, self.seed)


# -- shared ------------------------------------------------------------------------------------


def check_finite(x: Tensor) -> None:
    """Check that all samples are finite.

    Raises:
        NonFiniteError: with the number of samples that are not finite.
    """
    bad = int((~torch.isfinite(x.reshape(len(x), -1)).all(1)).sum())
    if bad:
        raise NonFiniteError(f"{bad} of {len(x)} samples are not finite")


def _extract(features: Features | None, x: Tensor) -> Tensor:
    """Features of the samples, checked; the samples themselves if `features` is None."""
    if features is None:
        return x
    try:
        with torch.no_grad():
            out = features(x)
    except ScoreSDEError:
        raise
    except Exception as error:
        name = getattr(features, "__qualname__", type(features).__qualname__)
        raise ConfigError(
            f"features {name} failed on {len(x)} samples of shape {tuple(x.shape[1:])}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
        shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ShapeError(f"features of {len(x)} samples must have shape ({len(x)}, F), got {shape}")
    check_finite(out)
    return out
