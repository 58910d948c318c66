"""Axes along the noise level: a name has the same meaning everywhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import CONTINUOUS

from scoresde import (
    VPSDE,
    CosineVPSDE,
    ExponentialMultistep,
    FlowSDE,
    Focus,
    Gaussian,
    ProbabilityFlow,
    ScaledTime,
    focused,
    sample,
    uniform_lambda,
)  # fmt: skip
from scoresde.axis import AXES, AngleAxis, axis
from scoresde.errors import ConfigError
from scoresde.exact.mixtures import Covariance
from scoresde.ode import clock

TRUTH = {
    "t": lambda k: k.t,
    "lambda": lambda k: math.log(k.alpha / k.sigma),
    "log_rho": lambda k: math.log(k.sigma / k.alpha),
    "rho": lambda k: k.sigma / k.alpha,
    "angle": lambda k: math.atan(k.sigma / k.alpha),
}
LEVELS = [Focus(), Focus(0.05, 54.0, 0.45, 0.06), Focus(0.07, 12.0, 1.0, 2.0), AngleAxis(0.3)]


@pytest.mark.parametrize("process", CONTINUOUS)
@pytest.mark.parametrize("name", AXES)
def test_an_axis_is_what_its_name_says(process, name):
    sde, along = CONTINUOUS[process], AXES[name]
    times = [0.01 * sde.t_max, 0.3 * sde.t_max, 0.9 * sde.t_max]
    for t in times:
        knot = sde.at(t)
        want = TRUTH[name](knot)
        assert float(along.read(knot)) == pytest.approx(want, rel=1e-12, abs=1e-13)
        assert float(along.at(sde, -knot.lam)) == pytest.approx(want, rel=1e-9, abs=1e-9)
        assert float(along.time(sde, want)) == pytest.approx(t, rel=1e-8)
        assert float(along.knot(sde, want).t) == pytest.approx(t, rel=1e-8)
        assert float(ScaledTime(3.0, name)(knot)) == pytest.approx(3.0 * want, rel=1e-12, abs=1e-12)
        assert float(clock(name).axis.read(knot)) == along.read(knot)
    together = sde.at(torch.tensor(times, dtype=torch.float64))
    np.testing.assert_allclose(
        torch.as_tensor(along.read(together)).numpy(),
        [TRUTH[name](sde.at(t)) for t in times],
        rtol=1e-12, atol=1e-13,
    )  # fmt: skip


def test_what_is_finite_where_no_signal_is_left():
    sde = FlowSDE()
    knot = sde.at(1.0)
    for name, along in AXES.items():
        assert math.isfinite(along.read(knot)) == along.at_zero_snr == (name in ("t", "angle"))
    assert AXES["angle"].read(knot) == pytest.approx(math.pi / 2, rel=1e-15)


@pytest.mark.parametrize("along", LEVELS, ids=str)
def test_every_level_axis_has_its_inverse(along):
    log_rho = np.linspace(-9.0, 5.0, 29)
    values = along.value(torch.from_numpy(log_rho))
    assert bool((values.diff() > 0).all())
    np.testing.assert_allclose(along.log_rho(values).numpy(), log_rho, rtol=1e-10, atol=1e-10)
    for one, value in zip(log_rho, values.tolist(), strict=True):
        assert along.value(float(one)) == pytest.approx(value, rel=1e-13, abs=1e-13)
        assert along.log_rho(value) == pytest.approx(one, rel=1e-10, abs=1e-10)


def test_a_focus_has_the_density_that_it_states():
    focus, h = Focus(0.1, 10.0, 0.5, 0.2), 1e-5
    for rho in (1e-3, 0.1, 0.7, 30.0):
        at = math.log(rho)
        slope = (focus.value(at + h) - focus.value(at - h)) / (2 * h)
        want = 0.2 + 1 / (1 + (0.1 / rho) ** 2) - 1 / (1 + (10.0 / rho) ** 2)
        assert slope == pytest.approx(want, rel=1e-7)


def test_polynomials_and_clocks_take_every_name():
    sde = VPSDE()
    model = Gaussian(sde, torch.tensor([0.7, -0.2]), Covariance.isotropic(0.25))
    grid = focused(sde, 8)
    runs = {
        name: sample(model, ExponentialMultistep(3, "x0", name), grid, shape=(4, 2)).x
        for name in AXES
    }
    # A polynomial does not see the sign of its variable.
    torch.testing.assert_close(runs["log_rho"], runs["lambda"], rtol=1e-6, atol=1e-6)
    assert float((runs["rho"] - runs["lambda"]).abs().max()) > 1e-4
    flows = {
        name: sample(
            model, ProbabilityFlow(clock=name), uniform_lambda(sde, 1, clean=False),
            shape=(4, 2), dtype=torch.float64,
        )
        for name in ("lambda", "log_rho")
    }  # fmt: skip
    torch.testing.assert_close(flows["lambda"].x, flows["log_rho"].x, rtol=1e-12, atol=1e-12)


def test_an_axis_of_ones_own():
    """In its own angle, data N(0, d^2) have v = 0: any polynomial is exact, on any axis."""
    sde = CosineVPSDE()
    grid = uniform_lambda(sde, 6)
    model = Gaussian(sde, torch.zeros(2), Covariance.isotropic(0.09))
    x = sample(model, ExponentialMultistep(3, "eps", AngleAxis(0.3)), grid, shape=(5, 2)).x
    other = sample(model, ExponentialMultistep(3, "eps", "angle"), grid, shape=(5, 2)).x
    assert float((x - other).abs().max()) > 1e-4
    same = sample(model, ExponentialMultistep(3, "eps", AngleAxis(1.0)), grid, shape=(5, 2)).x
    assert torch.equal(same, other)


def test_unknown_names_are_refused_with_the_nearest():
    for make in (
        lambda: axis("lam"), lambda: clock("lambd"), lambda: ScaledTime(1.0, "lam"),
        lambda: ExponentialMultistep(2, "x0", "lamda"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="lambda"):
            make()
