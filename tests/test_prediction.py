"""Parametrizations: eps, x0, score and v from the output of a perfect network."""

from __future__ import annotations

import math

import pytest
import torch
from support import CONTINUOUS, PROCESSES, randn

from scoresde import EDMSDE, VPSDE, FlowSDE, Prediction, PredictsF, TrigonometricSDE
from scoresde.errors import ConfigError, ShapeError, ZeroSNRError
from scoresde.prediction import Parametrization, PredictsFlow, parametrization
from scoresde.scalar import derivative, exp

NAMES = ["eps", "x0", "score", "v", "F", "flow"]


def _knots(sde):
    shares = (0.0, 1e-3, 0.3, 0.9, 1.0 if not sde.at(sde.t_max).is_zero_snr else 0.999)
    return [sde.at(sde.t_min + share * (sde.t_max - sde.t_min)) for share in shares]


def _raw(name, x0, eps, knot, sde=None):
    """The definitions of the papers, written out."""
    alpha, sigma = knot.alpha, knot.sigma
    if name == "F":  # Karras et al. 2022, table 1, for x / alpha = x0 + rho eps
        rho, d = sigma / alpha, 0.5
        skip = d**2 / (rho**2 + d**2)
        out = rho * d / math.sqrt(rho**2 + d**2)
        return (x0 - skip * (x0 + rho * eps)) / out
    if name == "flow" and sde is not None:  # the path x0 alpha(t) + eps sigma(t), differentiated
        slopes = [
            derivative(lambda u, of=of: exp(of(u)), knot.t) for of in (sde.log_alpha, sde.log_sigma)
        ]
        return slopes[0] * x0 + slopes[1] * eps
    return {
        "eps": eps,
        "x0": x0,
        "score": -eps / sigma,
        "v": (alpha * eps - sigma * x0) / math.hypot(alpha, sigma),
        "flow": eps - x0,
    }[name]


