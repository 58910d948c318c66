"""Metrics against closed forms: Gaussians, shifts and intervals of known coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde.errors import ConfigError, NonFiniteError, ShapeError
from scoresde.metrics import (
    MMD,
    EndpointError,
    EnergyDistance,
    Estimate,
    FrechetDistance,
    KernelDistance,
    Metric,
    ModeWeights,
    Neighbours,
    NLLGap,
    SlicedWasserstein,
    Wasserstein2,
    bootstrap,
    density_coverage,
    difference,
    endpoint_errors,
    energy_distance,
    error_ratio,
    frechet_distance,
    kernel_distance,
    mmd,
    precision_recall,
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
    with pytest.raises(ShapeError, match="cannot be compared"):
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
    model = sd.Gaussian(sde, torch.zeros(4), sd.Covariance.isotropic(1.0))
    truth = model.sample(4000, seed=1)
    gap = NLLGap(lambda x: model.log_prob(x, sde.clean), truth)
    # E[x^2] / 2 falls from 1/2 to 1/8 a dimension when the samples shrink by half.
    assert gap(0.5 * truth).value == pytest.approx(-0.375 * float(truth.square().mean()), rel=1e-9)
    assert abs(gap(model.sample(4000, seed=2)).value) < 4 * math.sqrt(2 / (4 * 4 * 4000)) * 1.5


def test_nll_gap_of_equal_laws_covers_zero_as_often_as_it_says():
    sde = sd.VPSDE()
    model = sd.Gaussian(sde, torch.zeros(2), sd.Covariance.isotropic(1.0))
    hits = 0
    for k in range(200):  # as many true samples as others: without their noise it would be 0.83
        gap = NLLGap(lambda x: model.log_prob(x, sde.clean), model.sample(300, seed=2 * k))
        found = gap(model.sample(300, seed=2 * k + 1))
        hits += found.low < 0 < found.high
    assert 0.89 < hits / 200 < 0.985


def test_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for k in range(200):
        low, high = bootstrap(np.mean, rng.normal(size=80), resamples=400, seed=k)[1:3]
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


@pytest.mark.parametrize("kind", [EnergyDistance, MMD, KernelDistance, SlicedWasserstein])
def test_distances_see_a_shift_and_not_a_fresh_sample(kind):
    metric = kind(normal(400, 3, 0))
    assert isinstance(metric, Metric)
    same, moved = metric(normal(300, 3, 1)), metric(normal(300, 3, 2, shift=0.5))
    assert moved.low > same.high
    assert same.value < 0.05 * moved.value or kind is SlicedWasserstein  # which has a bias
    assert same.high - same.low < 0.5 * moved.value


def test_bad_samples_are_refused():
    reference = normal(10, 2, 0)
    for metric in (EnergyDistance(reference), SlicedWasserstein(reference)):
        with pytest.raises(NonFiniteError, match="1 of 10"):
            metric(torch.cat([reference[:9], torch.full((1, 2), torch.nan)]))
        with pytest.raises(ShapeError, match="of one shape"):
            metric(normal(10, 3, 0))
    assert str(Estimate(0.12345, 0.1, 0.2)) == "0.123 [0.1, 0.2]"


# -- kernels, regions, modes ---------------------------------------------------------------------


def test_mmd_of_point_masses_and_of_gaussians():
    # Two point masses at distance 3, bandwidth 2: 2 - 2 exp(-9/8).
    x = torch.zeros(4, 2, dtype=torch.float64)
    got = mmd(x, x + torch.tensor([3.0, 0.0]), bandwidth=2.0)
    assert got == pytest.approx(2 - 2 * math.exp(-9 / 8))
    # N(0, 1) and N(1, 1) with bandwidth 1: E k = (1/sqrt 3) exp(-m^2 / 6).
    truth = 2 / math.sqrt(3) * (1 - math.exp(-1 / 6))
    values = [
        mmd(normal(200, 1, 2 * k), normal(200, 1, 2 * k + 1, shift=1.0), 1.0) for k in range(40)
    ]
    error = np.std(values, ddof=1) / math.sqrt(40)
    assert abs(np.mean(values) - truth) < 4 * error
    assert error < 0.05 * truth


def test_measures_are_the_functions():
    x, y = normal(30, 3, 0), normal(40, 3, 1, shift=0.3)
    double = lambda z: 2 * z  # noqa: E731
    assert EnergyDistance(y)(x).value == pytest.approx(energy_distance(x, y))
    assert EnergyDistance(y, double)(x).value == pytest.approx(energy_distance(2 * x, 2 * y))
    assert MMD(y)(x).value == pytest.approx(mmd(x, y))
    assert KernelDistance(y, double)(x).value == pytest.approx(kernel_distance(2 * x, 2 * y))
    assert Wasserstein2(y, resamples=3)(x).value == pytest.approx(wasserstein2(x, y))


def test_kernels_that_tell_nothing_apart_have_no_spread():
    """k = u(x) + u(y): the parts of single samples cancel, and pairs have nothing of their own."""
    x, y = normal(12, 2, 0), normal(20, 2, 1)

    def flat(self, a, b):
        return np.exp(a[:, :1]) + np.exp(b[:, :1]).T

    got = type("Flat", (EnergyDistance,), {"kernel": flat})(y, resamples=20)(x)
    assert [got.value, got.low, got.high, *got.draws] == pytest.approx([0.0] * 23, abs=1e-12)


@pytest.mark.parametrize("kind", [EnergyDistance, MMD, KernelDistance])
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
def test_intervals_of_kernel_measures_are_as_wide_as_their_spread(kind, shift):
    """Over 250 fresh sets of 60. Resampled rows make them 1.7 times too wide at equal laws; the
    half that is cut off where g vanishes leaves 1.1 to 1.3.
    """
    metric = kind(normal(500, 3, 10**6))
    found = [metric(normal(60, 3, k, shift=shift)) for k in range(250)]
    truth = np.mean([f.value for f in found])
    spread = np.std([f.value for f in found], ddof=1)
    stated = math.sqrt(np.mean([np.var(f.draws, ddof=1) for f in found]))
    assert 0.87 < stated / spread < (1.35 if shift == 0 else 1.2)
    assert np.mean([f.low < truth < f.high for f in found]) > 0.86


def test_equal_laws_are_tied_and_others_are_not():
    metric = EnergyDistance(normal(500, 2, 10**6))
    first, again, worse = (
        [metric(normal(80, 2, k + seed, shift=shift)) for k in range(120)]
        for seed, shift in ((0, 0.0), (1000, 0.0), (2000, 0.4))
    )
    tied = [difference(*two).low < 0 for two in zip(again, first, strict=True)]
    clear = [difference(*two).low > 0 for two in zip(worse, first, strict=True)]
    assert np.mean(tied) > 0.94  # 97.5 % of them
    assert np.mean(clear) > 0.7


class Raw(torch.nn.Module):
    num_features = 4

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore")
def test_frechet_and_kernel_distance_are_those_of_torchmetrics():
    fid = pytest.importorskip("torchmetrics.image.fid").FrechetInceptionDistance(feature=Raw())
    kid = pytest.importorskip("torchmetrics.image.kid").KernelInceptionDistance(
        feature=Raw(), subsets=1, subset_size=60
    )
    x, y = normal(60, 4, 0, scale=1.5), normal(60, 4, 1, shift=0.2)
    for theirs in (fid, kid):
        theirs.update(y, real=True)
        theirs.update(x, real=False)
    assert frechet_distance(x, y) == pytest.approx(float(fid.compute()), rel=1e-6)
    assert kernel_distance(x, y) == pytest.approx(float(kid.compute()[0]), rel=1e-5)


def test_precision_and_recall_of_a_constructed_set():
    # True points 0..9; the 1st neighbour of each is at distance 1, so the region is [-1, 10].
    truth = torch.arange(10.0, dtype=torch.float64)[:, None]
    x = torch.tensor([[-1.5], [-0.9], [4.4], [4.6], [30.0]], dtype=torch.float64)
    found = precision_recall(x, truth, k=1)
    assert found.fidelity.tolist() == [0, 1, 1, 1, 0]
    # Balls of the samples: radius .6, .6, .2, .2 and 25.4, the last from 4.6 to 55.4.
    assert found.diversity.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert Neighbours(truth, "precision", k=1)(x).value == pytest.approx(0.6)
    assert Neighbours(truth, "recall", k=1)(x).value == pytest.approx(0.5)


def test_density_and_coverage_of_a_constructed_set():
    truth = torch.arange(10.0, dtype=torch.float64)[:, None]
    x = torch.tensor([[-1.5], [-0.9], [4.4], [4.6], [30.0]], dtype=torch.float64)
    found = density_coverage(x, truth, k=2)
    # With k = 2 the radius is 1 within and 2 at both ends: 4.4 is in the balls of 4 and 5, -0.9
    # and -1.5 in that of 0.
    assert found.fidelity.tolist() == [0.5, 0.5, 1.0, 1.0, 0.0]
    assert found.diversity.tolist() == [1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert Neighbours(truth, "density", k=2)(x).value == pytest.approx(0.6)
    assert Neighbours(truth, "coverage", k=2)(x).value == pytest.approx(0.3)
    with pytest.raises(ConfigError, match="10 nearest neighbours need at least 11"):
        density_coverage(x, truth, k=10)
    with pytest.raises(ConfigError, match="precision, recall"):
        Neighbours(truth, "fidelity")


def test_coverage_of_equal_laws_is_its_expectation():
    # Naeem et al., eq. 9: E coverage = 1 - (N - 1) ... (N - k) / ((M + N - 1) ... (M + N - k)).
    n = m = 100
    truth = 1 - math.prod((n - i) / (m + n - i) for i in range(1, 6))
    values = [
        density_coverage(normal(n, 2, 2 * s), normal(m, 2, 2 * s + 1)).diversity.mean()
        for s in range(40)
    ]
    error = np.std(values, ddof=1) / math.sqrt(40)
    assert abs(np.mean(values) - truth) < 4 * error
    assert error < 0.005


def test_mode_weights_are_the_total_variation_of_the_shares():
    means = torch.tensor([[-5.0], [0.0], [5.0]], dtype=torch.float64)
    mixture = sd.GaussianMixture(sd.VPSDE(), means, sd.Covariance.isotropic(0.01), [0.5, 0.3, 0.2])
    x = means.repeat_interleave(torch.tensor([7, 2, 1]), 0)
    assert ModeWeights(mixture)(x).value == pytest.approx(0.2, abs=1e-9)
    assert ModeWeights(mixture)(mixture.sample(4000, seed=0)).value < 0.03


def test_differences_are_paired_and_know_what_better_means():
    reference = torch.zeros(200, 6, dtype=torch.float64)
    noise = normal(200, 1, 0).exp() * normal(200, 6, 1)
    metric = EndpointError(reference)
    worse, best = metric(noise), metric(0.95 * noise)
    assert worse.low < best.high  # the intervals overlap
    gap = difference(worse, best)
    assert gap.value == pytest.approx(worse.value - best.value)
    assert gap.low > 0  # and yet the difference is clear
    assert difference(worse, best, better="higher").high < 0
    near = Estimate(-0.1, -0.2, 0.0, (-0.2, -0.1, 0.0)), Estimate(0.3, 0.2, 0.4, (0.2, 0.3, 0.4))
    assert difference(*near).value == pytest.approx(-0.4)
    assert difference(*near, better="zero").value == pytest.approx(-0.2)
    assert difference(worse, Estimate(1.0, 0.9, 1.1)) is None
    with pytest.raises(ConfigError, match="'zero'"):
        difference(worse, best, better="smaller")


def test_the_interval_of_a_difference_covers_as_often_as_it_says():
    hits = 0
    for k in range(150):
        x, y = normal(60, 1, 2 * k), normal(60, 1, 2 * k + 1)
        a, b = (bootstrap(np.mean, z[:, 0].numpy(), resamples=400) for z in (x, x + 0.5 * y))
        gap = difference(a, b)
        hits += gap.low < 0 < gap.high  # E(a - b) = 0
    assert 0.89 < hits / 150 < 0.995
