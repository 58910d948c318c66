"""Networks that spoil what they are given or what they returned, or hide what they compute in.

Each must give what the same network gives when it is well-behaved.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import gaussian, randn
from test_every_solver import SOLVERS
from torch import nn

from scoresde import (
    DDIM,
    EDMSDE,
    VPSDE,
    Heun,
    PredictsF,
    ScaledTime,
    ScoreModel,
    bits_per_dim,
    iterate,
    log_likelihood,
    sample,
    uniform_lambda,
)
from scoresde.errors import DtypeError
from scoresde.likelihood import Exact, FixedGrid, Pixels
from scoresde.training.losses import score_matching_loss

SDE = VPSDE()


def _named(solver):
    """Cheap settings for solvers with steps of their own."""
    slow = type(solver).__name__ == "TorchSDE"
    return dataclasses.replace(solver, method="euler") if slow else solver


def _eps(x, time, y):
    return torch.tanh(0.7 * x + 0.1 * time[:, None]) * y[:, None]


def clean(x, time, y):
    return _eps(x, time, y)


def in_place(x, time, y):
    """Writes into its state, its time and its condition."""
    out = x.mul_(0.7).add_(time.mul_(0.1)[:, None]).tanh_() * y[:, None].clone()
    time.fill_(7.0)
    y.fill_(-3.0)
    return out


class SameBuffers:
    """Returns one buffer for each shape, as replayed graphs do."""

    def __init__(self):
        self.out = {}

    def __call__(self, x, time, y):
        buffer = self.out.setdefault((x.shape, x.dtype), torch.empty_like(x))
        buffer.requires_grad_(False)
        return buffer.copy_(_eps(x, time, y).detach())


def _model(net):
    return ScoreModel(net, SDE, time="t").bind(y=torch.tensor([1.0, 0.5, 0.8], dtype=torch.float64))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("spoil", [in_place, SameBuffers()], ids=["in place", "same buffer"])
def test_every_solver_gets_what_a_clean_network_gives(solver, spoil):
    solver, grid, x = _named(solver), uniform_lambda(SDE, 6), randn(3, 2)
    given, model = x.clone(), _model(spoil)
    found = sample(model, solver, grid, x=given, seeds=[1, 2, 3]).x
    want = sample(_model(clean), solver, grid, x=x, seeds=[1, 2, 3]).x
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
    assert torch.equal(given, x)
    assert model.conditions["y"].tolist() == [1.0, 0.5, 0.8]


def test_times_of_each_sample_are_not_changed():
    knot = SDE.at(torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64), like=randn(3, 2))
    before = knot.t.clone()
    model = ScoreModel(in_place, SDE, time=lambda knot: knot.t).bind(y=torch.ones(3))
    model(randn(3, 2), knot)
    assert torch.equal(knot.t, before)


def test_gradients_pass_through_the_copies():
    x = randn(3, 2).requires_grad_()
    found = torch.autograd.grad(_model(in_place).score(x, 0.5).sum(), x)[0]
    want = torch.autograd.grad(_model(clean).score(x, 0.5).sum(), x)[0]
    torch.testing.assert_close(found, want)


def test_likelihoods_of_a_network_that_writes_into_its_input():
    x = randn(3, 2)
    rule = {"method": FixedGrid(21), "divergence": Exact()}
    found = log_likelihood(_model(in_place), x, **rule).nats
    torch.testing.assert_close(found, log_likelihood(_model(clean), x, **rule).nats)


def test_a_compiled_run_keeps_the_copies():
    grid, x = uniform_lambda(SDE, 3, t_max=0.7), randn(3, 2)
    model, solver = _model(in_place), DDIM()
    given = x.clone()

    @torch.no_grad()
    def run(x):
        *_, info = iterate(model, solver, grid, x=x)
        return info.x

    out = torch.compile(run, fullgraph=True, backend="aot_eager")(given)
    torch.testing.assert_close(out, sample(_model(clean), DDIM(), grid, x=x).x)
    assert torch.equal(given, x)


# -- dtypes ---------------------------------------------------------------------------------------


class Stored(nn.Module):
    """The exact eps of a Gaussian, with weights stored as integers or 8-bit floats beside others.

    The weight is 0.5 in every form; it multiplies and divides, so that the values are exact.
    """

    def __init__(self, *kinds, truth):
        super().__init__()
        self.truth, self.seen = truth, []
        for k, kind in enumerate(kinds):
            value = torch.tensor([2.0]).to(kind)
            if kind.is_floating_point and kind.itemsize > 1:
                setattr(self, f"w{k}", nn.Parameter(value))
            elif kind.is_floating_point:
                setattr(self, f"w{k}", nn.Parameter(value, requires_grad=False))
            else:
                self.register_parameter(f"w{k}", nn.Parameter(value, requires_grad=False))

    def forward(self, x, time):
        self.seen.append(x.dtype)
        return self.truth(x, SDE.at(time.double(), like=x)).eps.to(x.dtype)


TRUTH = gaussian(SDE, 2)


@pytest.mark.parametrize(
    ("kinds", "runs"),
    [
        ((torch.int8,), torch.float64),  # the state's own
        ((torch.uint8, torch.float8_e4m3fn), torch.float64),
        ((torch.float8_e5m2, torch.bfloat16), torch.bfloat16),
        ((torch.int8, torch.float32), torch.float32),
        ((torch.int64, torch.float8_e4m3fn, torch.float16, torch.float32), torch.float16),
    ],
)
def test_stored_weights_do_not_decide_the_dtype(kinds, runs):
    net = Stored(*kinds, truth=TRUTH)
    model = ScoreModel(net, SDE, time="t")
    x = randn(5, 2)
    eps = model(x, SDE.at(0.5)).eps
    assert net.seen == [runs]
    limit = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 3e-3}.get(runs, 3e-2)
    torch.testing.assert_close(eps, TRUTH(x, SDE.at(0.5)).eps, rtol=limit, atol=limit)


def test_samples_likelihoods_and_losses_of_int8_weights_are_those_of_the_exact_model():
    model = ScoreModel(Stored(torch.int8, torch.float8_e4m3fn, truth=TRUTH), SDE, time="t")
    grid, x = uniform_lambda(SDE, 8), randn(4, 2)
    torch.testing.assert_close(
        sample(model, Heun(), grid, x=x).x, sample(TRUTH, Heun(), grid, x=x).x
    )
    rule = {"method": FixedGrid(21), "divergence": Exact()}
    torch.testing.assert_close(
        log_likelihood(model, x, **rule).nats, log_likelihood(TRUTH, x, **rule).nats
    )
    losses = [
        score_matching_loss(m, x, generator=torch.Generator().manual_seed(0))
        for m in (model, TRUTH)
    ]
    torch.testing.assert_close(*losses)
    images, pixels = torch.tensor([[3, 200], [90, 17]]), Pixels(256)
    found, want = (
        bits_per_dim(m, images, pixels=pixels, method=FixedGrid(21)).mean for m in (model, TRUTH)
    )
    assert found == pytest.approx(want, rel=1e-9)


def test_a_scale_in_a_buffer_decides_where_no_parameter_does():
    net = Stored(torch.int8, truth=TRUTH)
    net.register_buffer("scale", torch.ones(1, dtype=torch.float16))
    model = ScoreModel(net, SDE, time="t")
    assert model.dtype == torch.float16
    assert model.device == torch.device("cpu")


def test_the_device_is_that_of_integer_weights_too():
    net = Stored(torch.int8, truth=TRUTH).to("meta")
    assert ScoreModel(net, SDE, time="t").device == torch.device("meta")


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, "float32"])
def test_a_dtype_in_which_nothing_computes_is_refused(kind):
    with pytest.raises(DtypeError, match=r"net_dtype=torch\.float32"):
        ScoreModel(clean, SDE, time="t", net_dtype=kind)


def test_an_input_that_is_scaled_by_one_is_a_copy_too():
    def net(x, sigma):
        return x.zero_()

    x = randn(2, 3)
    kept = x.clone()
    unit = ScoreModel(net, EDMSDE(), predicts=PredictsF(0.6))
    unit(x, EDMSDE().at(0.8))  # alpha sqrt(0.8^2 + 0.6^2) = 1
    ScoreModel(net, SDE, time=ScaledTime(999))(x, SDE.at(0.5))
    assert torch.equal(x, kept)
