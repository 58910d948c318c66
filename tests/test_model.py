"""Wrapping a network: time conventions, dtype, conditions, and what goes wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import CONTINUOUS, DISCRETE, PROCESSES, gaussian, mixture, randn

from scoresde import (
    EDMSDE,
    VPSDE,
    DiscreteVPSDE,
    FlowSDE,
    IndexTime,
    Predictor,
    ScaledTime,
    ScoreModel,
    Shared,
    linear_betas,
)
from scoresde.errors import ConfigError, DtypeError, ShapeError, ZeroSNRError
from scoresde.prediction import PredictsFlow, parametrization
from scoresde.time_input import from_dict, time_input, to_dict


class Recorder(torch.nn.Module):
    """A network that remembers what it was given and returns a multiple of its input."""

    def __init__(self, dtype: torch.dtype | None = None):
        super().__init__()
        self.seen: list[dict] = []
        if dtype is not None:
            self.weight = torch.nn.Parameter(torch.ones((), dtype=dtype))

    def forward(self, x, time, **conditions):
        self.seen.append({"x": x, "time": time, **conditions})
        return 0.5 * x


def _told(sde, time, knot):
    net = Recorder()
    ScoreModel(net, sde, time=time)(randn(2, 3), knot)
    return net.seen[0]["time"]


@pytest.mark.parametrize(
    ("sde", "time", "t", "told"),
    [
        (VPSDE(), "t", 0.25, 0.25),
        (VPSDE(), ScaledTime(999), 0.25, 249.75),
        (VPSDE(), "index", 0.25, 250),
        (VPSDE(), IndexTime(1000), 1.0, 999),
        (VPSDE(), IndexTime(10), 0.49, 4),
        (VPSDE(), lambda knot: 2 * knot.t, 0.25, 0.5),
        (EDMSDE(), "sigma", 7.5, 7.5),
        (EDMSDE(), "log_sigma", 7.5, np.log(7.5)),
        (EDMSDE(), "c_noise", 7.5, np.log(7.5) / 4),
        (EDMSDE(), None, 7.5, np.log(7.5) / 4),
        (EDMSDE(), "rho", 7.5, 7.5),
        (FlowSDE(), None, 0.25, 0.25),
        (FlowSDE(), "rho", 0.25, 1 / 3),
        (FlowSDE(), "lambda", 0.25, np.log(3)),
        (FlowSDE(), "angle", 0.25, np.arctan(1 / 3)),
        (FlowSDE(), ScaledTime(1000), 0.25, 250.0),
        (DISCRETE["linear table"], None, 17.3, 17.3),
        (DISCRETE["linear table"], "index", 17.3, 17),
        (DISCRETE["linear table"], IndexTime(1000, 999.0), 17.6, 18),
    ],
)
def test_the_network_is_told_the_time_as_it_expects(sde, time, t, told):
    from_float = _told(sde, time, sde.at(t))
    assert from_float.shape == (2,)
    np.testing.assert_allclose(from_float.numpy(), [told, told], rtol=1e-12)
    assert (from_float.dtype == torch.long) == isinstance(told, int)
    each = sde.at(torch.full((2,), t, dtype=torch.float64), like=randn(2, 3))
    from_tensor = _told(sde, time, each)
    assert from_tensor.dtype == from_float.dtype
    np.testing.assert_allclose(from_tensor.numpy(), [told, told], rtol=1e-12)


def test_each_sample_is_told_its_own_time():
    net, sde = Recorder(), VPSDE()
    x = randn(3, 2, 3)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    ScoreModel(net, sde, time=ScaledTime(999))(x, sde.at(t, like=x))
    np.testing.assert_allclose(net.seen[0]["time"].numpy(), 999 * t.numpy())


@pytest.mark.parametrize(
    "time", [ScaledTime(999.0), ScaledTime(0.25, "log_rho"), IndexTime(1000, 999.0)]
)
def test_time_conventions_can_be_written_down(time):
    assert from_dict(to_dict(time)) == time
    assert hash(from_dict(to_dict(time))) == hash(time)


def test_a_silent_mistake_about_time_is_impossible():
    for sde in (VPSDE(), CONTINUOUS["subvp"], CONTINUOUS["ve"], CONTINUOUS["cosine"]):
        with pytest.raises(ConfigError, match=r"ScaledTime\(999\)"):
            ScoreModel(Recorder(), sde)


def test_a_table_is_told_its_index_and_not_999_of_it():
    sde = DiscreteVPSDE.from_betas(linear_betas())
    with pytest.raises(ConfigError, match=r"up to 998001; write time='t'"):
        ScoreModel(Recorder(), sde, time=ScaledTime(999))
    recorder = Recorder()
    ScoreModel(recorder, sde, time=ScaledTime(0.001))(randn(2, 3), sde.at(500.0))
    assert float(recorder.seen[0]["time"][0]) == 0.5


@pytest.mark.parametrize("state", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("net", [torch.float32, torch.float16, torch.bfloat16])
def test_the_network_runs_in_its_own_dtype_and_the_state_keeps_its(state, net):
    recorder = Recorder(net)
    x = randn(2, 3, dtype=state)
    out = ScoreModel(recorder, VPSDE(), time="t")(x, VPSDE().at(0.5))
    assert recorder.seen[0]["x"].dtype == net
    assert recorder.seen[0]["time"].dtype == torch.float32  # never less: 999 t needs 10 bits
    assert {view.dtype for view in (out.eps, out.x0, out.score, out.v)} == {state}
    coarse = max(torch.finfo(state).eps, torch.finfo(net).eps)
    torch.testing.assert_close(out.eps, 0.5 * x, rtol=2 * coarse, atol=0)
    told = ScoreModel(Recorder(), VPSDE(), time="t", net_dtype=torch.float64)
    told(x, VPSDE().at(0.5))
    assert told.net.seen[0]["x"].dtype == torch.float64
    bare = ScoreModel(Recorder(), VPSDE(), time="t")
    bare(x, VPSDE().at(0.5))
    assert bare.net.seen[0]["x"].dtype == state


@pytest.mark.parametrize("name", ["eps", "x0", "score", "v", "F", "flow"])
@pytest.mark.parametrize("process", PROCESSES)
def test_a_perfect_network_of_any_kind_gives_the_exact_score(name, process):
    sde = PROCESSES[process]
    row, truth = parametrization(name, sde), gaussian(sde, 3)
    for share in (0.05, 0.5, 0.95):
        knot = sde.at(sde.t_min + share * (sde.t_max - sde.t_min))

        def net(inputs, time, knot=knot):
            x = inputs / float(row.input_scale(knot))
            exact = truth(x, knot)
            return row.target(exact.x0, exact.eps, knot)

        x = randn(4, 3) * knot.radius
        prediction = ScoreModel(net, sde, predicts=name, time="t")(x, knot)
        exact = truth(x, knot)
        for view in ("eps", "x0", "v"):
            torch.testing.assert_close(
                getattr(prediction, view), getattr(exact, view), rtol=1e-9, atol=1e-9
            )
        score = ScoreModel(net, sde, predicts=name, time="t").score(x, knot.t)
        torch.testing.assert_close(score, truth.score(x, knot.t), rtol=1e-8, atol=1e-9)


def test_the_score_is_differentiable():
    sde = VPSDE()
    model = ScoreModel(lambda x, t: x**2, sde, time="t")
    x = randn(2, 3).requires_grad_()
    knot = sde.at(0.5)
    (grad,) = torch.autograd.grad(model.score(x, 0.5).sum(), x)
    torch.testing.assert_close(grad, -2 * x.detach() / knot.sigma)


@pytest.mark.parametrize("event", [(), (5,), (3, 7), (1, 5, 3), (2, 3, 5, 7), (1, 2, 3, 2, 3)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_event_shape_and_batch(event, batch):
    """Coefficients of each sample's own time meet its coordinates, however many axes it has."""
    sde, x = VPSDE(), randn(batch, *event)
    model = ScoreModel(Recorder(), sde, time="t")
    knot = sde.at(0.5)
    x0 = (1 - 0.5 * knot.sigma) / knot.alpha * x
    torch.testing.assert_close(model(x, knot).x0, x0, rtol=1e-12, atol=1e-12)
    times = torch.linspace(0.2, 0.9, batch)
    want = [-0.5 / sde.at(float(t)).sigma * row for t, row in zip(times, x, strict=True)]
    got = model.score(x, times)
    assert got.shape == x.shape
    torch.testing.assert_close(list(got), want, rtol=1e-12, atol=1e-12)


