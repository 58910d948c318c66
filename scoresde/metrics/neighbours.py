"""Fidelity and diversity, told apart by balls around neighbouring samples.

A set of samples stands for a region: the union of a ball around each, which reaches to its k-th
nearest neighbour in the set. Samples within the region of true ones are faithful; true samples
within the region of the samples are represented.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..errors import ConfigError, require
from .distances import pair


class PerSample(NamedTuple):
    """A quantity as the mean over samples, and another as the mean over true samples.

    Attributes:
        fidelity: one value a sample, shape (n,).
        diversity: one value a true sample, shape (m,).
    """

    fidelity: np.ndarray
    diversity: np.ndarray


def precision_recall(x: Tensor, truth: Tensor, k: int = 3) -> PerSample:
    """Whether each sample lies in the region of true ones, and each true one in that of samples.

    Kynkaanniemi et al., "Improved Precision and Recall Metric for Assessing Generative Models",
    2019, eqs. 1-2. Shapes (n, *) and (m, *); the means are precision and recall.

    Raises:
        ConfigError: if either set has no k neighbours.
    """
    a, b = pair(x, truth)
    between, radii_x, radii_truth = _distances(a, b), _radii(a, k), _radii(b, k)
    inside = (between <= radii_truth).any(1)
    covered = (between <= radii_x[:, None]).any(0)
    return PerSample(inside.astype(float), covered.astype(float))


def density_coverage(x: Tensor, truth: Tensor, k: int = 5) -> PerSample:
    """In how many true balls, over k, each sample lies; whether each true ball holds a sample.

    Naeem et al., "Reliable Fidelity and Diversity Metrics for Generative Models", 2020, eqs. 5-6.
    Shapes (n, *) and (m, *); the means are density, 1 for equal laws and possibly above it, and
    coverage.

    Raises:
        ConfigError: if the true samples have no k neighbours.
    """
    a, b = pair(x, truth)
    within = _distances(a, b) <= _radii(b, k)
    return PerSample(within.sum(1) / k, within.any(0).astype(float))


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Distance of each point to its k-th nearest neighbour."""
    if not 1 <= k < len(points):
        raise ConfigError(f"{len(points)} samples have no {k} nearest neighbours; take more")
    found: np.ndarray = np.partition(_distances(points, points), k, axis=1)[:, k]  # 0 is itself
    return found


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    found: np.ndarray = require("scipy.spatial.distance", "bench").cdist(a, b)
    return found
