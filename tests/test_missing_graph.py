"""A likelihood needs the network's derivative: it has it in every mode, or says that it cannot."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from scoresde import VPSDE, ScoreModel
from scoresde.errors import ConfigError, GraphError
from scoresde.guidance import CFG
from scoresde.likelihood import (
    Exact,
    FixedGrid,
    Hutchinson,
    bits_per_dim,
    calibrated_grid,
    log_likelihood,
    nll_dataset,
)
from scoresde.likelihood.distribution import ScoreDistribution
from scoresde.ode import TorchDiffEq

SDE = VPSDE()
STD = 0.5
X = torch.tensor([[0.3, -0.8], [1.1, 0.2], [0.0, 0.0]])
IMAGES = torch.randint(60, 196, (4, 1, 3, 3), generator=torch.Generator().manual_seed(0))
RULES = [Exact(), Hutchinson(), Hutchinson(forward=True)]


class Net(nn.Module):
    """The eps, x0 or v of N(0, STD^2 I), whose graph is cut in one of several ways."""

    def __init__(self, predicts: str, cut: str = "") -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))
        self.predicts, self.cut = predicts, cut

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        if self.cut == "no_grad":
            with torch.no_grad():
                return self.value(x, t)
        if self.cut == "inference_mode":
            with torch.inference_mode():
                return self.value(x, t)
        if self.cut == "detach":  # a graph remains, but to the parameters alone
            return self.value(x.detach(), t)
        if self.cut == "numpy":
            return torch.from_numpy(self.value(x.detach(), t).detach().numpy())
        return self.value(x, t)

    def value(self, x: Tensor, t: Tensor) -> Tensor:
        knot = SDE.at(t.double(), like=x)
        total = STD**2 * knot.alpha**2 + knot.sigma**2
        x0, eps = STD**2 * knot.alpha / total, knot.sigma / total
        of = {"x0": x0, "eps": eps, "v": knot.alpha * eps - knot.sigma * x0}[self.predicts]
        return self.one * (of.to(x) * x)


def model(predicts: str = "x0", cut: str = "") -> ScoreModel:
    return ScoreModel(Net(predicts, cut), SDE, predicts=predicts, time="t")


def truth(x: Tensor) -> Tensor:
    knot = SDE.at(SDE.t_min)
    deviation = math.hypot(STD * float(knot.alpha), float(knot.sigma))
    return torch.distributions.Normal(0.0, deviation).log_prob(x.double()).sum(1)


@pytest.mark.parametrize("rule", RULES, ids=["exact", "hutchinson", "forward"])
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_inference_mode_changes_nothing(predicts: str, rule) -> None:
    made_outside = model(predicts)
    with torch.inference_mode():
        made_inside, x = model(predicts), X.clone()
        inside = [log_likelihood(m, x, divergence=rule).nats for m in (made_outside, made_inside)]
    outside = [log_likelihood(m, x, divergence=rule).nats for m in (made_outside, made_inside)]
    for nats in (*inside, *outside):
        torch.testing.assert_close(nats, truth(X), rtol=0, atol=2e-3)


def test_every_entry_is_right_under_inference_mode(tmp_path) -> None:
    outside = bits_per_dim(model(), IMAGES, divergence=Exact()).per_image
    with torch.inference_mode():
        net = model()
        found = bits_per_dim(net, IMAGES.clone(), divergence=Exact()).per_image
        many = nll_dataset(net, IMAGES, tmp_path, divergence=Exact(), batch_size=2).per_image
        grid = calibrated_grid(net, X, 31)
        nats = {
            "a calibrated grid": log_likelihood(net, X, method=grid).nats,
            "a method of torchdiffeq": log_likelihood(net, X, method=TorchDiffEq()).nats,
            "TwoPhase": log_likelihood(net, X, method="TwoPhase").nats,
            "a distribution": ScoreDistribution(net, (2,)).log_prob(X),
            "a wrapper": log_likelihood(
                CFG(net, cond={"y": 1}, uncond={"y": 0}, scale=3.0), X
            ).nats,
        }
    for per_image in (found, many):
        torch.testing.assert_close(per_image, outside, rtol=0, atol=2e-3)
    for name, value in nats.items():
        torch.testing.assert_close(value, truth(X), rtol=0, atol=5e-3, msg=name)


def test_gradients_are_refused_under_inference_mode() -> None:
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"inference_mode\(False\)"):
        log_likelihood(model(), X, grad=True)


@pytest.mark.parametrize("cut", ["no_grad", "inference_mode", "detach", "numpy"])
@pytest.mark.parametrize("predicts", ["eps", "x0", "v"])
def test_a_network_that_cuts_its_graph_is_refused(predicts: str, cut: str, tmp_path) -> None:
    net = model(predicts, cut)
    calls = [
        lambda: log_likelihood(net, X),
        lambda: log_likelihood(net, X, method=FixedGrid(11), divergence=Hutchinson()),
        lambda: log_likelihood(CFG(net, cond={"y": 1}, uncond={"y": 0}, scale=3.0), X),
        lambda: bits_per_dim(net, IMAGES),
        lambda: calibrated_grid(net, X),
        lambda: nll_dataset(net, IMAGES, tmp_path),
        lambda: ScoreDistribution(net, (2,)).log_prob(X),
    ]
    for call in calls:
        with pytest.raises(GraphError, match=r"return out \+ 0 \* x"):
            call()


@pytest.mark.parametrize("cut", ["inference_mode", "detach"])
def test_forward_mode_sees_the_cut_too(cut: str) -> None:
    with pytest.raises(GraphError, match="no graph"):
        log_likelihood(model("v", cut), X, divergence=Hutchinson(forward=True))


def test_forward_mode_does_not_mind_no_grad() -> None:
    nats = log_likelihood(model("v", "no_grad"), X, divergence=Hutchinson(forward=True)).nats
    torch.testing.assert_close(nats, truth(X), rtol=0, atol=2e-3)


def test_a_predictor_of_ones_own_is_held_to_the_same() -> None:
    class Cut:
        sde = SDE

        def __call__(self, x, knot):
            with torch.no_grad():
                return model()(x, knot)

        def rows(self, index):
            return self

    with pytest.raises(GraphError, match="the model has no graph"):
        log_likelihood(Cut(), X)


def test_a_constant_network_says_so() -> None:
    # x0 = 0 wherever x is: the data are one point, and the density that of its noise.
    def silent(x: Tensor, t: Tensor) -> Tensor:
        return torch.zeros_like(x)

    with pytest.raises(GraphError):
        log_likelihood(ScoreModel(silent, SDE, predicts="x0", time="t"), X)
    says = ScoreModel(lambda x, t: silent(x, t) + 0 * x, SDE, predicts="x0", time="t")
    sigma = float(SDE.at(SDE.t_min).sigma)
    want = torch.distributions.Normal(0.0, sigma).log_prob(sigma * X.double()).sum(1)
    got = log_likelihood(says, sigma * X, method="PerSample(tol=1e-6)").nats
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)


def test_gradients_through_sampling_are_held_to_the_same() -> None:
    # Without derivatives nothing is asked of the network.
    knot = SDE.at(0.5)
    assert model(cut="no_grad")(X, knot).x0.shape == X.shape
    with pytest.raises(GraphError, match="the network has no graph"):
        model(cut="no_grad")(X.clone().requires_grad_(), knot)
