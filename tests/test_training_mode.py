"""A network left in training mode is named once by every driver, and never by losses."""

from __future__ import annotations

import warnings

import pytest
import torch
from support import randn
from torch import nn

from scoresde import (
    CFG,
    DDIM,
    VPSDE,
    ScoreModel,
    bits_per_dim,
    encode,
    iterate,
    log_likelihood,
    sample,
    tune,
    uniform_lambda,
)
from scoresde.bench import Starts, compare
from scoresde.errors import TrainingModeWarning
from scoresde.likelihood import Exact, FixedGrid
from scoresde.likelihood.bounds import ddpm_bound, variational_bound
from scoresde.ode import TorchDiffEq
from scoresde.solvers import ProbabilityFlow
from scoresde.training.losses import loss_per_noise_level, score_matching_loss
from scoresde.wrapper import Wrapper

SDE = VPSDE()
GRID = uniform_lambda(SDE, 4)
FIVE = {"method": FixedGrid(5, order=2), "divergence": Exact()}


class Net(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 4), *layers, nn.Linear(4, 2))
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(0.1)

    def forward(self, x, time, y=None):
        return self.layers(x)


def _model(*layers):
    return ScoreModel(Net(*layers), SDE, time="t")


DRIVERS = {
    "sample": lambda m: sample(m, DDIM(), GRID, shape=(4, 2)),
    "iterate": lambda m: list(iterate(m, DDIM(), GRID, shape=(4, 2))),
    "log_likelihood": lambda m: log_likelihood(m, randn(4, 2), **FIVE),
    "bits_per_dim": lambda m: bits_per_dim(m, torch.zeros(4, 2, dtype=torch.long), **FIVE),
    "variational_bound": lambda m: variational_bound(m, randn(4, 2), evaluations=2),
    "encode": lambda m: encode(m, randn(4, 2), solver=ProbabilityFlow(TorchDiffEq())),
    "tune": lambda m: tune.tune(
        m, DDIM(), 3, event_shape=(2,), starts=8, held_out=4, rounds=0, key="net"
    ),
    "compare": lambda m: compare(
        {"net": m}, [DDIM()], nfe=[3], starts=Starts(4, event_shape=(2,)), key="net"
    ),
    "loss_per_noise_level": lambda m: loss_per_noise_level(m, randn(4, 2), [0.0]),
}


def _said(act):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    return [w for w in caught if issubclass(w.category, TrainingModeWarning)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_says_it_once_for_each_network(driver):
    model = _model(nn.Dropout(1e-9))  # adaptive references do not like chance
    first = _said(lambda: DRIVERS[driver](model))
    assert len(first) == 1
    text = str(first[0].message)
    assert "'layers.1', Dropout(p=1e-09" in text
    assert "write model.eval()" in text
    assert first[0].filename == __file__
    assert not _said(lambda: DRIVERS["sample"](model))
    assert len(_said(lambda: DRIVERS["sample"](_model(nn.Dropout(0.5))))) == 1


@pytest.mark.parametrize(
    ("layer", "speaks"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.AlphaDropout(0.1), True),
        (nn.BatchNorm1d(4), True),
        (nn.BatchNorm1d(4, track_running_stats=False), True),  # still sees the batch
        (nn.GroupNorm(2, 4), False),
        (nn.LayerNorm(4), False),
        (nn.RReLU(), True),
        (nn.ReLU(), False),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1), True),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), False),
    ],
    ids=str,
)
def test_only_layers_that_depend_on_the_mode_count(layer, speaks):
    assert bool(_said(lambda: DRIVERS["sample"](_model(layer)))) == speaks
    assert not _said(lambda: DRIVERS["sample"](_model(layer).eval()))


def test_a_network_that_calls_dropout_itself_counts():
    class Own(Net):
        def __init__(self):
            super().__init__()
            self.dropout = 0.13  # as EDM's blocks have it

        def forward(self, x, time):
            return nn.functional.dropout(self.layers(x), self.dropout, self.training)

    assert len(_said(lambda: DRIVERS["sample"](ScoreModel(Own(), SDE, time="t")))) == 1


def test_one_layer_in_training_mode_in_an_evaluated_network_counts():
    model = _model(nn.BatchNorm1d(4)).eval()
    model.net.layers[1].train()
    assert len(_said(lambda: DRIVERS["sample"](model))) == 1


def test_the_statistics_of_an_evaluated_network_stay():
    model = _model(nn.BatchNorm1d(4)).eval()
    DRIVERS["log_likelihood"](model)
    assert int(model.net.layers[1].num_batches_tracked) == 0


def test_networks_inside_wrappers_and_classifiers_count():
    class Guided(Wrapper):
        def __init__(self, model, classifier):
            super().__init__(model)
            self.classifier = classifier

        def __call__(self, x, knot):
            return self.model(x, knot)

    inner = _model(nn.Dropout(0.5))
    guided = CFG(inner, scale=2.0, cond={"y": torch.ones(4)}, uncond={"y": torch.zeros(4)})
    assert len(_said(lambda: DRIVERS["sample"](guided))) == 1
    assert len(_said(lambda: DRIVERS["sample"](Guided(_model(), nn.Dropout(0.5))))) == 1


def test_losses_say_nothing():
    model = _model(nn.Dropout(0.5))
    generator = torch.Generator().manual_seed(0)
    assert not _said(lambda: score_matching_loss(model, torch.zeros(4, 2), generator=generator))


def test_the_ddpm_bound_says_it_too():
    from scoresde import DiscreteVPSDE, linear_betas

    model = ScoreModel(Net(nn.Dropout(0.5)), DiscreteVPSDE.from_betas(linear_betas(50)))
    assert len(_said(lambda: ddpm_bound(model, randn(4, 2)))) == 1
