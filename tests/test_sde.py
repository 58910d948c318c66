"""Processes against 60-digit arithmetic, finite differences, and the moments of simulations."""

from __future__ import annotations

import json
import math
import pickle
from itertools import pairwise

import mpmath as mp
import numpy as np
import pytest
import torch
from support import CONTINUOUS, PROCESSES, gaussian, randn

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    DiscreteVPSDE,
    FlowSDE,
    ReverseSDE,
    SampleSeeds,
    SubVPSDE,
)
from scoresde.errors import ConfigError, ShapeError, TimeRangeError
from scoresde.noise import BatchSeed
from scoresde.sde import CLEAN, from_dict

mp.mp.dps = 60
EPS = np.finfo(np.float64).eps


# -- the definitions, once more, in 60 digits --------------------------------------------------


def _vp(t):
    return mp.exp(-t * t / 4 * (mp.mpf(20) - mp.mpf(0.1)) - t / 2 * mp.mpf(0.1))


def _cosine(t):
    angle = lambda u: mp.cos((u + mp.mpf(0.008)) / (1 + mp.mpf(0.008)) * mp.pi / 2)  # noqa: E731
    return angle(t) / angle(mp.mpf(0))


DEFINITIONS = {
    "vp": (_vp, lambda t: mp.sqrt(1 - _vp(t) ** 2)),
    "subvp": (_vp, lambda t: 1 - _vp(t) ** 2),
    "ve": (lambda t: mp.mpf(1), lambda t: mp.mpf(0.01) * (mp.mpf(50) / mp.mpf(0.01)) ** t),
    "edm": (lambda t: mp.mpf(1), lambda t: t),
    "cosine": (_cosine, lambda t: mp.sqrt(1 - _cosine(t) ** 2)),
    "flow": (lambda t: 1 - t, lambda t: t),
}


def _times(sde: SDE) -> list[float]:
    last = sde.t_max
    shares = [1e-9, 1e-5, 1e-3, 0.1, 0.5, 0.9, 1 - 1e-6, 1.0]
    return [share * last for share in shares]


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("kind", ["float", "tensor"])
def test_closed_forms_hold_to_round_off_at_both_ends_of_time(name, kind):
    sde, (alpha, sigma) = CONTINUOUS[name], DEFINITIONS[name]
    for t in _times(sde):
        u = mp.mpf(t)
        rate = lambda v: mp.log(sigma(v) / alpha(v))  # noqa: E731
        exact = {
            # A logarithm's absolute error is the relative error of what it stands for.
            "log_alpha": (mp.log(alpha(u)), max(1, abs(mp.log(alpha(u))))),
            "log_sigma": (mp.log(sigma(u)), max(1, abs(mp.log(sigma(u))))),
            "f": (mp.diff(lambda v: mp.log(alpha(v)), u, h=mp.mpf(10) ** -25 * u), None),
            "g2": (2 * sigma(u) ** 2 * mp.diff(rate, u, h=mp.mpf(10) ** -25 * u), None),
        }
        for what, (truth, size) in exact.items():
            given = t if kind == "float" else torch.tensor([t], dtype=torch.float64)
            value = mp.mpf(float(getattr(sde, what)(given)))
            # The cosine's slope at 0 goes through the cosine of an angle 0.012 short of pi / 2.
            room = (80 if name == "cosine" else 16) * EPS * (abs(truth) if size is None else size)
            assert abs(value - truth) <= room, (what, t, value, truth)


@pytest.mark.parametrize("name", ["vp", "subvp", "flow"])
def test_small_logarithms_keep_relative_accuracy(name):
    sde, (alpha, _) = CONTINUOUS[name], DEFINITIONS[name]
    for t in (1e-12, 1e-8, 1e-5, 1e-3):
        truth = mp.log(alpha(mp.mpf(t)))
        assert abs(mp.mpf(sde.log_alpha(t)) / truth - 1) < 4 * EPS


@pytest.mark.parametrize("name", DEFINITIONS)
def test_alpha_and_sigma_in_float32_are_right_to_float32_round_off(name):
    """The textbook sqrt(1 - exp(2 l)) in float32 is wrong by 6e-3 at t = 1e-5."""
    sde, (_, sigma) = CONTINUOUS[name], DEFINITIONS[name]
    one = torch.ones(1, 1, dtype=torch.float32)
    for t in (1e-5 * sde.t_max, 1e-3 * sde.t_max, sde.t_max):
        noisy = sde.perturb(torch.zeros_like(one), torch.tensor([t], dtype=torch.float64), one)
        assert noisy.dtype == torch.float32
        assert abs(noisy.item() / float(sigma(mp.mpf(t))) - 1) < 2e-7


