"""torch.inference_mode() records no graph: what asks for one says so, the rest is the same."""

from __future__ import annotations

import pytest
import torch
from support import randn
from torch import nn

from scoresde import DDIM, VPSDE, ScoreModel, decode, encode, iterate, sample, uniform_lambda
from scoresde.errors import ConfigError

SDE = VPSDE()
GRID = uniform_lambda(SDE, 4)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((), 0.7, dtype=torch.float64))

    def forward(self, x, time):
        return torch.tanh(self.weight * x)


@pytest.mark.parametrize(
    "act",
    [
        lambda m, x: sample(m, DDIM(), GRID, x=x, grad=True),
        lambda m, x: list(iterate(m, DDIM(), GRID, x=x, grad=True)),
        lambda m, x: encode(m, x, grad=True),
        lambda m, x: decode(m, x, grad=True),
    ],
)
def test_a_graph_that_cannot_be_is_refused(act):
    model, x = ScoreModel(Net(), SDE, time="t"), randn(3, 2)
    with (
        torch.inference_mode(),
        pytest.raises(ConfigError, match=r"torch\.inference_mode\(False\)"),
    ):
        act(model, x)


def test_the_remedy_gives_the_gradient():
    model, x = ScoreModel(Net(), SDE, time="t"), randn(3, 2)
    sample(model, DDIM(), GRID, x=x, grad=True).x.sum().backward()
    want = model.net.weight.grad.clone()
    model.zero_grad()
    with torch.inference_mode():
        kept = x.clone()  # an inference tensor, which autograd may not save
        with torch.inference_mode(False):
            sample(model, DDIM(), GRID, x=kept.clone(), grad=True).x.sum().backward()
    torch.testing.assert_close(model.net.weight.grad, want)


def test_samples_without_a_graph_are_the_same():
    model = ScoreModel(Net(), SDE, time="t")
    want = sample(model, DDIM(), GRID, shape=(3, 2)).x
    with torch.inference_mode():
        assert torch.equal(sample(model, DDIM(), GRID, shape=(3, 2)).x, want)
