"""Measures against closed forms: Gaussians, shifts and intervals of known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde.errors import ConfigError, NonFiniteError, ShapeError
from scoresde.metrics import (
    EndpointError,
    EnergyDistance,
    Estimate,
    FrechetDistance,
    Metric,
    NLLGap,
    SlicedWasserstein,
    bootstrap,
    endpoint_errors,
    energy_distance,
    error_ratio,
    frechet_distance,
    sliced_wasserstein,
    wasserstein2,
)


def normal(n, d, seed, scale=1.0, shift=0.0):
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return scale * z + shift


def test_endpoint_errors_are_rms_over_coordinates():
    x, y = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    y[1, 0] = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    assert endpoint_errors(x, y).tolist() == pytest.approx([0.0, 2.5])
    assert EndpointError(y)(x).value == pytest.approx(math.sqrt(25 / 8))
    assert EndpointError(y, "median")(x).value == pytest.approx(1.25)
    with pytest.raises(ShapeError, match="against a reference"):
        endpoint_errors(x, y[:1])
    with pytest.raises(ConfigError, match="median"):
        EndpointError(y, "mean")


def test_exact_wasserstein_of_a_shift_is_its_length():
    x = normal(60, 3, 0)
    shift = torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    assert wasserstein2(x, x[torch.randperm(60)] + shift) == pytest.approx(3.0)


def test_sliced_wasserstein_of_a_shift():
    # Every direction u sees a shift of u . s, whose root mean square over the sphere is |s|/sqrt d.
    x = normal(50, 8, 0)
    got = sliced_wasserstein(x, x + 2.0, projections=4000)
    assert got == pytest.approx(2.0, rel=0.03)  # |s| / sqrt(d) = 2 for s = (2, ..., 2)


def test_energy_distance_of_points_and_of_equal_laws():
    # Point masses at distance 3: 2 * 3 - 0 - 0.
    x = torch.zeros(4, 2, dtype=torch.float64)
    assert energy_distance(x, x + torch.tensor([3.0, 0.0])) == pytest.approx(6.0)
    # Unbiased: over repeats with equal laws the mean is 0 within 4 standard errors.
    values = [energy_distance(normal(40, 2, 2 * k), normal(30, 2, 2 * k + 1)) for k in range(100)]
    z = np.mean(values) / (np.std(values, ddof=1) / 10)
    assert abs(z) < 4
    assert np.std(values) < 0.1  # so a bias of 0.04 or more would have been seen


def test_energy_distance_of_gaussians_is_the_closed_form():
    # For N(0, 1) and N(m, 1) in one dimension, with d = N(m, 2): 2 E|d| - 4 / sqrt(pi).
    m = 1.0
    erf = math.erf(m / 2)
    truth = 2 * (2 / math.sqrt(math.pi) * math.exp(-(m**2) / 4) + m * erf) - 4 / math.sqrt(math.pi)
    values = [
        energy_distance(normal(200, 1, 2 * k), normal(200, 1, 2 * k + 1, shift=m))
        for k in range(40)
    ]
    z = (np.mean(values) - truth) / (np.std(values, ddof=1) / math.sqrt(40))
    assert abs(z) < 4
    assert np.std(values, ddof=1) / math.sqrt(40) < 0.05 * truth


def test_frechet_distance_is_that_of_the_moments():
    x, y = normal(500, 5, 0), normal(400, 5, 1, scale=2.0, shift=0.5)

    # Give both samples exact moments; then the closed form holds exactly.
    def whiten(z):
        root = torch.linalg.cholesky(torch.cov(z.T))
        return torch.linalg.solve_triangular(root, (z - z.mean(0)).T, upper=False).T

    x, y = whiten(x) * 1.5, whiten(y) * 2.0 + 0.3
    assert frechet_distance(x, y) == pytest.approx(5 * 0.3**2 + 5 * (2.0 - 1.5) ** 2, rel=1e-10)
    metric = FrechetDistance(y, lambda z: z)
    assert metric(x).value == pytest.approx(frechet_distance(x, y))
    with pytest.raises(ShapeError, match="features"):
        FrechetDistance(y, lambda z: z.sum(1))


def test_nll_gap_of_a_sample_that_is_too_narrow():
    sde = sd.VPSDE()
    model = sd.Gaussian(sde, torch.zeros(4), sd.isotropic(1.0))
    truth = model.sample(4000, seed=1)
    gap = NLLGap(lambda x: model.log_prob(x, sde.clean), truth)
    # E[x^2] / 2 falls from 1/2 to 1/8 a dimension when the samples shrink by half.
    assert gap(0.5 * truth).value == pytest.approx(-0.375 * float(truth.square().mean()), rel=1e-9)
    assert abs(gap(model.sample(4000, seed=2)).value) < 4 * math.sqrt(2 / (4 * 4 * 4000)) * 1.5


def test_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(200):
        low, high = bootstrap(np.mean, rng.normal(size=80), resamples=400, seed=k)[1:]
        hits += low < 0 < high
    assert 0.89 < hits / 200 < 0.985  # 4 standard errors around 0.945, the percentile method's


def test_paired_ratio_sees_what_separate_intervals_do_not():
    spread = normal(200, 1, 0).exp()
    reference = torch.zeros(200, 6, dtype=torch.float64)
    noise = spread * normal(200, 6, 1)
    ratio = error_ratio(0.9 * noise, noise, reference)
    assert ratio.value == pytest.approx(0.9)
    assert ratio.high < 1
    a, b = EndpointError(reference)(0.9 * noise), EndpointError(reference)(noise)
    assert a.high > b.low  # they overlap


@pytest.mark.parametrize("kind", [EnergyDistance, SlicedWasserstein])
def test_distances_see_a_shift_and_not_a_fresh_sample(kind):
    metric = kind(normal(400, 3, 0))
    assert isinstance(metric, Metric)
    same, moved = metric(normal(300, 3, 1)), metric(normal(300, 3, 2, shift=0.5))
    assert same.low < same.value < same.high
    assert moved.low > same.high


def test_bad_samples_are_refused():
    reference = normal(10, 2, 0)
    for metric in (EnergyDistance(reference), SlicedWasserstein(reference)):
        with pytest.raises(NonFiniteError, match="1 of 10"):
            metric(torch.cat([reference[:9], torch.full((1, 2), torch.nan)]))
        with pytest.raises(ShapeError, match="of one shape"):
            metric(normal(10, 3, 0))
    assert str(Estimate(0.12345, 0.1, 0.2)) == "0.123 [0.1, 0.2]"