# -- what holds for every process, tables included ----------------------------------------------


def test_drift_and_diffusion_are_the_slopes_of_the_marginals(sde):
    span = sde.t_max - sde.t_min
    for share in (0.013, 0.21, 0.5, 0.83, 0.97):
        t, h = sde.t_min + share * span, 1e-5 * span
        slope = (sde.log_alpha(t + h) - sde.log_alpha(t - h)) / (2 * h)
        assert sde.f(t) == pytest.approx(slope, rel=2e-6, abs=1e-9)
        variance = lambda u: math.exp(2 * sde.log_sigma(u))  # noqa: E731
        growth = (variance(t + h) - variance(t - h)) / (2 * h)
        assert sde.g2(t) == pytest.approx(growth - 2 * slope * variance(t), rel=2e-5)
        assert sde.diffusion(t) ** 2 == pytest.approx(sde.g2(t), rel=1e-14)
        x = randn(4, 3)
        torch.testing.assert_close(sde.drift(x, t), sde.f(t) * x)


def test_one_time_a_sample_gives_the_rows_of_single_times(sde):
    times = [sde.t_min + share * (sde.t_max - sde.t_min) for share in (0.02, 0.4, 0.9)]
    # Three rows and a last axis of three: a bare (B,) would broadcast along the wrong one.
    x, eps = randn(3, 2, 3), randn(3, 2, 3, seed=1)
    t = torch.tensor(times)
    together = sde.perturb(x, t.double() if t.dtype != torch.float64 else t, eps)
    assert sde.at(t, like=x).alpha.shape == (3, 1, 1)
    for row, time in enumerate(t.double().tolist()):
        alone = sde.perturb(x[row : row + 1], time, eps[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-13, atol=1e-13)
        mean, std = sde.marginal(x[row : row + 1], time)
        torch.testing.assert_close(alone, mean + std * eps[row : row + 1], rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(sde.drift(x, t)[1], sde.drift(x, t.double().tolist()[1])[1])


def test_log_snr_falls_and_has_an_inverse(sde):
    # Where alpha = 0 at t_max, the time itself cannot be told any better than 1 - share is.
    share = 1e-4 if sde.at(sde.t_max).is_zero_snr else 1e-9
    times = np.linspace(max(sde.t_min, 1e-5 * sde.t_max), sde.t_max * (1 - share), 57)
    lams = [sde.lam(float(t)) for t in times]
    assert all(b < a for a, b in pairwise(lams))
    for t, lam in zip(times, lams, strict=True):
        assert sde.t_at_lambda(lam) == pytest.approx(t, rel=1e-11)
        knot = sde.at_lambda(lam)
        assert knot.lam == pytest.approx(lam, abs=1e-12 * (1 + abs(lam)))
        assert knot.rho == pytest.approx(math.exp(-lam), rel=1e-11)
    back = sde.t_at_lambda(torch.tensor(lams, dtype=torch.float64))
    np.testing.assert_allclose(back.numpy(), times, rtol=1e-10)
    assert sde.at_lambda(torch.tensor([0.5], dtype=torch.float32)).t.dtype == torch.float64


def test_closed_inverse_agrees_with_bisection(continuous):
    for lam in (-3.0, 0.0, 2.5):
        bisected = SDE.t_at_lambda(continuous, lam)
        assert continuous.t_at_lambda(lam) == pytest.approx(bisected, rel=1e-11)


def test_knot_views_agree_with_one_another(sde):
    for share in (0.0, 0.3, 0.95):
        t = sde.t_min + share * (sde.t_max - sde.t_min)
        knot = sde.at(t)
        assert knot.rho == pytest.approx(knot.sigma / knot.alpha, rel=1e-14)
        assert knot.lam == pytest.approx(math.log(knot.alpha / knot.sigma), abs=1e-12)
        assert knot.radius == pytest.approx(math.sqrt(knot.alpha**2 + knot.sigma**2), rel=1e-15)
        assert knot.angle == pytest.approx(math.atan(knot.rho), rel=1e-14)
        assert not knot.is_clean
    assert CLEAN.is_clean
    assert (CLEAN.alpha, CLEAN.sigma, CLEAN.rho, CLEAN.angle) == (1.0, 0.0, 0.0, 0.0)


def test_transitions_compose(sde):
    """From s to t in one step or in two: Chapman and Kolmogorov."""
    times = [sde.t_min + share * (sde.t_max - sde.t_min) for share in (0.01, 0.35, 0.8)]
    s, m, t = (sde.at(time) for time in times)
    a1, b1 = sde.transition(s, m)
    a2, b2 = sde.transition(m, t)
    a, b = sde.transition(s, t)
    assert a == pytest.approx(a1 * a2, rel=1e-13)
    assert b * b == pytest.approx((a2 * b1) ** 2 + b2 * b2, rel=1e-12)
    assert sde.transition(sde.clean, t) == (pytest.approx(t.alpha), t.sigma)


def test_a_short_transition_does_not_cancel():
    sde = VPSDE()
    s, t = sde.at(0.5), sde.at(0.5 + 1e-10)
    _, b = sde.transition(s, t)
    exact = mp.sqrt(-mp.expm1(2 * (mp.log(_vp(mp.mpf(t.t))) - mp.log(_vp(mp.mpf(s.t))))))
    # lam itself carries 1e-16, so its difference of 1e-9 carries 1e-7: no less than inherent.
    assert b == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize("name", ["vp", "subvp", "ve", "edm", "cosine", "flow", "linear table"])
def test_moments_of_a_simulation_are_the_marginal_ones(name):
    """200,000 paths: 1% off in the mean or 1% in the variance is more than 4 standard errors."""
    sde, n = PROCESSES[name], 200_000
    x0 = torch.full((n, 1), 3.0, dtype=torch.float64)
    times = [sde.t_min + share * (sde.t_max - sde.t_min) for share in (0.05, 0.3, 0.6)]
    stream = BatchSeed(5).open(x0.shape, torch.float64)
    before = None
    for knot, x in sde.simulate(x0, times, stream):
        mean, std = sde.marginal(x0[:1], knot.t)
        z = (x - mean) / std
        assert abs(float(z.mean())) * math.sqrt(n) < 4
        assert abs(float(z.var()) - 1) / math.sqrt(2 / n) < 4
        if before is not None:
            # The correlation of two times of one path: a_(t|s) sigma_s / sigma_t.
            previous, earlier = before
            a, _ = sde.transition(earlier, knot)
            expected = a * earlier.sigma / knot.sigma
            assert abs(float((z * previous).mean()) - expected) * math.sqrt(n) < 5
        before = z, knot


def test_a_simulation_refuses_descending_times():
    stream = BatchSeed(0).open((2, 1), torch.float64)
    with pytest.raises(TimeRangeError, match="sorted"):
        list(VPSDE().simulate(torch.zeros(2, 1), [0.5, 0.2], stream))


def test_prior(sde):
    z = randn(5, 2, 3)
    std = float(sde.at(sde.t_max).sigma)
    normal = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), std)
    torch.testing.assert_close(sde.prior_log_prob(z), normal.log_prob(z).sum((1, 2)))
    drawn = sde.prior_sample(SampleSeeds((3,)).open((1, 4), torch.float64))
    unit = SampleSeeds((3,)).open((1, 4), torch.float64).start()
    torch.testing.assert_close(drawn, std * unit)


