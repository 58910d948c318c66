"""The hybrid loss of networks that learn their variance, against KL divergences from the betas."""

from __future__ import annotations

import math

import pytest
import torch
from support import randn
from torch.distributions import Normal, kl_divergence

from scoresde import VPSDE, DiscreteVPSDE, LearnedRange, ScoreModel, linear_betas
from scoresde.errors import ConfigError
from scoresde.scalar import affine
from scoresde.training.hybrid import Hybrid
from scoresde.training.losses import (
    Likelihood,
    LogNormalRho,
    Simple,
    UniformLambda,
    UniformT,
    from_dict,
    score_matching_loss,
    to_dict,
    weighted_error,
)

N = 20
BETAS = torch.as_tensor(linear_betas(N)).clamp(max=0.5)
PRODUCT = torch.cumprod(1 - BETAS, 0)
TABLE = DiscreteVPSDE.from_betas(BETAS)


class Net(torch.nn.Module):
    """eps in the first half of the channels, the variance in the second, as plain parameters."""

    def __init__(self, shape):
        super().__init__()
        self.eps = torch.nn.Parameter(0.4 * randn(*shape, seed=5))
        self.variance = torch.nn.Parameter(0.8 * torch.tanh(randn(*shape, seed=6)))

    def forward(self, x, time):
        return torch.cat([self.eps + 0.3 * x, self.variance.expand_as(x)], 1)


def _model(shape=(4, 3, 2)):
    return ScoreModel(Net(shape), TABLE, output=LearnedRange())


def _kl(x0, x, eps, variance, k):
    """By the formulas of Ho et al. 2020, eq. 7, and Nichol & Dhariwal, eq. 15; bits a dimension."""
    beta, now, before = BETAS[k], PRODUCT[k], PRODUCT[k - 1]
    tilde = (1 - before) / (1 - now) * beta

    def mean(data):
        return (before.sqrt() * beta * data + (1 - beta).sqrt() * (1 - before) * x) / (1 - now)

    guess = (x - (1 - now).sqrt() * eps) / now.sqrt()
    share = (variance + 1) / 2
    own = (share * beta.log() + (1 - share) * tilde.log()).exp()
    kl = kl_divergence(Normal(mean(x0), tilde.sqrt()), Normal(mean(guess.detach()), own.sqrt()))
    return kl.flatten(1).mean(1) / math.log(2)


def _decoder(x0, x, eps, variance, levels):
    guess = ((x - (1 - PRODUCT[0]).sqrt() * eps) / PRODUCT[0].sqrt()).detach()
    least = (1 - PRODUCT[0]) / (1 - PRODUCT[1]) * BETAS[1]
    share = (variance + 1) / 2
    std = (share * BETAS[0].log() + (1 - share) * least.log()).div(2).exp()
    if levels is None:
        return -Normal(guess, std).log_prob(x0).flatten(1).mean(1) / math.log(2)
    normal, half = Normal(guess, std), 1 / (levels - 1)
    above = torch.where(x0 > 1 - half, 1.0, normal.cdf(x0 + half))
    below = torch.where(x0 < half - 1, 0.0, normal.cdf(x0 - half))
    return -(above - below).log().flatten(1).mean(1) / math.log(2)