def _room(name: str, knot, eps_machine: float, sde) -> tuple[float, float]:
    """Errors allowed in eps and x0: a few units of round-off times the inherent factor."""
    rho = knot.rho
    lose_eps = {"x0": 1 / rho}.get(name, 1.0)
    lose_x0 = {"eps": rho, "score": rho}.get(name, 1.0)
    if name == "F":
        lose_eps, lose_x0 = 2.0, 2.0
    if name == "flow":  # each is a difference of products of the state and of the velocity
        a, s = sde.rates(knot.t)
        det = knot.alpha * s - knot.sigma * a
        size, speed = knot.radius, math.hypot(a, s)
        lose_eps = (abs(a) * size + knot.alpha * speed) / det
        lose_x0 = (abs(s) * size + knot.sigma * speed) / det
    return 16 * eps_machine * (1 + lose_eps), 16 * eps_machine * (1 + lose_x0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("process", PROCESSES)
def test_round_trips_lose_no_more_than_they_must(process, name, dtype):
    sde = PROCESSES[process]
    row = parametrization(name, sde)
    unit = torch.finfo(dtype).eps
    x0, eps = randn(50, 3), randn(50, 3, seed=1)
    for knot in _knots(sde):
        exact = row.target(x0, eps, knot)
        # The paper's own form of F cancels at low noise.
        torch.testing.assert_close(exact, _raw(name, x0, eps, knot, sde), rtol=1e-9, atol=1e-9)
        x = (knot.alpha * x0 + knot.sigma * eps).to(dtype)
        prediction = Prediction(x, knot, exact.to(dtype), row)
        room_eps, room_x0 = _room(name, knot, unit, sde)
        biggest = 4.5  # of 150 standard normals
        for view, truth, room in (
            (prediction.eps, eps, room_eps),
            (prediction.x0, x0, room_x0),
            (prediction.score * knot.sigma, -eps, room_eps),
            (prediction.v, _raw("v", x0, eps, knot), room_eps + room_x0),
        ):
            assert view.dtype == dtype
            assert float((view.double() - truth).abs().max()) < room * biggest


@pytest.mark.parametrize("name", NAMES)
def test_views_with_one_time_a_sample(name):
    sde = CONTINUOUS["flow"] if name == "flow" else VPSDE()
    row, t = parametrization(name), torch.tensor([0.2, 0.7], dtype=torch.float64)
    x, raw = randn(2, 3, 2), randn(2, 3, 2, seed=1)
    together = Prediction(x, sde.at(t, like=x), raw, row)
    mixed = together.mix(t.reshape(2, 1, 1), 2.0)
    for i in range(2):
        knot = sde.at(float(t[i]))
        alone = Prediction(x[i : i + 1], knot, raw[i : i + 1], row)
        for view in ("eps", "x0", "score", "v"):
            torch.testing.assert_close(getattr(together, view)[i], getattr(alone, view)[0])
        torch.testing.assert_close(mixed[i], float(t[i]) * alone.x0[0] + 2.0 * alone.eps[0])
        scale = torch.as_tensor(row.input_scale(sde.at(t, like=x))).expand(2, 1, 1)[i].item()
        assert scale == pytest.approx(float(row.input_scale(knot)))


def test_state_is_rebuilt_from_the_views():
    sde = CONTINUOUS["subvp"]
    t, s = sde.at(0.6), sde.at(0.2)
    x0, eps = randn(4, 3), randn(4, 3, seed=1)
    x = t.alpha * x0 + t.sigma * eps
    for name in ("eps", "x0", "score", "v", "F"):
        row = parametrization(name)
        prediction = Prediction(x, t, row.target(x0, eps, t), row)
        torch.testing.assert_close(prediction.at(t), x)
        torch.testing.assert_close(prediction.at(s), s.alpha * x0 + s.sigma * eps)
        torch.testing.assert_close(prediction.at(sde.clean), x0)
        torch.testing.assert_close(prediction.mix(0.3, -2.0), 0.3 * x0 - 2.0 * eps)


def test_v_is_the_velocity_against_the_angle():
    """x / r turns by v as the angle grows, with x0 and eps held."""
    sde = CONTINUOUS["subvp"]
    x0, eps, h = randn(4, 3), randn(4, 3, seed=1), 1e-6
    knots = [sde.at(0.4 + k * h) for k in (-1, 0, 1)]
    on_circle = [(k.alpha * x0 + k.sigma * eps) / k.radius for k in knots]
    slope = (on_circle[2] - on_circle[0]) / (knots[2].angle - knots[0].angle)
    torch.testing.assert_close(
        parametrization("v").target(x0, eps, knots[1]), slope, rtol=1e-7, atol=1e-8
    )


def test_input_of_edm_has_unit_variance():
    for data in (0.5, 2.0):
        for process in ("edm", "vp", "subvp"):
            sde = CONTINUOUS[process]
            for share in (0.01, 0.5, 1.0):
                knot = sde.at(share * sde.t_max)
                deviation = math.sqrt(knot.alpha**2 * data**2 + knot.sigma**2)
                assert PredictsF(data).input_scale(knot) == pytest.approx(1 / deviation)
    assert parametrization("eps").input_scale(CONTINUOUS["vp"].at(0.5)) == 1.0


@pytest.mark.parametrize("sde", [FlowSDE(), FlowSDE(0.2), TrigonometricSDE()], ids=repr)
def test_a_velocity_knows_the_data_where_there_is_no_signal(sde):
    end = sde.at(1.0)
    assert end.is_zero_snr
    row, x0, eps = parametrization("flow", sde), randn(2, 3), randn(2, 3, seed=1)
    near = sde.at(1.0 - 1e-6)
    moved = (near.alpha * x0 + near.sigma * eps - eps) / -1e-6  # the path, from its end
    torch.testing.assert_close(row.target(x0, eps, end), moved, rtol=0, atol=2e-5)
    said = Prediction(eps, end, row.target(x0, eps, end), row)
    torch.testing.assert_close(said.x0, x0)
    torch.testing.assert_close(said.eps, eps)


def test_a_velocity_without_a_finite_rate_is_told():
    table = PROCESSES["zero-SNR table"]
    with pytest.raises(ZeroSNRError, match=r"velocity of DiscreteVPSDE.*alpha = 0"):
        Prediction(randn(2, 3), table.at(table.t_max), randn(2, 3), parametrization("flow", table))


def test_velocities_that_have_names():
    x0, eps = randn(4, 3), randn(4, 3, seed=1)
    for sde, t, want in (
        (EDMSDE(), 3.0, eps),
        (FlowSDE(), 0.3, eps - x0),
        (FlowSDE(0.1), 0.3, 0.9 * eps - x0),
    ):
        found = parametrization("flow", sde).target(x0, eps, sde.at(t))
        torch.testing.assert_close(found, want)
    sde = TrigonometricSDE()
    knot = sde.at(0.3)
    v = parametrization("v").target(x0, eps, knot)
    torch.testing.assert_close(
        parametrization("flow", sde).target(x0, eps, knot), 0.5 * math.pi * v
    )


def test_without_signal_only_x0_v_and_flow_make_sense():
    end = FlowSDE().at(1.0)
    x, raw = randn(2, 3), randn(2, 3, seed=1)
    for name in ("eps", "score", "F"):
        with pytest.raises(ZeroSNRError, match="alpha = 0"):
            Prediction(x, end, raw, parametrization(name))
    for name, x0, eps in (("x0", raw, x), ("v", -raw, x), ("flow", x - raw, x)):
        prediction = Prediction(x, end, raw, parametrization(name))
        torch.testing.assert_close(prediction.x0, x0)
        torch.testing.assert_close(prediction.eps, eps)


def test_costs_and_replacement():
    knot, x = VPSDE().at(0.5), randn(2, 3)
    first = Prediction(x, knot, x, parametrization("eps"))
    assert first.cost == 1
    second = first.replace(2 * x, cost=2)
    assert (second.cost, second.knot, second.predicts) == (2, knot, first.predicts)
    assert torch.equal(second.eps, 2 * x)
    assert second.replace(x).cost == 2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("each", [False, True])
def test_any_view_may_be_set_whatever_the_network_predicts(name, each):
    """The one value and the state decide the others: x = alpha x0 + sigma eps."""
    sde = CONTINUOUS["flow"] if name == "flow" else CONTINUOUS["subvp"]
    x, raw, new = (randn(3, 2, seed=k) for k in range(3))
    t = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    knot = sde.at(t, like=x) if each else sde.at(0.4)
    alpha, sigma, r = knot.alpha, knot.sigma, knot.radius
    old = Prediction(x, knot, raw, parametrization(name), cost=2, share=raw)
    for view, made, x0, eps in (
        ("x0", old.with_x0(new), new, (x - alpha * new) / sigma),
        ("eps", old.with_eps(new, cost=5), (x - sigma * new) / alpha, new),
        ("score", old.with_score(new), (x + sigma**2 * new) / alpha, -sigma * new),
        (
            "v",
            old.with_v(new),
            (alpha * x - sigma * r * new) / r**2,
            (sigma * x + alpha * r * new) / r**2,
        ),
    ):
        assert torch.equal(getattr(made, view), new)
        close = {"rtol": 1e-11, "atol": 1e-11}
        torch.testing.assert_close(made.x0, x0, **close)
        torch.testing.assert_close(made.eps, eps, **close)
        torch.testing.assert_close(made.score, -eps / sigma, **close)
        torch.testing.assert_close(made.v, (alpha * eps - sigma * x0) / r, **close)
        torch.testing.assert_close(made.at(knot), x, **close)
        assert made.cost == (5 if view == "eps" else 2)
        assert (made.knot, made.share is raw) == (knot, True)


def test_a_value_that_is_set_has_the_shape_and_the_dtype_of_the_state():
    x = randn(3, 2, dtype=torch.float32)
    old = Prediction(x, VPSDE().at(0.5), x, parametrization("v"))
    assert old.with_x0(randn(3, 2)).eps.dtype == torch.float32
    with pytest.raises(ShapeError, match=r"state of shape \(3, 2\) got a value of shape \(1, 2\)"):
        old.with_x0(randn(1, 2))
    end = Prediction(x, FlowSDE().at(1.0), x, parametrization("flow"))
    assert torch.equal(end.with_x0(2 * x).x0, 2 * x)
    with pytest.raises(ZeroSNRError, match="alpha = 0"):
        end.with_eps(x)


def test_names():
    own = PredictsF(sigma_data=1.0)
    assert parametrization(own) is own
    assert isinstance(parametrization("flow"), PredictsFlow)
    assert all(isinstance(parametrization(name), Parametrization) for name in NAMES)
    with pytest.raises(ConfigError, match="did you mean 'eps'"):
        parametrization("epss")
    with pytest.raises(ConfigError, match="sigma_data must be positive"):
        PredictsF(sigma_data=0.0)
