"""Classifier-free guidance against closed forms: mixtures with one mixture per class."""

import numpy as np
import pytest
import torch
from torch import nn

from scoresde._internal.counted import Counted
from scoresde.bench import Starts, compare
from scoresde.conditions import Shared
from scoresde.errors import ConfigError, ShapeError
from scoresde.exact.mixtures import Covariance, Gaussian, GaussianMixture
from scoresde.grid import uniform_lambda
from scoresde.guidance import CFG
from scoresde.likelihood import Exact as Exactly
from scoresde.likelihood import log_likelihood
from scoresde.model import Predictor, ScoreModel
from scoresde.ode import TorchDiffEq
from scoresde.prediction import parametrization
from scoresde.sampling.run import sample
from scoresde.sde import VPSDE, FlowSDE
from scoresde.solvers import DDIM
from scoresde.tune import tune
from scoresde.wrapper import evals_per_call

SDE = VPSDE()
MEANS = torch.tensor([[1.0, 0.5], [-0.5, 1.0], [0.2, -1.0], [-1.2, -0.4]], dtype=torch.float64)
CLASSES = [  # two classes of two components each, then all four: the model without a condition
    GaussianMixture(SDE, MEANS[:2], Covariance.isotropic(0.04)),
    GaussianMixture(SDE, MEANS[2:], Covariance.isotropic(0.09)),
    GaussianMixture(SDE, MEANS, Covariance.isotropic([0.04, 0.04, 0.09, 0.09])),
]
NONE = 2
LABELS = torch.tensor([0, 1, 1, 0, 1])


class Exact(nn.Module):
    """A network that knows each class's score exactly, told t and a label a sample."""

    def __init__(self, predicts, models=CLASSES):
        super().__init__()
        self.predicts, self.models = parametrization(predicts), models
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))  # gives it a dtype
        self.batches = []

    def forward(self, x, t, y, shift=0.0):
        self.batches.append(len(x))
        # A batch at one time as a float: only a float knot can be without any signal.
        times = t.unique()
        knot = self.models[0].sde.at(float(times[0]) if len(times) == 1 else t, like=x)
        x = x / self.predicts.input_scale(knot)
        out = torch.zeros_like(x)
        for label, model in enumerate(self.models):
            truth = model(x, knot)
            raw = self.predicts.target(truth.x0, truth.eps, knot)
            out = torch.where((y == label)[:, None], raw, out)
        return out + shift


def guided(predicts="eps", batched=True, scale=2.5, labels=LABELS, **bound):
    model = ScoreModel(Exact(predicts), SDE, predicts=predicts, time="t").bind(**bound)
    return CFG(model, cond={"y": labels}, uncond={"y": NONE}, scale=scale, batched=batched)


def truth(x, t, labels=LABELS, scale=2.5):
    per_class = torch.stack([model.score(x, t) for model in CLASSES])
    cond = per_class[labels, torch.arange(len(x))]
    return per_class[NONE] + scale * (cond - per_class[NONE])


