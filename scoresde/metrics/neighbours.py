"""Fidelity and diversity of samples, measured by balls around nearest neighbours.

Around each point of a set lies a ball, whose radius is the distance to the k-th nearest neighbour
in the set. The region of the set is the union of these balls. Four numbers follow:

- precision: the share of samples that lie in the region of the true samples;
- recall: the share of true samples that lie in the region of the samples;
- density: the mean number of true balls that contain a sample, divided by k;
- coverage: the share of true balls that contain at least one sample.

Precision and density measure fidelity, recall and coverage measure diversity.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..errors import ConfigError, require
from .distances import pair


class PerSample(NamedTuple):
    """The terms of two means: fidelity over samples, diversity over true samples.

    Attributes:
        fidelity: one value a sample, shape (n,).
        diversity: one value a true sample, shape (m,).
    """

    fidelity: np.ndarray
    diversity: np.ndarray


def precision_recall(x: Tensor, truth: Tensor, k: int = 3) -> PerSample:
    """Terms of precision and of recall; their means are the two metrics.

    Precision is the share of samples that lie in the region of the true samples. Recall is the
    share of true samples that lie in the region of the samples. Kynkaanniemi et al., "Improved
    Precision and Recall Metric for Assessing Generative Models", 2019, eqs. 1-2. Shapes (n, *) and
    (m, *).

    Raises:
        ConfigError: if either set has k points or fewer.
    """
    a, b = pair(x, truth)
    between, radii_x, radii_truth = _distances(a, b), _radii(a, k), _radii(b, k)
    inside = (between <= radii_truth).any(1)
    covered = (between <= radii_x[:, None]).any(0)
    return PerSample(inside.astype(float), covered.astype(float))


def density_coverage(x: Tensor, truth: Tensor, k: int = 5) -> PerSample:
    """Terms of density and of coverage; their means are the two metrics.

    Density is the mean number of true balls that contain a sample, divided by k. Its expectation
    is 1 for equal distributions, and it can exceed 1. Coverage is the share of true balls that
    contain at least one sample. Naeem et al., "Reliable Fidelity and Diversity Metrics for
    Generative Models", 2020, eqs. 5-6. Shapes (n, *) and (m, *).

    Raises:
        ConfigError: if there are k true samples or fewer.
    """
    a, b = pair(x, truth)
    within = _distances(a, b) <= _radii(b, k)
    return PerSample(within.sum(1) / k, within.any(0).astype(float))


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of each point to its k-th nearest neighbour."""
    if not 1 <= k < len(points):
        raise ConfigError(
            f"{k} nearest neighbours need at least {k + 1} samples and k >= 1, got {len(points)} "
            "samples; take more samples or another k"
        )
    found: np.ndarray = np.partition(_distances(points, points), k, axis=1)[:, k]  # 0 is itself
    return found


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = require("scipy.spatial.distance", "bench").cdist(a, b)
    return found