# -- conditions ---------------------------------------------------------------------------------


def test_conditions_follow_their_rows():
    net = Recorder()
    table = torch.arange(12.0).reshape(4, 3)
    model = ScoreModel(net, VPSDE(), time="t").bind(
        y=torch.tensor([10, 11, 12]), z=np.array([0.0, 1.0, 2.0]), table=Shared(table), mode="a"
    )
    knot = VPSDE().at(0.5)
    model(randn(3, 2), knot)
    assert net.seen[-1]["y"].tolist() == [10, 11, 12]
    order = torch.tensor([2, 0, 0, 1])
    model.rows(order)(randn(4, 2), knot)
    assert net.seen[-1]["y"].tolist() == [12, 10, 10, 11]
    assert net.seen[-1]["z"].tolist() == [2.0, 0.0, 0.0, 1.0]
    assert net.seen[-1]["table"] is table
    assert net.seen[-1]["mode"] == "a"
    model.rows(order).rows(torch.tensor([1]))(randn(1, 2), knot)
    assert net.seen[-1]["y"].tolist() == [10]
    model(randn(3, 2), knot)  # the model itself is untouched
    assert net.seen[-1]["y"].tolist() == [10, 11, 12]


def test_binding_adds_and_replaces():
    net = Recorder()
    first = ScoreModel(net, VPSDE(), time="t").bind(a=1, b=2)
    first.bind(b=3, c=4)(randn(1, 2), VPSDE().at(0.5))
    assert {k: net.seen[-1][k] for k in "abc"} == {"a": 1, "b": 3, "c": 4}
    assert first.conditions == {"a": 1, "b": 2}


