"""Conditions: labels, conditions of each sample, and conditions inside containers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support import randn
from torch import nn

from scoresde import CFG, DDIM, VPSDE, ScoreModel, Shared, sample, uniform_lambda
from scoresde.errors import ConfigError, DtypeError, ShapeError

SDE = VPSDE()
KNOT = SDE.at(0.4)


class Classes(nn.Module):
    """A class-conditional network with an embedding table; 10 stands for no class."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(11, 2, dtype=torch.float64)
        self.batches = []

    def forward(self, x, t, y):
        assert y.dtype == torch.long
        self.batches.append(y.tolist())
        return self.table(y) * x


class Keeps:
    """A network that is a function and remembers its conditions."""

    def __call__(self, x, t, **conditions):
        self.seen = conditions
        return 0.5 * x


@dataclass(frozen=True)
class Text:
    tokens: torch.Tensor
    name: str = "prompt"
    layers: int = 2


class Pair(NamedTuple):
    image: torch.Tensor
    mask: torch.Tensor | None


def tree(n=4):
    rows = torch.arange(float(n))
    return {
        "added": {"text": rows.reshape(n, 1), "ids": [rows.long(), Shared(torch.ones(7))]},
        "text": Text(10 * rows),
        "pair": Pair(20 * rows, None),
        "ordered": OrderedDict(b=rows.numpy(), a="mode"),
    }


def heard(model, n):
    net = Keeps()
    model.net = net
    model(randn(n, 2), KNOT)
    return net.seen


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [3, np.int64(3)])
def test_a_whole_number_is_the_label_of_all_samples(number):
    net, x = Classes(), randn(4, 2)
    model = ScoreModel(net, SDE, time="t").bind(y=number)
    assert torch.equal(model(x, KNOT).eps, net.table.weight[3] * x)
    some = model.rows(torch.tensor([1, 1, 0]))
    assert torch.equal(some(x[:3], KNOT).eps, net.table.weight[3] * x[:3])
    assert net.batches == [[3] * 4, [3] * 3]


def test_other_values_are_passed_as_they_are():
    given = {"a": 0.5, "b": True, "c": None, "d": "mode", "e": Shared(3), "f": Shared([1, 2])}
    got = heard(ScoreModel(Keeps(), SDE, time="t").bind(**given), 2)
    assert got == {**given, "e": 3, "f": [1, 2]}
    assert type(got["b"]) is bool


def test_a_network_that_wants_the_number_itself_says_what_to_write():
    def net(x, t, frames):
        return x.reshape(frames, -1)

    with pytest.raises(TypeError) as caught:
        ScoreModel(net, SDE, time="t").bind(frames=2)(randn(2, 2), KNOT)
    assert "write bind(frames=Shared(2)) to pass the number" in caught.value.__notes__[-1]
    ScoreModel(net, SDE, time="t").bind(frames=Shared(2))(randn(2, 2), KNOT)


@pytest.mark.parametrize("batched", [True, False])
def test_guidance_between_two_labels_needs_no_tensor(batched):
    net = Classes()
    model = ScoreModel(net, SDE, time="t")
    guided = CFG(model, cond={"y": 3}, uncond={"y": 10}, scale=2.5, batched=batched)
    w = net.table.weight
    for n in (4, 2):  # it fits any batch
        x = randn(n, 2)
        want = (w[10] + 2.5 * (w[3] - w[10])) * x
        torch.testing.assert_close(guided(x, KNOT).eps, want, rtol=1e-14, atol=1e-14)
        rows = guided.rows(torch.tensor([1, 0, 0]))
        torch.testing.assert_close(rows(x[[1, 0, 0]], KNOT).eps, want[[1, 0, 0]])
    assert net.batches[0] == ([3] * 4 + [10] * 4 if batched else [3] * 4)
    grid = uniform_lambda(SDE, 3)
    assert sample(guided, DDIM(), grid, shape=(2, 2)).mean_nfe == 6


def test_labels_beside_bound_rows_follow_their_samples():
    def net(x, t, y, mask):
        return mask[:, None] * x * y[:, None]

    mask, x = randn(3, seed=4), randn(3, 2)
    model = ScoreModel(net, SDE, time="t").bind(mask=mask)
    guided = CFG(model, cond={"y": 3}, uncond={"y": 10}, scale=2.0)
    want = -4 * mask[:, None] * x  # 10 + 2 (3 - 10)
    torch.testing.assert_close(guided(x, KNOT).eps, want)
    index = torch.tensor([2, 2, 0, 1])
    torch.testing.assert_close(guided.rows(index)(x[index], KNOT).eps, want[index])