@pytest.mark.parametrize("levels", [None, 2, 5])
def test_each_term_is_the_closed_form(levels):
    model, x0, eps = _model(), randn(4, 3, 2).clamp(-1, 1), randn(4, 3, 2, seed=1)
    if levels is not None:
        x0 = ((x0 + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1
    for k in range(N):
        knot = TABLE.at(torch.full((4,), float(k), dtype=torch.float64), like=x0)
        density = UniformT().density(TABLE, knot)
        one = weighted_error(model, x0, eps, knot, Simple(), density)
        both = weighted_error(model, x0, eps, knot, Hybrid(levels=levels), density)
        x = affine(knot.alpha, x0, knot.sigma, eps)
        told = model.net.eps + 0.3 * x, model.net.variance
        want = _kl(x0, x, *told, k) if k else _decoder(x0, x, *told, levels)
        torch.testing.assert_close(both - one, 0.001 * N * want, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("k", [0, 1, 9, N - 1])
def test_gradients_are_those_of_the_squared_error_and_of_the_bound(k):
    """The mean's gradient is that of L_simple alone, the variance's that of the KL divergence."""
    model, x0, eps = _model(), randn(4, 3, 2), randn(4, 3, 2, seed=1)
    knot = TABLE.at(torch.full((4,), float(k), dtype=torch.float64), like=x0)
    density = UniformT().density(TABLE, knot)
    leaves = model.net.eps, model.net.variance
    simple = weighted_error(model, x0, eps, knot, Simple(), density).mean()
    mean, nothing = torch.autograd.grad(simple, leaves, allow_unused=True, materialize_grads=True)
    assert float(nothing.abs().max()) == 0.0  # what no weighting of squares can train
    hybrid = weighted_error(model, x0, eps, knot, Hybrid(), density).mean()
    found = torch.autograd.grad(hybrid, leaves)
    torch.testing.assert_close(found[0], mean, rtol=1e-12, atol=1e-14)
    x = affine(knot.alpha, x0, knot.sigma, eps)
    step = 1e-5
    for place in ((0, 0, 0), (2, 1, 1), (3, 2, 0)):
        ends = []
        for sign in (1, -1):
            moved = model.net.variance.detach().clone()
            moved[place] += sign * step
            told = model.net.eps.detach() + 0.3 * x, moved
            each = _kl(x0, x, *told, k) if k else _decoder(x0, x, *told, None)
            ends.append(0.001 * N * each.mean())
        slope = (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(found[1][place], slope, rtol=1e-5, atol=1e-12)
        assert abs(float(slope)) > 1e-9


def test_the_bound_is_without_bias_for_any_distribution_of_times():
    """4 sigma of 60,000 draws is 1 to 2 %; forgetting the density is off by a factor."""
    model = _model((1, 3, 2))
    means = []
    for times in (UniformT(), UniformLambda(), LogNormalRho(-1.0, 3.0)):
        generator = torch.Generator().manual_seed(0)
        x0 = randn(1, 3, 2).expand(60_000, 3, 2)
        with torch.no_grad():
            both, one = (
                score_matching_loss(model, x0, generator=generator.manual_seed(0),
                                    weighting=w, times=times)
                for w in (Hybrid(Likelihood(), 1.0), Likelihood())
            )  # fmt: skip
        means.append(float((both - one).mean()))
    assert means[1] == pytest.approx(means[0], rel=0.03)
    assert means[2] == pytest.approx(means[0], rel=0.03)


def test_a_variance_learns_the_true_one():
    """Data N(0, 1) under this table stay N(0, 1): the step back has the forward variance beta."""

    class Exact(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.variance = torch.nn.Parameter(torch.zeros(N, dtype=torch.float64))

        def forward(self, x, time):
            sigma = (1 - PRODUCT[time.long()]).sqrt().reshape(-1, 1)
            value = self.variance[time.long()].reshape(-1, 1).expand_as(x)
            return torch.cat([sigma * x, value], 1)

    net = Exact()
    model = ScoreModel(net, TABLE, output=LearnedRange())
    x0, eps = randn(200_000, 1), randn(200_000, 1, seed=1)
    for k in (1, 4, 12):
        knot = TABLE.at(torch.full((200_000,), float(k), dtype=torch.float64), like=x0)
        density = UniformT().density(TABLE, knot)
        with torch.no_grad():
            net.variance[k] = 1.0  # share 1: the forward variance
        loss = weighted_error(model, x0, eps, knot, Hybrid(), density).mean()
        (slope,) = torch.autograd.grad(loss, net.variance)
        with torch.no_grad():
            net.variance[k] = 0.9  # 5 % of the way back
        off = weighted_error(model, x0, eps, knot, Hybrid(), density).mean()
        (wrong,) = torch.autograd.grad(off, net.variance)
        assert abs(slope[k]) < 0.2 * abs(wrong[k])


def test_it_is_data():
    value = Hybrid(Likelihood(), 0.01, levels=256)
    assert from_dict(to_dict(value)) == value


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda: Hybrid(vlb=0.0), "vlb > 0"),
        (lambda: Hybrid(levels=1), "write 256 or None"),
        (lambda: _loss(ScoreModel(lambda x, t: x, TABLE)), r"output=LearnedRange\(\)"),
        (
            lambda: _loss(
                ScoreModel(
                    lambda x, t: torch.cat([x, x], 1), VPSDE(), time="t", output=LearnedRange()
                )
            ),
            "those of a table",
        ),
    ],
)
def test_what_it_cannot_do_is_refused(act, says):
    with pytest.raises(ConfigError, match=says):
        act()


def _loss(model):
    return score_matching_loss(model, randn(2, 2), generator=torch.Generator(), weighting=Hybrid())
