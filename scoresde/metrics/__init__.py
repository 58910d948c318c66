r"""How good samples are: errors of single samples, and distances between distributions.

Two kinds. Where a deterministic solver is judged, each sample has a true endpoint, that of the
exact probability flow from the same start, and the error is a distance between the two. Where
noise is drawn, only distributions can be compared; such a distance is never 0 for finitely many
samples, so it is read next to its *floor*, the same distance between two sets of true samples.

A metric is a callable `samples (B, *) -> Estimate` that holds what it compares with. Intervals
are 95 % bootstrap intervals over samples; the resamples are the same for every set of samples of
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
