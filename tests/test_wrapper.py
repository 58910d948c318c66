"""Inherited by every wrapper: parameters, device, event shape, rows, and the state of one run."""

from __future__ import annotations

import copy

import pytest
import torch
from support import gaussian, mixture, randn
from torch import nn

from scoresde import (
    CFG,
    DDIM,
    VPSDE,
    Exact,
    FixedGrid,
    FlowSDE,
    Heun,
    PerSample,
    Predrawn,
    ProbabilityFlow,
    ScoreDistribution,
    ScoreModel,
    TorchDiffEq,
    Wrapper,
    encode,
    iterate,
    log_likelihood,
    sample,
    uniform_lambda,
)
from scoresde._internal.checked import Checked
from scoresde._internal.counted import Counted
from scoresde._internal.fingerprint import fingerprint
from scoresde.errors import ConfigError, ShapeError
from scoresde.likelihood.density_flow import closed_form
from scoresde.model import device_of, dtype_of, event_shape_of, parameters_of
from scoresde.sampling.run import NonFiniteWarning
from scoresde.testing import Bimodal
from scoresde.wrapper import Observer

SDE = VPSDE()
GRID = uniform_lambda(SDE, 5)


class Net(nn.Module):
    """eps of N(0, scale^2) data, coordinate by coordinate, with the scale to be learned."""

    def __init__(self, scale=0.6, **kind):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale, **{"dtype": torch.float64, **kind}))

    def forward(self, x, t, y=None):
        knot = SDE.at(t, like=x)
        return knot.sigma * x / (knot.alpha**2 * self.scale**2 + knot.sigma**2)


def network(scale=0.6, **kind):
    return ScoreModel(Net(scale, **kind), SDE, time="t")


class Halved(Wrapper):
    """Half of the score."""

    def __call__(self, x, knot):
        prediction = self.model(x, knot)
        return prediction.with_score(0.5 * prediction.score)


class Product(Wrapper):
    """The sum of scores."""

    def __call__(self, x, knot):
        found = [model(x, knot) for model in self.models]
        return found[0].with_score(sum(p.score for p in found), cost=sum(p.cost for p in found))


class Heard(Observer):
    def __init__(self, model):
        super().__init__(model)
        self.heard = []

    def observe(self, prediction):
        self.heard.append(prediction)


class Offset(Wrapper):
    """A condition of the wrapper's own, one row a sample."""

    def __init__(self, model, by):
        super().__init__(model)
        self.by = by

    def __call__(self, x, knot):
        prediction = self.model(x, knot)
        return prediction.with_eps(prediction.eps + self.by)

    def rows(self, index):
        new = super().rows(index)
        new.by = self.by[index]
        return new


class First(Wrapper):
    """Answers with the eps of the run's first call ever after."""

    def __init__(self, model):
        super().__init__(model)
        self.memory = []

    def begin(self):
        new = super().begin()
        new.memory = []
        return new

    def __call__(self, x, knot):
        if not self.memory:
            self.memory.append(self.model(x, knot))
        return self.memory[0].with_eps(self.memory[0].eps)


# -- what a wrapper knows ------------------------------------------------------------------------


def test_several_models_are_one_predictor():
    a, b = gaussian(SDE, 2), mixture(SDE)
    both, x = Product(a, b), randn(4, 2)
    torch.testing.assert_close(both.score(x, 0.3), a.score(x, 0.3) + b.score(x, 0.3))
    assert both.sde == SDE
    assert both.event_shape == (2,)
    assert (both.device, both.dtype) == (torch.device("cpu"), torch.float64)
    assert sample(both, DDIM(), GRID, shape=(3, 2)).mean_nfe == 2 * 5


def test_parameters_of_all_models_and_modules_each_once():
    one, two = network(), network()
    product = Product(one, Halved(one), two)
    assert [id(p) for p in product.parameters()] == [id(m.net.scale) for m in (one, two)]
    guided = Halved(one)
    guided.classifier = {"inside": [nn.Linear(2, 3, bias=False)]}
    assert [p.numel() for p in guided.parameters()] == [1, 6]
    assert list(Halved(Bimodal(SDE)).parameters()) == []


