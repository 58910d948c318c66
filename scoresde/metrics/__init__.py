r"""How good samples are: errors of single samples, and distances between distributions.

There are two kinds of metrics.

*Errors of single samples.* For a deterministic solver, each sample has a true endpoint: the exact
probability flow from the same start ends there. The error is the distance from it.

*Distances between distributions.* For a stochastic solver, only the distributions of samples and
of data can be compared. Such a distance is never 0 for finitely many samples. Read it next to its
*floor*, the same distance between two sets of true samples.

A metric is a callable `samples (B, *) -> Estimate` that holds what it compares with. Intervals
are 95 % bootstrap intervals over samples. The resamples are the same for every set of samples of
one size, so that two sets from the same seeds are compared in pairs (`difference`).
"""

from .distances import (
    discrepancy,
    endpoint_errors,
    energy_distance,
    frechet_distance,
    gaussian_kernel,
    kernel_distance,
    mmd,
    polynomial_kernel,
    sliced_wasserstein,
    wasserstein2,
)
from .estimate import Estimate, Metric, bootstrap, difference, error_ratio
from .neighbours import density_coverage, precision_recall
from .sample_metrics import (
    MMD,
    EndpointError,
    EnergyDistance,
    FrechetDistance,
    KernelDistance,
    ModeWeights,
    Neighbours,
    NLLGap,
    SlicedWasserstein,
    Wasserstein2,
)

__all__ = [
    "MMD",
    "EndpointError",
    "EnergyDistance",
    "Estimate",
    "FrechetDistance",
    "KernelDistance",
    "Metric",
    "ModeWeights",
    "NLLGap",
    "Neighbours",
    "SlicedWasserstein",
    "Wasserstein2",
    "bootstrap",
    "density_coverage",
    "difference",
    "discrepancy",
    "endpoint_errors",
    "energy_distance",
    "error_ratio",
    "frechet_distance",
    "gaussian_kernel",
    "kernel_distance",
    "mmd",
    "polynomial_kernel",
    "precision_recall",
    "sliced_wasserstein",
    "wasserstein2",
]
