"""Latents: encode, decode, round trips and interpolation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import gaussian, randn

from scoresde import VPSDE, Covariance, Gaussian, Heun, ProbabilityFlow, ScoreModel, TorchDiffEq
from scoresde.errors import ConfigError, DtypeError, ShapeError
from scoresde.sampling.latents import decode, encode, interpolate, round_trip_error, slerp

SDE = VPSDE()
TIGHT = ProbabilityFlow(TorchDiffEq(rtol=1e-9, atol=1e-9))


def test_slerp_is_the_rotation_in_the_plane_of_both() -> None:
    """Unit vectors at angles 0 and 1.2: the point at weight w is at 1.2 w. Norms of other
    lengths go with their own end.
    """
    angle, w = 1.2, torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(4, 2)
    b = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64).expand(4, 2)
    want = torch.stack([(angle * w).cos(), (angle * w).sin()], 1)
    torch.testing.assert_close(slerp(a, b, w), want)
    torch.testing.assert_close(slerp(3 * a, 3 * b, w), 3 * want)
    torch.testing.assert_close(slerp(a, 5 * a, 0.25), 2 * a)  # along one line
    z = randn(2, 4, 3, 500)
    middle = slerp(*z, 0.5).flatten(1).norm(dim=1)
    torch.testing.assert_close(middle, z.flatten(2).norm(dim=2).mean(0), rtol=1e-3, atol=0)


def test_interpolation_is_the_exact_flow_of_the_arc() -> None:
    model = gaussian(SDE, 2, 3)
    low, high = SDE.at(1e-2), SDE.at(1.0)
    a, b = model.sample(8, 1e-2, seed=1).split(4)
    got = interpolate(model, a, b, 5, solver=TIGHT, t_min=1e-2)
    assert got.shape == (4, 5, 2, 3)
    ends = [model.flow(x, low, high) for x in (a, b)]
    for k in range(5):
        want = model.flow(slerp(*ends, k / 4), high, low)
        torch.testing.assert_close(got[:, k], want, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got[:, 0], a, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("way", ["encode", "decode", "interpolate", "round_trip_error"])
def test_gradients_are_kept_where_they_are_asked_for(way: str) -> None:
    """Of the flow to the latent and back, those of its closed form; without grad=True none."""
    model = gaussian(SDE, 3)
    low, high = SDE.at(1e-2), SDE.at(1.0)
    settings = {"solver": TIGHT, "t_min": 1e-2}
    run, exact = {
        "encode": (encode, lambda x: model.flow(x, low, high)),
        "decode": (decode, lambda x: model.flow(x, high, low)),
        "interpolate": (lambda m, x, **s: interpolate(m, x, 2 * x, 3, **s)[:, 1], _middle(model)),
        "round_trip_error": (round_trip_error, lambda x: 0.0 * x),
    }[way]
    x = randn(4, 3).requires_grad_()
    with torch.enable_grad():
        assert not run(model, x, **settings).requires_grad
    with torch.set_grad_enabled(way == "interpolate"):  # which the test itself slices
        found = run(model, x, **settings, grad=True)
    assert found.requires_grad
    if way != "round_trip_error":  # it is 0, where a root mean square has no gradient
        weight = randn(4, 3, seed=3)
        got, want = (torch.autograd.grad((weight * y).sum(), x)[0] for y in (found, exact(x)))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


def _middle(model):
    low, high = SDE.at(1e-2), SDE.at(1.0)

    def middle(x):
        a, b = (model.flow(y, low, high) for y in (x, 2 * x))
        return model.flow(slerp(a, b, 0.5), high, low)

    return middle


def test_a_latent_of_norm_0_is_interpolated_linearly() -> None:
    a, b = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([[3.0, -1.0]]).double()
    torch.testing.assert_close(slerp(a, b, 0.25), 0.25 * b)
    torch.testing.assert_close(slerp(b, a, 0.25), 0.75 * b)
    # The centre of a Gaussian has the latent 0, and the flow from it is linear.
    model = Gaussian(SDE, torch.zeros(2).double(), Covariance.isotropic(0.3))
    both = interpolate(model, torch.cat([a, b]), torch.cat([b, b]), 3, solver=TIGHT)
    torch.testing.assert_close(both[0], torch.cat([a, 0.5 * b, b]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(both[1], b.expand(3, 2), rtol=1e-6, atol=1e-6)


def test_conditions_follow_their_pair() -> None:
    def net(x, t, y):
        return x - y[:, None]  # a flow that leads to y

    model = ScoreModel(net, SDE, time="t").bind(y=torch.tensor([2.0, -3.0]).double())
    a, b = randn(2, 2, 2)
    both = interpolate(model, a, b, 3)
    one = interpolate(model.rows(torch.tensor([1])), a[1:], b[1:], 3)
    torch.testing.assert_close(both[1:], one, rtol=1e-3, atol=1e-3)


def test_the_round_trip_error_is_the_solvers() -> None:
    """Of the size of the tolerance, and that between x and what was decoded."""
    model = gaussian(SDE, 4)
    x = model.sample(6, 1e-3, seed=2)
    errors = {}
    for tol in (1e-3, 1e-6):
        solver = ProbabilityFlow(TorchDiffEq(rtol=tol, atol=tol))
        got = round_trip_error(model, x, solver=solver)
        back = decode(model, encode(model, x, solver=solver), solver=solver)
        torch.testing.assert_close(got, (back - x).square().mean(1).sqrt())
        errors[tol] = float(got.max())
    assert 1e-9 < errors[1e-6] < 1e-4
    assert errors[1e-6] < 0.05 * errors[1e-3]


def test_what_cannot_be_interpolated_says_why() -> None:
    model = gaussian(SDE, 2)
    with pytest.raises(ShapeError, match="2 or more, got 1"):
        interpolate(model, randn(1, 2), randn(1, 2), 1)
    with pytest.raises(ShapeError, match="one shape"):
        interpolate(model, randn(1, 2), randn(2, 2), 3)
    with pytest.raises(ShapeError, match="one shape"):
        slerp(randn(1, 2), randn(2, 2), 0.5)


@pytest.mark.parametrize("follow", [encode, decode, round_trip_error])
def test_the_door_of_both_directions(follow) -> None:
    model, x = gaussian(SDE, 2), randn(3, 2)
    with pytest.raises(DtypeError, match=r"write torch\.as_tensor\(x\)"):
        follow(model, np.zeros((3, 2)))
    with pytest.raises(ShapeError, match=r"\(B, \*\)"):
        follow(model, torch.tensor(1.0))
    for solver in (Heun(), "heun"):
        with pytest.raises(ConfigError, match=r"runs both ways .*, got Heun; write solver=Prob"):
            follow(model, x, solver=solver)
    with pytest.raises(ConfigError, match=r"write ProbabilityFlow\(\)"):
        follow(model, x, solver=ProbabilityFlow)
    with pytest.raises(ConfigError, match="wrap a network first"):
        follow(torch.nn.Linear(2, 2), x)