def test_parameters_are_found_in_predictors_that_are_no_wrappers():
    class Plain:
        sde = SDE

        def __init__(self):
            self.inner = [network()]
            self.itself = self

        def __call__(self, x, knot):
            return self.inner[0](x, knot)

        def rows(self, index):
            return self

    plain = Plain()
    assert parameters_of(Counted(plain)) == (plain.inner[0].net.scale,)
    assert dtype_of(Counted(plain)) == torch.float64


def test_device_and_dtype_are_those_of_the_first_model_that_knows_them():
    hidden = ScoreModel(lambda x, t: x, SDE, time="t")
    assert (hidden.device, hidden.dtype) == (None, None)
    assert (device_of(hidden), dtype_of(hidden)) == (torch.device("cpu"), torch.float32)
    far = network(device="meta", dtype=torch.float16)
    product = Product(Halved(hidden), Counted(far), network())
    assert device_of(product) == torch.device("meta")
    assert dtype_of(product) == torch.float16
    told = ScoreModel(Net(), SDE, time="t", net_dtype=torch.bfloat16)
    assert dtype_of(Checked(told)) == torch.bfloat16
    assert event_shape_of(Halved(hidden)) is None


def test_device_of_a_network_that_has_only_buffers():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("rows", torch.zeros(2, device="meta"))

    assert device_of(ScoreModel(Table(), SDE, time="t")) == torch.device("meta")


def test_rows_and_a_condition_of_the_wrappers_own():
    by, x, knot = randn(4, 2, seed=1), randn(4, 2), SDE.at(0.4)
    wrapped = Product(Offset(gaussian(SDE, 2), by), mixture(SDE))
    whole, index = wrapped(x, knot).eps, torch.tensor([3, 0, 0])
    torch.testing.assert_close(wrapped.rows(index)(x[index], knot).eps, whole[index])
    again = torch.tensor([1, 0])
    twice = wrapped.rows(index).rows(again)
    torch.testing.assert_close(twice(x[index[again]], knot).eps, whole[index[again]])
    assert torch.equal(wrapped.models[0].by, by)


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: Halved(), "needs a model to wrap"),
        (lambda: Halved(Net()), "Halved wraps models, got Net; wrap a network first"),
        (lambda: Halved(ScoreModel), "got ScoreModel"),
        (lambda: Product(gaussian(SDE, 2), gaussian(FlowSDE(), 2)), "models of one process"),
    ],
)
def test_what_cannot_be_wrapped(act, says):
    with pytest.raises(ConfigError, match=says):
        act()


def test_every_wrapper_of_the_library_has_the_one_base():
    from scoresde.cli.demo import _Ticking
    from scoresde.testing.runs import Watched
    from scoresde.tune.cost import Metered
    from scoresde.tune.kl_bound import _Listener
    from scoresde.tune.local_errors import _Memory

    for kind in (CFG, Counted, Checked, Metered, _Listener, _Memory, _Ticking, Watched):
        assert issubclass(kind, Wrapper)


# -- one run -------------------------------------------------------------------------------------


def test_each_run_begins_with_an_empty_memory_and_leaves_the_wrapper_as_it_was():
    model, x = First(gaussian(SDE, 2)), randn(3, 2)
    before = fingerprint(model)
    once = sample(model, DDIM(), GRID, x=x)
    other = sample(model, DDIM(), GRID, x=2 * x).x
    assert once.mean_nfe == 5  # calls, of which only the first asked the network
    assert model.memory == []
    assert fingerprint(model) == before
    runs = [iterate(Halved(model), DDIM(), GRID, x=start) for start in (x, 2 * x)]
    *_, (one, two) = zip(*runs, strict=True)  # two runs side by side
    fresh = Halved(First(gaussian(SDE, 2)))
    assert torch.equal(one.x, sample(fresh, DDIM(), GRID, x=x).x)
    assert torch.equal(two.x, sample(fresh, DDIM(), GRID, x=2 * x).x)
    assert not torch.equal(other, once.x)
    flow = ProbabilityFlow(TorchDiffEq(method="rk4", steps=2))
    assert torch.equal(encode(model, x, solver=flow), encode(model, x, solver=flow))
    assert model.memory == []


