"""Processes from tables: exact at the points of the table, smooth between them, and monotone."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from support import DISCRETE, ZERO_SNR_TABLE

from scoresde import SDE, DiscreteVPSDE, cosine_betas, linear_betas, sigmoid_betas
from scoresde.errors import ConfigError, TimeRangeError

mp.mp.dps = 40

# Log-SNRs with a sudden jump: a C2 spline through them overshoots and is not monotone.
JUMPY = 1 / (1 + np.exp(-2 * np.array([4.0, 3.9, 3.8, 3.7, -2.0, -2.1, -2.2, -2.3])))


def _lam(sde: DiscreteVPSDE) -> np.ndarray:
    return np.array([sde.lam(float(i)) for i in range(len(sde.log_alphas))])


@pytest.mark.parametrize("make", [linear_betas, cosine_betas, sigmoid_betas])
def test_exact_at_the_points_of_the_table(make):
    betas = make(1000)
    sde = DiscreteVPSDE.from_betas(betas)
    product = mp.mpf(1)
    for i, beta in enumerate(betas):
        product *= 1 - mp.mpf(float(beta))
        if i % 37 and i not in (1, 999):
            continue
        # log(alpha)'s sum of a thousand terms carries a few units of round-off.
        truth = mp.log(product) / 2
        assert sde.log_alpha(float(i)) == pytest.approx(float(truth), rel=2e-14)
        assert sde.log_sigma(float(i)) == pytest.approx(float(mp.log(1 - product) / 2), abs=2e-14)
    index = torch.arange(1000, dtype=torch.float64)
    np.testing.assert_allclose(
        (2 * sde.log_alpha(index)).exp().numpy(), np.cumprod(1 - betas), rtol=2e-12
    )


def test_the_tables_are_the_published_ones():
    assert linear_betas(1000)[[0, -1]].tolist() == [1e-4, 0.02]
    assert linear_betas(100)[[0, -1]].tolist() == [1e-3, 0.2]
    bar = lambda t: mp.cos((t + mp.mpf(0.008)) / (1 + mp.mpf(0.008)) * mp.pi / 2) ** 2  # noqa: E731
    betas = cosine_betas(1000)
    for i in (0, 1, 500, 990):
        truth = 1 - bar(mp.mpf(i + 1) / 1000) / bar(mp.mpf(i) / 1000)
        assert betas[i] == pytest.approx(float(truth), rel=1e-12)
    assert betas[-1] == 0.999
    middle = sigmoid_betas(1001)[500]
    assert middle == pytest.approx((1e-4 + 0.02) / 2, rel=1e-12)
    assert sigmoid_betas(1000)[0] == pytest.approx(1e-4 + (0.02 - 1e-4) / (1 + math.exp(6)))


@pytest.mark.parametrize("name", DISCRETE)
def test_twice_continuously_differentiable(name):
    sde = DISCRETE[name]
    curve = (lambda t: sde.at(t).angle) if sde.zero_terminal_snr else sde.lam

    def one_sided(i: float, side: int) -> tuple[float, float]:
        h = side * 0.05  # the curve is one cubic on each side: differences are exact
        y = [curve(i + k * h) for k in range(4)]
        first = (-11 * y[0] + 18 * y[1] - 9 * y[2] + 2 * y[3]) / (6 * h)
        second = (2 * y[0] - 5 * y[1] + 4 * y[2] - y[3]) / h**2
        return first, second

    last = len(sde.log_alphas) - 1
    for i in (1, 2, last // 3, last - 2):
        (slope, bend), (slope_, bend_) = one_sided(float(i), -1), one_sided(float(i), 1)
        assert slope_ == pytest.approx(slope, rel=1e-9)
        assert bend_ == pytest.approx(bend, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("name", DISCRETE)
def test_smooth_drift_and_diffusion(name):
    """g^2 follows the slope of a C2 curve, so it has a continuous slope of its own."""
    sde = DISCRETE[name]
    for i in (3.0, 50.0):
        h = 1e-4
        left = (sde.g2(i) - sde.g2(i - h)) / h
        right = (sde.g2(i + h) - sde.g2(i)) / h
        assert right == pytest.approx(left, rel=5e-3, abs=1e-9)


def test_a_monotone_curve_where_the_smooth_one_is_not():
    sde = DiscreteVPSDE.from_alphas_cumprod(JUMPY)
    fine = np.array([sde.lam(float(t)) for t in np.linspace(0, 7, 1401)])
    assert (np.diff(fine) < 0).all()
    np.testing.assert_allclose(_lam(sde), 0.5 * np.log(JUMPY / (1 - JUMPY)), rtol=1e-12)
    for t in (0.3, 3.4, 6.7):
        assert sde.t_at_lambda(sde.lam(t)) == pytest.approx(t, abs=1e-9)


def test_a_table_that_ends_without_signal():
    sde = DISCRETE["zero-SNR table"]
    assert sde.zero_terminal_snr
    end = sde.at(99.0)
    assert end.is_zero_snr
    assert (end.alpha, end.sigma) == (0.0, 1.0)
    assert end.angle == math.pi / 2
    for i in (0, 50, 98):
        knot = sde.at(float(i))
        assert knot.alpha**2 == pytest.approx(ZERO_SNR_TABLE[i], rel=1e-11)
        assert knot.alpha**2 + knot.sigma**2 == pytest.approx(1.0, rel=1e-14)
    below = sde.at(98.999)
    assert 0 < below.alpha < 1e-4
    inside = torch.tensor([98.5, 20.25], dtype=torch.float64)
    np.testing.assert_allclose(
        sde.log_alpha(inside), [sde.log_alpha(98.5), sde.log_alpha(20.25)], rtol=1e-13
    )


def test_a_last_beta_of_one_has_no_signal():
    assert DiscreteVPSDE.from_betas([0.1, 0.2, 0.3, 1.0]).at(3.0).is_zero_snr


def test_the_two_ways_in_agree():
    betas = linear_betas(100)
    one = DiscreteVPSDE.from_betas(torch.from_numpy(betas))
    other = DiscreteVPSDE.from_alphas_cumprod(np.cumprod(1 - betas).tolist())
    np.testing.assert_allclose(one.log_alphas, other.log_alphas, rtol=1e-12)
    assert one == DiscreteVPSDE.from_betas(betas.tolist())
    assert (one.t_min, one.t_max) == (0.0, 99.0)


def test_times_between_the_indices_as_floats_and_tensors():
    sde = DISCRETE["cosine table"]
    times = [0.0, 0.5, 17.25, 998.999, 999.0]
    t = torch.tensor(times, dtype=torch.float64)
    for fn in (sde.log_alpha, sde.log_sigma, sde.f, sde.g2):
        np.testing.assert_allclose(fn(t).numpy(), [fn(u) for u in times], rtol=1e-12)


@pytest.mark.parametrize("name", DISCRETE)
def test_the_time_of_a_log_snr_is_found_to_round_off(name):
    """Against the base class's bisection, at the indices, between them, at the ends and beyond."""
    sde = DISCRETE[name]
    last = sde.t_max - (1e-3 if sde.zero_terminal_snr else 0.0)
    times = [0.0, 1e-9, 0.5, 1.0, 1.75, 50.0, 77.3, last - 0.25, last]
    lams = [float(sde.lam(t)) for t in times]
    found = [sde.t_at_lambda(lam) for lam in lams]
    np.testing.assert_allclose(found, times, rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(found, [SDE.t_at_lambda(sde, lam) for lam in lams], atol=1e-11)
    tensor = torch.tensor(lams, dtype=torch.float64).reshape(-1, 1)
    np.testing.assert_allclose(sde.t_at_lambda(tensor)[:, 0], found, rtol=1e-12, atol=1e-11)
    assert sde.t_at_lambda(lams[0] + 5.0) == pytest.approx(0.0, abs=1e-6)
    assert sde.t_at_lambda(-200.0) == pytest.approx(sde.t_max, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: DiscreteVPSDE.from_betas([0.1, 0.2]), ConfigError, "at least 4"),
        (lambda: DiscreteVPSDE.from_betas([0.1, 0.0, 0.1, 0.1]), ConfigError, "(0, 1]"),
        (lambda: DiscreteVPSDE.from_betas([0.1, 1.2, 0.1, 0.1]), ConfigError, "(0, 1]"),
        (lambda: DiscreteVPSDE.from_betas([[0.1] * 4]), ConfigError, "one-dimensional"),
        (lambda: DiscreteVPSDE.from_betas([0.1, float("nan"), 0.1, 0.1]), ConfigError, "(0, 1]"),
        (lambda: DiscreteVPSDE.from_betas([0.1, 1.0, 0.1, 0.1]), ConfigError, "fall strictly"),
        (
            lambda: DiscreteVPSDE.from_alphas_cumprod([0.9, 0.8, 0.85, 0.7]),
            ConfigError,
            "fall strictly",
        ),
        (
            lambda: DiscreteVPSDE.from_alphas_cumprod([1.0, 0.8, 0.7, 0.6]),
            ConfigError,
            "[0, 1)",
        ),
        (
            lambda: DiscreteVPSDE(DISCRETE["linear table"].log_alphas, t_max=1000.0),
            ConfigError,
            "last index 999",
        ),
        (lambda: DISCRETE["linear table"].at(1000.0), TimeRangeError, "[0, 999]"),
    ],
)
def test_bad_tables_are_explained(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)
