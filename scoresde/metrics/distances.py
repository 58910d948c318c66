"""Distances between single samples, and between two sets of samples of shape (n, *), (m, *)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError, require

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps points (n, D) and (m, D) to values (n, m)."""


def endpoint_errors(x: Tensor, reference: Tensor) -> Tensor:
    """RMS difference over the coordinates of each sample, shape (B,), float64.

    Raises:
        ShapeError: if the two shapes (B, *) differ.
    """
    if x.shape != reference.shape:
        raise ShapeError(
            f"endpoints of shape {tuple(x.shape)} cannot be compared with a reference of shape "
            f"{tuple(reference.shape)}; both must have the same shape (B, *)"
        )
    difference = x.to(torch.float64) - reference.to(torch.float64)
    return difference.reshape(len(x), -1).square().mean(1).sqrt()


def rms(errors: np.ndarray, axis: int = -1) -> Any:
    """Root mean square."""
    return np.sqrt(np.mean(np.square(errors), axis=axis))


# -- kernels -----------------------------------------------------------------------------------


def discrepancy(x: Tensor, y: Tensor, kernel: Kernel) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y): the squared maximum mean discrepancy.

    Gretton et al., "A Kernel Two-Sample Test", 2012, eq. 3. The estimate omits pairs of a sample
    with itself. It is therefore unbiased, and can be negative.
    """
    a, b = pair(x, y)
    inside = off_diagonal(kernel(a, a)) + off_diagonal(kernel(b, b))
    return float(inside - 2 * kernel(a, b).mean())


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Energy distance, 2 E|X - Y| - E|X - X'| - E|Y - Y'|.

    Szekely & Rizzo, "Energy statistics", 2013, eq. 5: the discrepancy of the kernel -|x - y|. The
    estimate is unbiased, and can be negative.
    """
    return discrepancy(x, y, distance_kernel)


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy of a Gaussian kernel.

    The default bandwidth is the median distance between two points of y.
    """
    return discrepancy(x, y, gaussian_kernel(bandwidth or median_distance(y)))


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Squared discrepancy of the kernel (x . y / F + 1)^3, over all pairs; shapes (n, F), (m, F).

    It is meant for features of a network: Binkowski et al., "Demystifying MMD GANs", 2018,
    section 4. There it is averaged over blocks of the data.
    """
    return discrepancy(x, y, polynomial_kernel)


def distance_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """-|x - y|."""
    found: np.ndarray = -require("scipy.spatial.distance", "bench").cdist(a, b)
    return found


def gaussian_kernel(bandwidth: float) -> Kernel:
    """exp(-|x - y|^2 / (2 bandwidth^2))."""

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        squared = require("scipy.spatial.distance", "bench").cdist(a, b, "sqeuclidean")
        found: np.ndarray = np.exp(squared / (-2 * bandwidth**2))
        return found

    return kernel


def polynomial_kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(x . y / F + 1)^3 for points of F coordinates."""
    found: np.ndarray = (a @ b.T / a.shape[1] + 1) ** 3
    return found


def median_distance(y: Tensor) -> float:
    """Median distance between two of the first 1000 points."""
    points = pair(y[:1000], y[:1000])[0]
    return float(np.median(require("scipy.spatial.distance", "bench").pdist(points)))


# -- transport ---------------------------------------------------------------------------------


def sliced_wasserstein(x: Tensor, y: Tensor, *, projections: int = 128, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance over random directions, computed by POT.

    Bonneel et al., "Sliced and Radon Wasserstein Barycenters of Measures", 2015. It is the root
    mean square over directions. The same seed gives the same directions.
    """
    a, b = pair(x, y)
    ot = require("ot", "bench")
    return float(ot.sliced_wasserstein_distance(a, b, n_projections=projections, seed=seed))


def wasserstein2(x: Tensor, y: Tensor) -> float:
    """Exact 2-Wasserstein distance between two sets of samples, by POT's network simplex."""
    a, b = pair(x, y)
    ot = require("ot", "bench")
    return float(np.sqrt(max(0.0, ot.emd2([], [], ot.dist(a, b, metric="sqeuclidean")))))


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Frechet distance: squared 2-Wasserstein distance of Gaussians fitted to x and to y.

    |m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)): Heusel et al., "GANs Trained by a Two
    Time-Scale Update Rule", 2017, eq. 6. Of features of the Inception network this is the FID.
    Shapes (n, F) and (m, F).

    torchmetrics' `FrechetInceptionDistance` gives the same number; a test compares the two. That
    class keeps only sums over the samples, so it cannot resample them for an interval. This
    function takes the features themselves.
    """
    a, b = pair(x, y)
    return frechet_of_moments(*moments(a), *moments(b))


def moments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, shape (F,), and covariance, shape (F, F)."""
    return points.mean(0), np.atleast_2d(np.cov(points, rowvar=False))


def frechet_of_moments(
    mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray
) -> float:
    """`frechet_distance` computed from means and covariances."""
    shift = mean_a - mean_b
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_b @ root), 0, None)).sum()
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


# -- shared ------------------------------------------------------------------------------------


def pair(x: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays of shape (n, D) and (m, D).

    Raises:
        ShapeError: if a set has fewer than 2 samples, or the samples differ in shape.
    """
    if x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ShapeError(
            f"need two sets of at least 2 samples of one shape, got {tuple(x.shape)} and "
            f"{tuple(y.shape)}"
        )
    a, b = (z.detach().cpu().to(torch.float64).reshape(len(z), -1).numpy() for z in (x, y))
    return a, b


def off_diagonal(values: np.ndarray) -> float:
    """Mean over pairs of different points, shape (n, n)."""
    n = len(values)
    return float((values.sum() - np.trace(values)) / (n * (n - 1)))