# -- containers ----------------------------------------------------------------------------------


def test_tensors_in_containers_follow_their_samples():
    given = tree()
    model = ScoreModel(Keeps(), SDE, time="t").bind(**given)
    index = torch.tensor([3, 1, 1])
    got = heard(model.rows(index).rows(torch.tensor([1, 0])), 2)
    rows = [1.0, 3.0]
    assert got["added"]["text"].flatten().tolist() == rows
    assert got["added"]["ids"][0].tolist() == [1, 3]
    assert got["added"]["ids"][1].shape == (7,)
    assert got["text"] == Text(got["text"].tokens)
    assert got["text"].tokens.tolist() == [10.0, 30.0]
    assert isinstance(got["pair"], Pair)
    assert got["pair"].image.tolist() == [20.0, 60.0]
    assert got["pair"].mask is None
    assert isinstance(got["ordered"], OrderedDict)
    assert got["ordered"]["b"].tolist() == rows
    assert list(got["ordered"]) == ["b", "a"]
    assert len(given["added"]["text"]) == 4  # what was given is left alone
    assert isinstance(given["ordered"]["b"], np.ndarray)


def test_the_two_sides_of_guidance_meet_leaf_by_leaf():
    def net(x, t, added, text):
        assert text.layers == 2
        scale = added["text"][:, 0] + 100 * added["ids"] + text.tokens
        return scale[:, None] * x

    def conditions(by):
        given = tree()
        return {
            "added": {
                "text": given["added"]["text"] + by,
                "ids": given["added"]["ids"][0] if by else 5,  # a number facing a tensor
            },
            "text": Text(10 * torch.arange(4.0)),
        }

    model, x = ScoreModel(net, SDE, time="t"), randn(4, 2)
    rows = torch.arange(4.0).double()
    c, u = rows + 7 + 100 * rows + 10 * rows, rows + 500 + 10 * rows
    want = (u + 2 * (c - u))[:, None] * x
    for batched in (True, False):
        guided = CFG(model, cond=conditions(7), uncond=conditions(0), scale=2.0, batched=batched)
        torch.testing.assert_close(guided(x, KNOT).eps, want)
        index = torch.tensor([3, 0])
        torch.testing.assert_close(guided.rows(index)(x[index], KNOT).eps, want[index])


# -- bad input -----------------------------------------------------------------------------------


def bind(**conditions: Any):
    return ScoreModel(Keeps(), SDE, time="t").bind(**conditions)


def guide(cond: Any, uncond: Any):
    return CFG(ScoreModel(Keeps(), SDE, time="t"), cond=cond, uncond=uncond, scale=2.0)


TWO, THREE = torch.zeros(2), torch.zeros(3)


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda: bind(y=[1, 2]), DtypeError, "'y' is a list of int, which"),
        (lambda: bind(a={"size": (512, 512)}), DtypeError, "\"a['size']\" is a tuple of int"),
        (lambda: bind(y=["a", "b"]), DtypeError, "write torch.tensor(...) or Shared(...)"),
        (lambda: bind(y=torch.tensor(1)), ShapeError, "a tensor without a batch; give one row"),
        (
            lambda: bind(a={"b": [TWO, THREE]})(randn(2, 2), KNOT),
            ShapeError,
            "condition \"a['b'][1]\" has shape (3,) for a batch of 2",
        ),
        (lambda: bind(a=Text(THREE))(randn(2, 2), KNOT), ShapeError, "condition 'a.tokens' has"),
        (lambda: guide({"y": [1]}, {"y": [2]}), DtypeError, "'y' is a list"),
        (lambda: guide({}, {}), ConfigError, "got none"),
        (lambda: guide({"y": 1.0}, {"y": 2.0}), ConfigError, "'y' is 1.0 in cond and 2.0 in"),
        (lambda: guide({"a": {"b": 1}}, {"a": {"b": 2}}), ConfigError, "\"a['b']\" is 1 in cond"),
        (lambda: guide({"a": {"b": TWO}}, {"a": {"c": TWO}}), ConfigError, "does not fit into one"),
        (lambda: guide({"a": TWO, "b": THREE}, {"a": 0, "b": 0}), ShapeError, "batches of [2, 3]"),
    ],
)
def test_bad_conditions_are_explained(act, error, says):
    with pytest.raises(error) as caught:
        act()
    assert says in str(caught.value)