# -- the way back -----------------------------------------------------------------------------


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0, 1.4])
def test_the_reverse_process_moves_the_marginals_backwards(continuous, stochasticity):
    """For Gaussian data the drift is linear, A (x - m) + m': check both moments' slopes."""
    sde, model = continuous, gaussian(continuous, 3)
    reverse = ReverseSDE(model, stochasticity)
    c = model._family.e[0]
    mu = model.means[0]
    for t in (0.2 * sde.t_max, 0.7 * sde.t_max):
        h = 1e-5 * sde.t_max
        knots = {k: sde.at(t + k * h) for k in (-1, 0, 1)}
        variance = {k: v.alpha**2 * c + v.sigma**2 for k, v in knots.items()}
        mean = {k: v.alpha * mu for k, v in knots.items()}
        at_mean, off = mean[0][None], mean[0][None] + 1.0
        slope = (reverse.drift(off, t) - reverse.drift(at_mean, t))[0]
        growth = 2 * slope * variance[0] - reverse.diffusion(t) ** 2
        numeric = (variance[1] - variance[-1]) / (2 * h)
        torch.testing.assert_close(growth, numeric, rtol=3e-5, atol=3e-6)
        moved = (mean[1] - mean[-1]) / (2 * h)
        torch.testing.assert_close(reverse.drift(at_mean, t)[0], moved, rtol=3e-5, atol=3e-6)