def states(n=5, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", [1e-3, 0.2, 1.0, torch.tensor([0.02, 0.3, 0.9, 0.5, 1e-3])])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("predicts", ["eps", "x0", "score", "v", "F"])
def test_score_is_the_guided_mixture(predicts, batched, t):
    x = states()
    score = guided(predicts, batched)(x, SDE.at(t, like=x)).score
    want = truth(x, t)
    # x0 to score multiplies round-off by alpha / sigma^2, at most 1e4 here.
    assert (score - want).abs().max() < 1e-9 * want.abs().max()


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_scales_zero_and_one_are_the_two_sides_bit_for_bit(scale):
    x, knot = states(), SDE.at(0.4)
    model = ScoreModel(Exact("v"), SDE, predicts="v", time="t")
    side = model.bind(y=torch.full((5,), NONE) if scale == 0 else LABELS)
    assert torch.equal(guided("v", False, scale)(x, knot).raw, side(x, knot).raw)


def test_one_call_of_two_batches_or_two_calls():
    x, knot = states(), SDE.at(0.4)
    for batched, sizes in ((True, [10]), (False, [5, 5])):
        net = Exact("eps")
        model = ScoreModel(net, SDE, time="t")
        cfg = CFG(model, cond={"y": LABELS}, uncond={"y": NONE}, scale=2.5, batched=batched)
        assert cfg(x, knot).cost == 2
        assert net.batches == sizes
        assert isinstance(cfg, Predictor)


def test_equal_variances_make_a_gaussian_with_its_mean_moved():
    """Where all covariances agree, the guided model is a Gaussian at mu_u + w (mu_c - mu_u)."""
    means = MEANS[:3]
    models = [Gaussian(SDE, mean, Covariance.isotropic(0.05)) for mean in means]
    model = ScoreModel(Exact("eps", models), SDE, time="t")
    moved = means[NONE] + 3.0 * (means[:2] - means[NONE])
    grid = uniform_lambda(SDE, 12)
    x = states()
    for batched in (True, False):
        cfg = CFG(model, cond={"y": LABELS}, uncond={"y": NONE}, scale=3.0, batched=batched)
        got = sample(cfg, DDIM(), grid, x=x)
        assert got.mean_nfe == 2 * grid.steps
        for label in (0, 1):
            want = sample(
                Gaussian(SDE, moved[label], Covariance.isotropic(0.05)), DDIM(), grid, x=x
            )
            rows = label == LABELS
            assert torch.allclose(got.x[rows], want.x[rows], rtol=0, atol=1e-12)


def test_likelihood_is_that_of_the_guided_flow():
    """With equal covariances the guided flow carries the Gaussian at the moved mean."""
    sde = VPSDE(t_min=0.05)
    means = MEANS[:3]
    models = [Gaussian(sde, mean, Covariance.isotropic(0.05)) for mean in means]
    model = ScoreModel(Exact("eps", models), sde, time="t")
    labels = torch.zeros(2, dtype=torch.long)
    cfg = CFG(model, cond={"y": labels}, uncond={"y": NONE}, scale=2.0)
    moved = Gaussian(sde, 2.0 * means[0] - means[NONE], Covariance.isotropic(0.05))
    x = moved.sample(2, sde.t_min)
    tight = TorchDiffEq(rtol=1e-6, atol=1e-6)
    found = log_likelihood(cfg, x, method=tight, divergence=Exactly(), prior=moved)
    assert torch.allclose(found.nats, moved.log_prob(x, sde.t_min), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batched", [True, False])
def test_rows_follow_conditions_of_both_sides_and_of_the_base(batched):
    x, knot = states(), SDE.at(0.3)
    shift = torch.arange(5.0, dtype=torch.float64)[:, None]
    cfg = guided(batched=batched, shift=shift)
    whole = cfg(x, knot).raw
    index = torch.tensor([4, 0, 0])
    assert torch.allclose(cfg.rows(index)(x[index], knot).raw, whole[index], atol=1e-14)
    again = torch.tensor([2, 1])
    twice = cfg.rows(index).rows(again)
    assert torch.allclose(twice(x[index[again]], knot).raw, whole[index[again]], atol=1e-14)
    counted = Counted(cfg)
    counted.rows(index)(x[index], knot)
    assert counted.nfe(5).tolist() == [4, 0, 0, 0, 2]


def test_shared_conditions_stay_whole_in_one_call():
    class Table(nn.Module):
        def forward(self, x, t, y, table):
            assert table.shape == (7, 2)
            return table[y].to(x.dtype)

    table = torch.randn(7, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = ScoreModel(Table(), SDE, time="t").bind(table=Shared(table))
    cfg = CFG(model, cond={"y": LABELS}, uncond={"y": np.array([6] * 5)}, scale=2.0)
    want = table[6] + 2.0 * (table[LABELS] - table[6])
    assert torch.allclose(cfg(states(), SDE.at(0.5)).raw, want, atol=1e-15)
    same = {"table": Shared(table)}
    cfg = CFG(model, cond=dict(y=LABELS, **same), uncond={"y": 6}, scale=2.0, batched=False)
    assert torch.allclose(cfg(states(), SDE.at(0.5)).raw, want, atol=1e-15)


def test_two_predictors_that_predict_differently():
    x, knot = states(), SDE.at(0.25)
    labels = torch.zeros(5, dtype=torch.long)
    good = ScoreModel(Exact("v"), SDE, predicts="v", time="t").bind(y=labels)
    cfg = CFG.pair(good, CLASSES[NONE], scale=2.5)
    prediction = cfg(x, knot)
    assert prediction.cost == 2
    assert torch.allclose(prediction.score, truth(x, 0.25, labels), rtol=1e-11, atol=0)
    nested = CFG.pair(cfg, CLASSES[NONE], scale=0.4)  # 0.4 * 2.5 = 1: the condition alone
    assert nested(x, knot).cost == 3
    assert torch.allclose(nested(x, knot).score, CLASSES[0].score(x, knot), rtol=1e-10, atol=0)


def test_guides_from_a_start_without_signal():
    sde = FlowSDE()
    models = [GaussianMixture(sde, MEANS[i : i + 1], Covariance.isotropic(0.05)) for i in range(3)]
    model = ScoreModel(Exact("flow", models), sde, predicts="flow")
    cfg = CFG(model, cond={"y": LABELS}, uncond={"y": NONE}, scale=2.0)
    x0 = cfg(states(), sde.at(1.0)).x0
    assert torch.allclose(x0, (2.0 * MEANS[:2] - MEANS[2])[LABELS], atol=1e-12)


def test_a_guided_model_has_a_score_and_an_event_shape():
    x, t = states(), torch.tensor([0.02, 0.3, 0.9, 0.5, 1e-3], dtype=torch.float64)
    assert torch.allclose(guided().score(x, t), truth(x, t), rtol=1e-9, atol=0)
    assert torch.allclose(guided().score(x, 0.3), truth(x, 0.3), rtol=1e-9, atol=0)
    paired = CFG.pair(CLASSES[0], CLASSES[NONE], scale=2.0)
    assert paired.event_shape == (2,)
    with pytest.raises(ShapeError, match=r"write shape=\(5, 2\)"):
        sample(paired, DDIM(), uniform_lambda(SDE, 3), shape=(5, 3))


def test_parameters_are_found():
    assert len(set(guided().parameters())) == 1
    assert len(set(guided(batched=False).parameters())) == 1
    assert list(CFG.pair(CLASSES[0], CLASSES[1], scale=1.0).parameters()) == []


@pytest.mark.parametrize("batch", [0, 1])
def test_small_batches(batch):
    x, labels = states(batch), LABELS[:batch]
    cfg = guided(labels=labels)
    score = cfg(x, SDE.at(0.3)).score
    assert score.shape == (batch, 2)
    assert torch.allclose(score, truth(x, 0.3, labels), rtol=1e-12, atol=0)


def test_errors_say_what_to_write():
    model = ScoreModel(Exact("eps"), SDE, time="t")
    with pytest.raises(ConfigError, match=r"absent in uncond.*batched=False"):
        CFG(model, cond={"y": LABELS}, uncond={}, scale=2.0)
    with pytest.raises(ConfigError, match=r"'y' is 'a' in cond and 2 in uncond"):
        CFG(model, cond={"y": "a"}, uncond={"y": 2}, scale=2.0)
    with pytest.raises(ConfigError, match="got none"):
        CFG(model, cond={}, uncond={}, scale=2.0)
    with pytest.raises(ShapeError, match=r"\(5,\) in cond and \(1,\) in uncond"):
        CFG(model, cond={"y": LABELS}, uncond={"y": torch.tensor([2])}, scale=2.0)
    with pytest.raises(ShapeError, match="have 5 rows, the state has 4"):
        guided()(states(4), SDE.at(0.5))
    with pytest.raises(ConfigError, match="one process"):
        CFG.pair(CLASSES[0], Gaussian(FlowSDE(), MEANS[0], Covariance.isotropic(1.0)), scale=2.0)


# -- budgets -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(
    "ignore::scoresde.sampling.start.FirstStepWarning"
)  # few steps from the end
@pytest.mark.parametrize("batched", [True, False])
def test_a_budget_is_network_evaluations_wherever_it_is_given(batched):
    """40 of them are 20 calls under guidance, in `sample`, in a comparison and its table."""
    model = guided(labels=1, batched=batched)
    for budget, steps in ((40, 20), (41, 20), (2, 1)):
        out = sample(model, "DDIM", nfe=budget, shape=(3, 2))
        assert out.steps == steps
        assert out.nfe.tolist() == [2 * steps] * 3
    assert sample(model, "DDIM", shape=(3, 2)).nfe.tolist() == [40] * 3  # 20 calls by default
    with pytest.raises(ConfigError, match="nfe=1 does not pay for one call of this CFG, which"):
        sample(model, "DDIM", nfe=1, shape=(3, 2))
    table = compare(model, ["DDIM", "Heun", "recommended"], nfe=(6, 12), metric="rms",
                    starts=Starts(3, event_shape=(2,)))  # fmt: skip
    assert [(c.solver, c.budget, c.nfe, c.steps) for c in table.cells] == [
        ("DDIM", 6, 6.0, 3), ("DDIM", 12, 12.0, 6), ("Heun", 6, 6.0, 2), ("Heun", 12, 10.0, 3),
        ("recommended", 6, 6.0, 3), ("recommended", 12, 12.0, 6),
    ]  # fmt: skip
    assert table.markdown().splitlines()[0].endswith("| 6 NFE | 12 NFE |")


def test_a_wrapper_costs_what_it_wraps():
    one, two = CLASSES[0], guided()
    assert [evals_per_call(m) for m in (one, two, CFG.pair(two, one, scale=2.0))] == [1, 2, 3]


def test_a_tuned_grid_of_a_guided_model_costs_its_budget():
    model = guided(labels=1)
    found = tune(model, "DDIM", 8, event_shape=(2,), starts=8, held_out=4, rounds=0, key="guided")
    assert (found.nfe, found.budget, found.grid.steps) == (8, 8, 4)
    assert sample(model, found.solver, found.grid, shape=(2, 2)).nfe.tolist() == [8, 8]