def test_binding_leaves_the_network_in_its_mode():
    """A network set to eval() before or after wrapping must not wake up its dropout."""
    net = torch.nn.Sequential(torch.nn.Dropout(0.5)).eval()
    model = ScoreModel(lambda x, t, y: net(x), VPSDE(), time="t")
    wrapped = ScoreModel(net, VPSDE(), time="t", output=lambda out: out)
    for bound in (model.bind(y=1), wrapped.bind(y=torch.arange(2))):
        bound.rows(torch.tensor([0]))
        assert not net.training
        assert not net[0].training
    wrapped.eval()
    assert not wrapped.bind(y=1).training
    wrapped.train()
    assert wrapped.bind(y=1).training
    assert net.training


def test_no_conditions_no_copy():
    model = ScoreModel(Recorder(), VPSDE(), time="t")
    assert model.rows(torch.tensor([0])) is model


def test_both_kinds_of_model_are_predictors():
    sde = VPSDE()
    assert isinstance(ScoreModel(Recorder(), sde, time="t"), Predictor)
    assert isinstance(gaussian(sde), Predictor)
    assert isinstance(mixture(sde), Predictor)
    assert not isinstance(Recorder(), Predictor)  # a network without its process


def test_the_commonest_case_of_all():
    betas = linear_betas(1000)
    net = Recorder()
    model = ScoreModel.from_betas(net, betas)
    assert model.sde == DiscreteVPSDE.from_betas(betas)
    out = model(randn(2, 3), model.sde.at(500.0))
    assert net.seen[0]["time"].tolist() == [500.0, 500.0]
    alpha_bar = float(np.prod(1 - betas[:501]))
    torch.testing.assert_close(out.score, -out.eps / (1 - alpha_bar) ** 0.5)
    torch.testing.assert_close(out.eps, 0.5 * randn(2, 3))


def test_an_object_with_a_sample_is_read():
    net = lambda x, t: SimpleNamespace(sample=2 * x)  # noqa: E731
    x = randn(2, 3)
    model = ScoreModel(net, VPSDE(), time="t")
    assert torch.equal(model(x, VPSDE().at(0.5)).eps, 2 * x)
    both = ScoreModel(
        lambda x, t: torch.cat([x, x], 1), VPSDE(), time="t", output=lambda out: out[:, :3]
    )
    assert torch.equal(both(x, VPSDE().at(0.5)).eps, x)


# -- bad input ---------------------------------------------------------------------------------

KNOT = VPSDE().at(0.5)