def test_zero_stochasticity_is_the_velocity_of_the_exact_flow(continuous):
    sde, model = continuous, gaussian(continuous, 3)
    x, t = randn(4, 3), 0.4 * sde.t_max
    h = 1e-5 * sde.t_max
    ahead, behind = (model.flow(x, sde.at(t), sde.at(t + d)) for d in (h, -h))
    torch.testing.assert_close(
        ReverseSDE(model, 0.0).drift(x, t), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5
    )


def test_reverse_with_one_time_a_sample():
    sde, model = VPSDE(), gaussian(VPSDE(), 2, 2)
    x, t = randn(2, 2, 2), torch.tensor([0.3, 0.8], dtype=torch.float64)
    together = ReverseSDE(model).drift(x, t)
    for row in range(2):
        alone = ReverseSDE(model).drift(x[row : row + 1], float(t[row]))
        torch.testing.assert_close(together[row : row + 1], alone)
    assert ReverseSDE(model).diffusion(0.3) == pytest.approx(math.sqrt(sde.g2(0.3)))


# -- values ------------------------------------------------------------------------------------


def test_a_process_is_a_value(sde):
    again = from_dict(json.loads(json.dumps(sde.to_dict())))
    assert again == sde
    assert hash(again) == hash(sde)
    assert pickle.loads(pickle.dumps(sde)) == sde
    with pytest.raises(AttributeError):
        sde.t_max = 3.0


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: VPSDE(beta_min=0.0), ConfigError, "0 < beta_min <= beta_max"),
        (lambda: VPSDE(beta_min=3.0, beta_max=1.0), ConfigError, "beta_min=3.0"),
        (lambda: SubVPSDE(beta_min=float("nan")), ConfigError, "SubVPSDE needs"),
        (lambda: VPSDE(t_min=1.0), TimeRangeError, "t_min < t_max"),
        (lambda: VPSDE(t_min=-1e-3), TimeRangeError, "0 <= t_min"),
        (lambda: VPSDE(t_max=math.inf), TimeRangeError, "t_max=inf"),
        (lambda: VESDE(sigma_min=0.0), ConfigError, "0 < sigma_min < sigma_max"),
        (lambda: VESDE(sigma_min=2.0, sigma_max=1.0), ConfigError, "sigma_min=2.0"),
        (lambda: CosineVPSDE(t_max=1.5), ConfigError, "t_max <= 1"),
        (lambda: CosineVPSDE(s=-0.1), ConfigError, "s >= 0"),
        (lambda: FlowSDE(t_max=2.0), ConfigError, "t_max <= 1"),
        (lambda: VPSDE().at(1.2), TimeRangeError, "t_max = 1"),
        (lambda: VPSDE().at(-0.1), TimeRangeError, "range [0, 1]"),
        (lambda: VPSDE().at(math.nan), TimeRangeError, "nan"),
        (lambda: EDMSDE().at(100.0), TimeRangeError, "[0, 80]"),
        (lambda: EDMSDE(sigma_min=0.002), ConfigError, "write EDMSDE(t_min=0.002, t_max=80.0)"),
        (lambda: VPSDE().at_lambda(-9.0), TimeRangeError, "(at t_max = 1), not -9"),
        (lambda: VPSDE().at_lambda(math.inf), TimeRangeError, "not inf"),
        (lambda: VPSDE().at_lambda(math.nan), TimeRangeError, "not nan"),
        (lambda: VPSDE().at(torch.rand(3), like=randn(4, 2)), ShapeError, "shape (4,)"),
        (lambda: VPSDE().at(torch.rand(4, 2), like=randn(4, 2)), ShapeError, "(4, 2)"),
        (lambda: VPSDE().perturb(randn(4, 2), torch.rand(2), randn(4, 2)), ShapeError, "(2,)"),
        (lambda: from_dict({"name": "VPSD"}), ConfigError, "did you mean 'VPSDE'"),
        (lambda: from_dict({"name": "VPSDE", "beta": 1.0}), ConfigError, "beta"),
        (
            lambda: DiscreteVPSDE.from_betas(
                [0.1] * 9,
            ).at(9.0),
            TimeRangeError,
            "[0, 8]",
        ),
        (lambda: ReverseSDE(gaussian(VPSDE()), -1.0), ConfigError, "0 or more"),
    ],
)
def test_bad_input_is_explained(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)
