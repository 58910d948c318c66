"""`check_model` names planted mistakes on trained networks, and finds nothing in right ones."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    Covariance,
    DiscreteVPSDE,
    FlowSDE,
    GaussianMixture,
    ScaledTime,
    ScoreModel,
    Shared,
    SubVPSDE,
    cosine_betas,
    linear_betas,
    load_pretrained,
)
from scoresde.cli import checking
from scoresde.diagnose import check_model
from scoresde.diagnose.off_by_one import lowest_point
from scoresde.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from scoresde.training.checkpoint import load_model
from scoresde.training.data import dequantize, heldout_digits, swiss_roll, two_moons

ZOO = Path(__file__).parent.parent / "benchmarks" / "networks"


@cache
def network(name: str) -> ScoreModel:
    if name in ("mnist", "swiss_roll"):
        return load_pretrained(name)
    path = ZOO / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"the zoo has no network {name}")
    return load_model(path).model


@cache
def data_of(name: str) -> torch.Tensor:
    draw = torch.Generator().manual_seed(9)
    if name == "swiss_roll":
        return swiss_roll(2048, draw)
    if name.startswith("moons"):
        return two_moons(2048, draw)
    digits = dequantize(heldout_digits()[0][:64], draw)
    return (digits + 1) / 2 if name == "mnist_score_ve" else digits


def wrapped(model: ScoreModel, **changes) -> ScoreModel:
    """The network of a model, wrapped with something changed."""
    usual = {"predicts": model.predicts, "time": model.time, "output": model.output}
    return ScoreModel(model.net, changes.pop("sde", model.sde), **{**usual, **changes})


def negated(model: ScoreModel) -> ScoreModel:
    return wrapped(model, output=lambda out: -model.output(out))


def told(model: ScoreModel, change) -> ScoreModel:
    return wrapped(model, time=lambda knot: change(model.time(knot)))


def mistakes(model, data, levels=None) -> list[str]:
    return [finding.mistake for finding in check_model(model, data, levels=levels).findings]


FOUR = [0.02, 0.1, 0.4, 1.5]
"""Levels for images, where each costs seconds."""


# -- mistakes, planted ---------------------------------------------------------------------------

PLANTED = {
    "sign": (lambda m: negated(m), ["sign"]),
    "time x 4": (lambda m: told(m, lambda t: 4 * t), ["time scale"]),
    "time / 4": (lambda m: told(m, lambda t: t / 4), ["time scale"]),
    "time x 999": (lambda m: told(m, lambda t: 999 * t), ["time scale"]),
    "time / 1000": (lambda m: told(m, lambda t: t / 1000), ["time scale"]),
}


@pytest.mark.parametrize("planted", list(PLANTED))
def test_scale_and_sign_on_the_swiss_roll(planted):
    make, expected = PLANTED[planted]
    model = network("swiss_roll")
    assert mistakes(make(model), data_of("swiss_roll")) == expected


@pytest.mark.parametrize("predicts", ["x0", "score", "v", "flow", "F"])
def test_another_parametrization(predicts):
    found = check_model(wrapped(network("swiss_roll"), predicts=predicts), data_of("swiss_roll"))
    assert [f.mistake for f in found.findings] == ["parametrization"]
    assert 'predicts="eps"' in found.findings[0].write
    assert not found.ok


def test_sigma_told_in_place_of_its_logarithm():
    found = check_model(wrapped(network("swiss_roll"), time="rho"), data_of("swiss_roll"))
    assert [f.mistake for f in found.findings] == ["time quantity"]
    assert 'time="log_rho"' in found.findings[0].write


def test_another_range_of_the_data():
    found = check_model(network("swiss_roll"), (data_of("swiss_roll") + 1) / 2)
    assert [f.mistake for f in found.findings] == ["data range"]
    assert found.findings[0].write == "2 * data - 1 for data"


def test_another_process():
    found = check_model(wrapped(network("swiss_roll"), sde=SubVPSDE()), data_of("swiss_roll"))
    assert [f.mistake for f in found.findings] == ["process"]
    assert "VPSDE()" in found.findings[0].write


@pytest.mark.parametrize("name", ["mnist", "swiss_roll", "moons_eps_batchnorm", "mnist_flow"])
def test_right_networks_are_as_they_should_be(name):
    found = check_model(network(name), data_of(name), levels=FOUR if "mnist" in name else None)
    assert found.ok, str(found)
    found.raise_if_failed()
    best = min(level.loss / level.guess for level in found.levels)
    assert best < (0.2 if "mnist" in name else 0.9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "planted", "expected"),
    [
        ("mnist_eps_cosine", lambda m: told(m, lambda t: t + 1), "time off by one"),
        ("mnist_eps_cosine", lambda m: told(m, lambda t: t - 1), "time off by one"),
        ("mnist_eps_cosine", lambda m: told(m, lambda t: 999 - t), "time reversed"),
        ("mnist_flow", lambda m: told(m, lambda t: 1000 - t), "time reversed"),
        (
            "mnist_eps_cosine",
            lambda m: wrapped(m, sde=DiscreteVPSDE.from_betas(linear_betas(1000))),
            "process",
        ),
        (
            "mnist_score_ve",
            lambda m: wrapped(m, time=ScaledTime(100.0, "sigma")),
            "time quantity",
        ),
    ],
)
def test_mistakes_of_indices_and_processes(name, planted, expected):
    assert mistakes(planted(network(name)), data_of(name), FOUR) == [expected]


@pytest.mark.slow
def test_a_flow_turned_round_in_time_and_sign():
    turned = negated(told(network("mnist_flow"), lambda t: 1000 - t))
    assert sorted(mistakes(turned, data_of("mnist_flow"), FOUR)) == ["sign", "time reversed"]


def test_a_table_of_4000_steps_with_rescaled_times():
    # A network of 1000 indices serves the same diffusion cut into 4000: it is told a quarter.
    truth = toy(DiscreteVPSDE.from_betas(linear_betas(4000)))

    def net(x, quarter):
        return truth(x, truth.sde.at(4 * quarter, like=x)).eps

    data = truth.sample(1024)
    found = check_model(ScoreModel(net, truth.sde), data)
    assert [f.mistake for f in found.findings] == ["time scale"]
    assert "ScaledTime(0.25)" in found.findings[0].write
    assert check_model(ScoreModel(net, truth.sde, time=ScaledTime(0.25)), data).ok


# -- networks that are exact: nothing is found in any convention -------------------------------


def toy(sde) -> GaussianMixture:
    means = torch.tensor([[1.0, 0.0], [-1.0, 0.5]])
    return GaussianMixture(sde, means, Covariance.isotropic(0.05))


@pytest.mark.parametrize(
    ("sde", "predicts", "time"),
    [
        (VPSDE(), "eps", ScaledTime(999)),
        (VESDE(), "score", "sigma"),
        (EDMSDE(), "F", "c_noise"),
        (FlowSDE(), "flow", "t"),
        (DiscreteVPSDE.from_betas(cosine_betas(1000)), "v", "t"),
    ],
)
def test_exact_networks_are_right_and_the_other_time_is_named(sde, predicts, time):
    truth, shape = toy(sde), ScoreModel(lambda x, t: x, sde, predicts=predicts, time=time)
    known = torch.tensor([float(shape.time(sde.at(t))) for t in times_of(sde)])

    def net(x, told_time):
        # The level whose told time is nearest: exact enough for a loss, and defined for any time.
        place = (known - told_time[0].double()).abs().argmin()
        knot = sde.at(times_of(sde)[int(place)])
        scale = shape.predicts.input_scale(knot)
        said = truth(x / scale, knot)
        return shape.predicts.target(said.x0, said.eps, knot)

    data = truth.sample(1024).float()
    model = ScoreModel(net, sde, predicts=predicts, time=time)
    assert check_model(model, data).ok
    assert mistakes(negated(model), data) == ["sign"]


@cache
def times_of(sde) -> list[float]:
    low = max(sde.t_min, 1e-4 * sde.t_max)
    return [low * (0.999 * sde.t_max / low) ** (k / 4000) for k in range(4001)]


# -- behaviour -----------------------------------------------------------------------------------


class Small(nn.Module):
    """The swiss-roll network with something added to its answers."""

    def __init__(self, extra):
        super().__init__()
        self.inner, self.extra = network("swiss_roll").net, extra
        self.inner.eval()

    def forward(self, x, time, **conditions):
        return self.inner(x, time) + self.extra(x, **conditions)


def small(extra, **conditions) -> ScoreModel:
    model = network("swiss_roll")
    net = Small(extra).eval()
    return ScoreModel(net, model.sde, time=model.time).bind(**conditions)


def test_rows_that_depend_on_their_neighbours():
    found = check_model(small(lambda x: 0.01 * x.mean(0)), data_of("swiss_roll"))
    assert [f.mistake for f in found.findings] == ["neighbours"]


def test_a_network_in_training_mode_is_left_as_it_was():
    model = network("moons_eps_batchnorm")
    model.net.train()
    try:
        before = {k: v.clone() for k, v in model.state_dict().items()}
        state = torch.get_rng_state()
        assert mistakes(model, data_of("moons_eps_batchnorm")) == ["training mode"]
        assert all(module.training for module in model.net.modules())
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
    finally:
        model.eval()


def test_a_random_network():
    noisy = small(lambda x: 0.1 * torch.nn.functional.dropout(x, 0.5, training=True))
    found = check_model(noisy, data_of("swiss_roll"))
    assert "random" in [f.mistake for f in found.findings]
    assert found.notes


def test_conditions_that_are_ignored_and_heard():
    n = len(data_of("swiss_roll"))
    labels = torch.arange(n) % 3
    heard = small(lambda x, y: 1e-3 * y[:, None], y=labels)
    assert check_model(heard, data_of("swiss_roll")).ok
    deaf = small(lambda x, y, text: 1e-3 * y[:, None], y=labels, text=Shared(torch.ones(5)))
    found = check_model(deaf, data_of("swiss_roll"))
    assert [f.mistake for f in found.findings] == ["condition"]
    assert "'text'" in found.findings[0].message


@pytest.mark.slow
def test_a_class_condition_of_a_trained_network():
    model = network("mnist_class_eps")
    labels = heldout_digits()[1][:64]
    assert check_model(model.bind(y=labels), data_of("mnist_class_eps"), levels=FOUR).ok


# -- numbers and bad input -----------------------------------------------------------------------


@pytest.mark.parametrize("true", [-1.0, 0.0, 0.4, 1.0])
def test_the_lowest_point_of_a_parabola(true):
    shifts = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], dtype=torch.float64)
    logs = 0.05 * (shifts - true) ** 2
    errors = logs.exp()[:, None, None].expand(5, 4, 32)
    place, below, above = lowest_point(errors)
    assert abs(place - true) < 1e-9
    assert abs(below - true) < 1e-9
    assert abs(above - true) < 1e-9


def test_losses_are_those_of_the_exact_model():
    # A Gaussian of variance c: the least squared error of eps is c / (c + rho^2), the guess's own.
    sde = VPSDE()
    truth = GaussianMixture(sde, torch.zeros(1, 3), Covariance.isotropic(0.25))
    found = check_model(truth, truth.sample(2048))
    assert found.ok
    assert "not a ScoreModel" in found.notes[0]
    for rho, loss, stderr, guess in found.levels:
        assert guess == pytest.approx(0.25 / (0.25 + rho**2), rel=0.05)
        assert abs(loss - guess) < 5 * stderr + 0.05 * guess


def test_a_network_that_knows_nothing_is_said_to():
    model = ScoreModel(lambda x, t: torch.zeros_like(x) + 7.0, VPSDE(), time="t")
    found = check_model(model, data_of("swiss_roll")[:64])
    assert [f.mistake for f in found.findings] == ["unknown"]
    with pytest.raises(ConfigError, match="known mistakes"):
        found.raise_if_failed()


def test_bad_input():
    model, data = network("swiss_roll"), data_of("swiss_roll")
    with pytest.raises(ConfigError, match="16 data"):
        check_model(model, data[:8])
    with pytest.raises(DtypeError, match=r"127\.5"):
        check_model(model, torch.zeros(64, 2, dtype=torch.uint8))
    with pytest.raises(NonFiniteError, match="NaN"):
        check_model(model, torch.full((64, 2), torch.nan))
    with pytest.raises(ConfigError, match="all the same"):
        check_model(model, torch.ones(64, 2))
    with pytest.raises(ConfigError, match="levels"):
        check_model(model, data, levels=[1.0, 1e9])
    with pytest.raises(ShapeError, match="rows"):
        check_model(model.bind(y=torch.zeros(8)), data)
    with pytest.raises(ConfigError, match="FourierMLP; wrap a network first"):
        check_model(model.net, data)


def test_the_command_prints_the_mistake(tmp_path, capsys):
    path = tmp_path / "points.npy"
    arguments = {"model": "swiss_roll", "data": str(path), "value_range": "", "seed": 0}
    np.save(path, data_of("swiss_roll").numpy())
    assert checking.check(**arguments, process="", device="cpu")
    np.save(path, (data_of("swiss_roll").numpy() + 1) / 2)
    assert not checking.check(**arguments, process="", device="cpu")
    assert "write 2 * data - 1 for data" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="leave --range out"):
        checking.check(**{**arguments, "value_range": "0,1"}, process="", device="cpu")