def _wrap(net, **settings):
    return ScoreModel(net, settings.pop("sde", VPSDE()), time=settings.pop("time", "t"), **settings)


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda: _wrap("unet"), ConfigError, "callable as net(x, time)"),
        (lambda: _wrap(Recorder), ConfigError, "write Recorder(...)"),
        (lambda: ScoreModel(Recorder(), VPSDE), ConfigError, "write VPSDE(...)"),
        (lambda: ScoreModel(Recorder(), "VP"), ConfigError, "must be an SDE, got 'VP'"),
        (lambda: _wrap(Recorder(), predicts="noise"), ConfigError, "write predicts='eps'"),
        (lambda: _wrap(Recorder(), time="timestep"), ConfigError, "unknown time convention"),
        (lambda: _wrap(Recorder(), time=3), ConfigError, "function of a Knot"),
        (lambda: ScaledTime(1.0, "tt"), ConfigError, "did you mean 't'"),
        (lambda: to_dict(lambda k: k.t), ConfigError, "no JSON form"),
        (lambda: from_dict({"times": 3}), ConfigError, "unknown time convention"),
        (
            lambda: _wrap(Recorder(), predicts=PredictsFlow(EDMSDE())),
            ConfigError,
            "write predicts='flow'",
        ),
        (lambda: _wrap(Recorder())(randn(2, 3), 0.5), DtypeError, "sde.at(t, like=x)"),
        (
            lambda: _wrap(Recorder())(torch.ones(2, 3, dtype=torch.int64), KNOT),
            DtypeError,
            ".float()",
        ),
        (lambda: _wrap(lambda x, t: x[:1])(randn(2, 3), KNOT), ShapeError, "(1, 3)"),
        (lambda: _wrap(lambda x, t: x[:, :, None])(randn(2, 3), KNOT), ShapeError, "output=lambda"),
        (lambda: _wrap(lambda x, t: (x, x))(randn(2, 3), KNOT), DtypeError, "returned tuple"),
        (lambda: _wrap(lambda x, t: x.numpy())(randn(2, 3), KNOT), DtypeError, "ndarray"),
        (
            lambda: _wrap(lambda x, t, y: x).bind(y=torch.arange(3))(randn(2, 3), KNOT),
            ShapeError,
            "bind(y=Shared(...))",
        ),
        (
            lambda: _wrap(lambda x, t, y: x).bind(y=torch.tensor(1.0))(randn(2, 3), KNOT),
            ShapeError,
            "one row per sample",
        ),
        (
            lambda: _wrap(Recorder(), sde=FlowSDE())(randn(2, 3), FlowSDE().at(1.0)),
            ZeroSNRError,
            "the largest one with alpha > 0",
        ),
        (lambda: _wrap(Recorder()).score(randn(2, 3), torch.rand(3)), ShapeError, "shape (2,)"),
    ],
)
def test_bad_input_is_explained(act, error, says):
    with pytest.raises(error) as caught:
        act()
    assert says in str(caught.value)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ConfigError, match="c_noise"):
        time_input("c-noise", VPSDE())


@pytest.mark.parametrize(
    "net", [torch.nn.Linear(2, 2), torch.nn.Conv1d(1, 1, 1)], ids=["linear", "conv"]
)
def test_a_function_that_hides_its_dtype_says_what_to_write(net):
    shape = (3, 2) if isinstance(net, torch.nn.Linear) else (3, 1, 2)
    x = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(DtypeError, match=r"write ScoreModel\(\.\.\., net_dtype=torch\.float32"):
        ScoreModel(lambda x, t: net(x), VPSDE(), time="t").score(x, 0.5)
    for known in (
        ScoreModel(lambda x, t: net(x), VPSDE(), time="t", net_dtype=torch.float32),
        ScoreModel(lambda x, t: net(x.float()), VPSDE(), time="t"),
    ):
        want = -net(x.float()).double() / VPSDE().at(0.5).sigma
        torch.testing.assert_close(known.score(x, 0.5), want, rtol=1e-12, atol=0)


def test_what_a_network_was_given_is_noted_in_its_own_error():
    model = ScoreModel(torch.nn.Linear(2, 2), VPSDE(), time="t")
    model.net.forward = lambda x, t: torch.nn.functional.linear(x, model.net.weight)
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        model.score(torch.zeros(4, 3), 0.5)
    (note,) = caught.value.__notes__
    assert "x of shape (4, 3), torch.float32, and time of shape (4,), torch.float32." in note
    unpacks = ScoreModel(lambda x, t: x.shape[3] * x, VPSDE(), time="t")
    with pytest.raises(IndexError) as caught:
        unpacks.score(torch.zeros(4, 3), 0.5)
    assert "x of shape (4, 3)" in caught.value.__notes__[0]
