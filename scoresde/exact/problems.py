"""Test problems of several sizes with closed-form scores, so errors can be computed exactly.

Each function makes a family of problems: the seed changes the parameters, so that a solver is not
tuned to a single instance. The data have unit scale, like images in (-1, 1).
"""

from __future__ import annotations

import math

import torch

from ..errors import require
from ..sde import SDE
from .mixtures import Covariance, Gaussian, GaussianMixture, Spectral


def ring8(sde: SDE, *, deviation: float | None = None, seed: int = 0) -> GaussianMixture:
    """Eight narrow Gaussians on a circle in the plane, with unequal weights.

    Without `deviation`, the seed chooses their standard deviation between 0.06 and 0.1.
    """
    generator = torch.Generator().manual_seed(seed)
    turn, spread, radius = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
    angles = (torch.arange(8, dtype=torch.float64) + turn) * (2 * math.pi / 8)
    means = (0.9 + 0.2 * radius) * torch.stack([angles.cos(), angles.sin()], 1)
    weights = torch.rand(8, generator=generator, dtype=torch.float64) + 0.3
    deviation = 0.06 + 0.04 * spread if deviation is None else deviation
    return GaussianMixture(sde, means, Covariance.isotropic(deviation**2), weights)


def checkerboard(sde: SDE, *, per_side: int = 8, seed: int = 0) -> GaussianMixture:
    """The dark squares of a 4 x 4 checkerboard over [-1, 1]^2, each of per_side^2 equal Gaussians.

    Their standard deviation is 0.6 of their distance, so the density in a square is nearly
    uniform. The seed chooses the rotation of the board.
    """
    generator = torch.Generator().manual_seed(seed)
    turn = float(torch.rand(1, generator=generator, dtype=torch.float64)) * math.pi / 2
    inside = (torch.arange(per_side, dtype=torch.float64) + 0.5) / per_side
    squares = [(column, 2 * half + column % 2) for column in range(4) for half in range(2)]
    corners = torch.tensor(squares, dtype=torch.float64)
    means = corners[:, None] + torch.cartesian_prod(inside, inside)
    centred = means.reshape(-1, 2) / 2 - 1
    rotation = torch.tensor(
        [[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64
    )
    return GaussianMixture(
        sde, centred @ rotation.T, Covariance.isotropic((0.6 * 0.5 / per_side) ** 2)
    )


def spiral(sde: SDE, *, components: int = 150, seed: int = 0) -> GaussianMixture:
    """The swiss roll of `scoresde.training.data` as a mixture: Gaussians along one spiral.

    The data set is uniform in the angle, with noise of 0.03, so the Gaussians have equal steps in
    the angle and that standard deviation. The seed chooses the rotation of the spiral.
    """
    generator = torch.Generator().manual_seed(seed)
    start = float(torch.rand(1, generator=generator, dtype=torch.float64)) * 2 * math.pi
    steps = (torch.arange(components, dtype=torch.float64) + 0.5) / components
    turn = 1.5 * math.pi * (1 + 2 * steps)
    radius = turn / (4.5 * math.pi)
    means = torch.stack([radius * (turn + start).cos(), radius * (turn + start).sin()], 1)
    return GaussianMixture(sde, means, Covariance.isotropic(0.03**2))


def digits64(sde: SDE, *, components: int = 20, seed: int = 0) -> GaussianMixture:
    """A full-covariance mixture fitted to scikit-learn's 8 x 8 digits, in (-1, 1)."""
    mixture = require("sklearn.mixture", "data")
    digits = require("sklearn.datasets", "data").load_digits().data / 8.0 - 1.0
    fit = mixture.GaussianMixture(components, reg_covar=1e-3, random_state=seed).fit(digits)
    return GaussianMixture(
        sde,
        torch.from_numpy(fit.means_),
        Covariance.full(torch.from_numpy(fit.covariances_)),
        torch.from_numpy(fit.weights_),
    )


def lowrank3072(
    sde: SDE, *, components: int = 10, rank: int = 16, seed: int = 0
) -> GaussianMixture:
    """Ten Gaussians at (3, 32, 32): rank 16 with a power-law spectrum, plus a ridge."""
    generator = torch.Generator().manual_seed(seed)
    shape = (components, 3 * 32 * 32, rank)
    columns = torch.linalg.qr(torch.randn(shape, generator=generator, dtype=torch.float64))[0]
    # Together with the means this gives a variance of about 0.25 per pixel.
    spectrum = torch.arange(1, rank + 1, dtype=torch.float64).pow(-1.0)
    spectrum = spectrum * (0.15 * 3072 / float(spectrum.sum()))
    means = torch.randn(components, 3072, generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(means.reshape(-1, 3, 32, 32), 5, 1, 2)
    means = smooth * (0.3 / float(smooth.std()))
    weights = torch.rand(components, generator=generator, dtype=torch.float64) + 0.3
    return GaussianMixture(
        sde, means, Covariance.low_rank(columns * spectrum.sqrt(), 1e-3), weights
    )


def power_law(sde: SDE, *, dimension: int = 3072, seed: int = 0) -> Gaussian:
    """One Gaussian with variances k^-1 in a random basis, from about 1 down to 1/dimension."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(noise)[0]
    variances = torch.arange(1, dimension + 1, dtype=torch.float64).reciprocal()
    return Gaussian(
        sde, torch.zeros(dimension), Spectral(basis[None], variances[None], torch.zeros(1))
    )