def test_an_observer_hears_everything_and_changes_nothing():
    inner = mixture(SDE)
    heard, x = Heard(inner), randn(3, 2)
    assert torch.equal(sample(heard, Heun(), GRID, x=x).x, sample(inner, Heun(), GRID, x=x).x)
    assert len(heard.heard) == 2 * 5 - 1
    heard.rows(torch.tensor([1]))(x[:1], SDE.at(0.5))
    assert heard.heard[-1].x.shape == (1, 2)


def test_wrappers_compile_with_their_run():
    model, x = Product(Offset(Bimodal(SDE), randn(3, 2, seed=5)), Halved(Bimodal(SDE))), randn(3, 2)
    model = First(model)
    draws = tuple(randn(3, 2, seed=k) for k in range(6))

    def run(model, x, draws):
        *_, last = iterate(model, DDIM(), GRID, x=x, noise=Predrawn(draws))
        return last.x, last.nfe, last.x0

    torch.compiler.reset()
    compiled = torch.compile(run, fullgraph=True, backend="eager")
    for got, want in zip(compiled(model, x, draws), run(model, x, draws), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert model.memory == []


# -- likelihoods ---------------------------------------------------------------------------------


def test_a_closed_form_divergence_is_passed_on_by_observers_alone():
    exact = mixture(SDE)
    x, knot = randn(4, 2), SDE.at(0.3)
    through = Checked(Counted(exact))
    assert torch.equal(closed_form(through).divergence(x, knot), exact.divergence(x, knot))
    guided = CFG.pair(exact, gaussian(SDE, 2), scale=2.0)
    for changed in (Halved(exact), guided, Checked(guided), Counted(network())):
        assert closed_form(changed) is None


def test_the_density_of_a_wrapper_that_changes_the_score():
    """A product with itself, halved: the density must be the model's own, found without its
    closed form; and an observer's is found with it."""
    model = gaussian(SDE, 2)
    x = model.sample(3, SDE.t_min, seed=1)
    want = log_likelihood(model, x, divergence=Exact(), method=PerSample(1e-6)).nats
    for same in (Halved(Product(model, model)), Heard(model)):
        found = log_likelihood(same, x, divergence=Exact(), method=PerSample(1e-6)).nats
        torch.testing.assert_close(found, want, rtol=0, atol=1e-5)
    half = log_likelihood(Halved(model), x, divergence=Exact(), method=PerSample(1e-6)).nats
    assert float((half - want).abs().min()) > 0.05


def _slopes(model, net, **settings):
    """d mean log-density / d scale, and the same by central differences."""
    x = 0.4 * randn(3, 2)
    law = ScoreDistribution(model, (2,), **settings)
    net.zero_grad()
    law.log_prob(x).mean().backward()
    values = []
    for h in (1e-3, -1e-3):
        with torch.no_grad():
            net.scale += h
            values.append(float(law.log_prob(x).mean()))
            net.scale -= h
    return float(net.scale.grad), (values[0] - values[1]) / 2e-3


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("adjoint", [True, False])
def test_gradients_reach_parameters_under_guidance(adjoint, batched):
    net = Net()
    model = ScoreModel(net, SDE, time="t")
    labels = torch.tensor([0, 1, 2])
    guided = CFG(model, cond={"y": labels}, uncond={"y": 3}, scale=2.0, batched=batched)
    method = TorchDiffEq(rtol=1e-6, atol=1e-6, adjoint=adjoint)
    got, want = _slopes(Checked(guided), net, method=method)
    assert got == pytest.approx(want, rel=1e-3)
    assert abs(want) > 0.1


def test_no_graph_is_kept_without_need():
    x = 0.4 * randn(3, 2)
    model = network()
    law = ScoreDistribution(model, (2,))
    with torch.no_grad():
        assert not law.log_prob(x).requires_grad
    model.requires_grad_(False)
    assert not law.log_prob(x).requires_grad


# -- failures ------------------------------------------------------------------------------------


class Fails(Wrapper):
    """NaN in the second sample; `then` is what happens when a sample is asked about alone."""

    def __init__(self, model, then=None):
        super().__init__(model)
        self.then = then

    def __call__(self, x, knot):
        if len(x) == 1 and self.then is not None:
            raise self.then
        prediction = self.model(x, knot)
        place = torch.arange(len(x)).reshape(-1, 1)
        bad = (place == 1) if len(x) > 1 else torch.ones(1, 1, dtype=torch.bool)
        return prediction.with_eps(torch.where(bad, torch.nan, prediction.eps))


def test_a_crash_of_the_repetition_is_a_reason_and_not_the_end():
    crash = RuntimeError("out of memory, say")
    x = randn(3, 2)
    with pytest.warns(NonFiniteWarning, match="sample 1: not finite; .* RuntimeError: out of mem"):
        out = sample(Fails(gaussian(SDE, 2), crash), DDIM(), GRID, x=x, seeds=range(3))
    assert list(out.failures) == [1]
    assert "in step 1" in out.failures[1]
    assert bool(torch.isfinite(out.x[[0, 2]]).all())

    class Lost(Fails):
        def rows(self, index):
            raise IndexError("rows of another batch")

    with pytest.warns(NonFiniteWarning, match="IndexError: rows of another batch"):
        sample(Lost(gaussian(SDE, 2)), DDIM(), GRID, x=x, seeds=range(3))


def test_a_crash_of_a_likelihoods_repetition_is_a_reason_too():
    class Torn(Fails):
        def rows(self, index):
            if len(index) == 1 and self.then is not None:
                raise self.then
            return super().rows(index)

    model = Torn(gaussian(SDE, 2), RuntimeError("out of memory, say"))
    method = FixedGrid(11)
    with pytest.warns(NonFiniteWarning):
        found = log_likelihood(model, randn(3, 2), method=method, divergence=Exact())
    assert "RuntimeError: out of memory, say" in found.failures[1]


def test_a_failed_run_is_repeated_where_the_model_computes(monkeypatch):
    """Of a model on the meta device, which stands for a GPU: the start is drawn there again."""
    import scoresde.sampling.run as run

    seen = []

    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones((), device="meta"))

        def forward(self, x, t):
            seen.append((len(x), x.device.type))
            return self.weight * x

    monkeypatch.setattr(run, "bad_rows", lambda x: [1])
    model = Halved(ScoreModel(Far(), SDE, time="t"))
    draws = Predrawn(tuple(torch.empty(3, 2, device="meta") for _ in range(2)))
    with pytest.warns(NonFiniteWarning):
        sample(model, DDIM(), GRID, shape=(3, 2), noise=draws)
    assert {device for _, device in seen} == {"meta"}
    assert {size for size, _ in seen} == {3, 1}


def test_a_copy_of_a_bound_model_is_its_own():
    model = network().bind(y=torch.arange(3))
    other = copy.copy(model).bind(y=torch.arange(4))
    other.net = Net(0.1)
    assert model.net is not other.net
    assert model.net.scale.item() == 0.6


def test_an_answer_for_another_batch_is_refused():
    class First(Wrapper):
        def __call__(self, x, knot):
            return self.model(x[:1], knot)

    with pytest.raises(ShapeError, match="return a Prediction of the x that was given"):
        sample(First(mixture(VPSDE())), nfe=5, shape=(4, 2))
