"""Elementary functions against 60-digit arithmetic."""

from __future__ import annotations

import math

import mpmath as mp
import numpy as np
import pytest
import torch

from scoresde import CosineVPSDE, scalar

mp.mp.dps = 60
EPS = np.finfo(np.float64).eps

NEGATIVE = [-(10.0**k) for k in range(-300, 3, 7)] + [-1e-16, -0.1, -math.log(2), -0.6931, -5.0]
ANY = [*NEGATIVE, *(-x for x in NEGATIVE)]

TRUTH = {
    "exp": (mp.exp, ANY),
    "expm1": (mp.expm1, ANY),
    "log": (mp.log, [-x for x in NEGATIVE]),
    "log1p": (mp.log1p, [x for x in ANY if x > -0.99]),
    "asinh": (mp.asinh, ANY),
    "sin": (mp.sin, [x for x in ANY if abs(x) < 4]),
    "log1mexp": (lambda x: mp.log(-mp.expm1(x)), NEGATIVE),
    "softplus": (lambda x: mp.log1p(mp.exp(x)), ANY),
}


@pytest.mark.parametrize("name", TRUTH)
def test_relative_error_is_a_few_units_of_round_off(name):
    truth, points = TRUTH[name]
    fn = getattr(scalar, name)
    for x in points:
        exact = truth(mp.mpf(x))
        if abs(exact) < 1e-290 or abs(exact) > 1e290:
            continue
        on_tensor = float(fn(torch.tensor([x], dtype=torch.float64))[0])
        for kind, value in (("float", fn(x)), ("tensor", on_tensor)):
            error = abs((mp.mpf(value) - exact) / exact)
            # exp of a large argument inherits the argument's own rounding.
            assert error < 4 * EPS * max(1, abs(x) if name == "exp" else 1), (kind, x, value)


def test_floats_at_the_edges_agree_with_tensors():
    assert scalar.exp(1000.0) == math.inf
    assert scalar.expm1(1000.0) == math.inf
    assert scalar.exp(-math.inf) == 0.0
    assert scalar.log(0.0) == -math.inf
    assert math.isnan(scalar.log(-1.0))
    assert scalar.log1p(-1.0) == -math.inf
    assert math.isnan(scalar.log1p(-2.0))


def test_hypot_and_angle():
    assert scalar.hypot(3e200, 4e200) == pytest.approx(5e200, rel=1e-15)
    both = torch.tensor([3.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)
    assert scalar.hypot(*both).item() == 5.0
    assert scalar.atan2(1.0, 0.0) == math.pi / 2
    assert scalar.atan2(*both).item() == math.atan2(3.0, 4.0)
    for mixed in ((both[0], 4.0), (3.0, both[1])):
        assert scalar.hypot(*mixed).item() == 5.0
        assert scalar.atan2(*mixed).item() == math.atan2(3.0, 4.0)
        assert scalar.hypot(*mixed).dtype == torch.float64
    many = torch.tensor([3.0, 5.0], dtype=torch.float64)
    assert scalar.hypot(many, 12.0)[1].item() == 13.0


def test_gradients_are_finite_on_both_branches():
    x = torch.tensor([-1e-12, -0.5, -0.7, -50.0], dtype=torch.float64, requires_grad=True)
    scalar.log1mexp(x).sum().backward()
    exact = [float(mp.exp(v) / mp.expm1(v)) for v in x.tolist()]
    np.testing.assert_allclose(x.grad.numpy(), exact, rtol=1e-14)


def test_derivative_of_floats_and_tensors():
    assert scalar.derivative(scalar.sin, 0.3) == pytest.approx(math.cos(0.3), rel=1e-15)
    t = torch.tensor([0.1, 0.2], dtype=torch.float64)
    torch.testing.assert_close(scalar.derivative(scalar.sin, t), t.cos(), rtol=1e-15, atol=0)
    assert scalar.derivative(lambda u: 0.0 * u, 0.3) == 0.0
    assert scalar.derivative(lambda u: 1.0, 0.3) == 0.0


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_derivative_does_not_depend_on_the_callers_grad_mode(mode):
    sde = CosineVPSDE()
    f, g2 = sde.f(0.4), sde.g2(0.4)
    tensors = scalar.derivative(sde.log_alpha, torch.tensor([0.4], dtype=torch.float64))
    with mode():
        assert (sde.f(0.4), sde.g2(0.4)) == (f, g2)
        t = torch.tensor([0.4], dtype=torch.float64)
        assert scalar.derivative(sde.log_alpha, t).item() == tensors.item()
    assert f < 0 < g2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_affine_keeps_the_dtype_of_the_state(dtype):
    x, y = torch.ones(2, 3, dtype=dtype), torch.full((2, 3), 2.0, dtype=dtype)
    column = torch.tensor([[0.5], [2.0]], dtype=torch.float64)
    rows = torch.tensor([[0.5], [2.0]], dtype=dtype).expand(2, 3)
    cases = [
        (0.5, 2.0, x * 0.5 + y * 2.0),
        (0.0, 2.0, y * 2.0),
        (2.0, 0.0, x * 2.0),
        (1.0, 1.0, x + y),
        (column, 2.0, rows * x + 2.0 * y),
        (2.0, column, 2.0 * x + rows * y),
        (column, column, rows * x + rows * y),
    ]
    for a, b, expected in cases:
        got = scalar.affine(a, x, b, y)
        assert got.dtype == dtype
        assert torch.equal(got, expected)
