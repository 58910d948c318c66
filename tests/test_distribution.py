"""A model as a distribution: samples and densities of the same law."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support import gaussian

from scoresde import VPSDE, Heun, ScoreModel
from scoresde.errors import ConfigError, DtypeError, NonFiniteError, ShapeError
from scoresde.likelihood import PerSample
from scoresde.likelihood.distribution import ScoreDistribution


def test_log_prob_is_the_models_density_in_any_sample_shape() -> None:
    model = gaussian(VPSDE(), 2, 2)
    law = ScoreDistribution(model, (2, 2), method=PerSample(1e-6))
    x = model.sample(6, 1e-3, seed=1)
    truth = model.log_prob(x, 1e-3)
    assert law.log_prob(x[0]).shape == ()
    # N(0, sigma^2) stands for the noisy end's own Gaussian, whose mean is alpha mu.
    torch.testing.assert_close(
        law.log_prob(x.reshape(2, 3, 2, 2)), truth.reshape(2, 3), rtol=0, atol=0.05
    )


def test_samples_have_the_moments_of_the_density() -> None:
    """2000 draws: every mean within 4 standard errors, every variance within 4 of its own."""
    model = gaussian(VPSDE(), 3)
    law = ScoreDistribution(model, (3,), dtype=torch.float64)
    x = law.sample((20, 100)).reshape(-1, 3)
    mean, covariance = model.moments()
    low = model.sde.at(1e-3)
    variance = low.alpha**2 * covariance.diagonal() + low.sigma**2
    z = (x.mean(0) - low.alpha * mean) / (variance / 2000).sqrt()
    assert float(z.abs().max()) < 4
    spread = (x.var(0) / variance - 1) / math.sqrt(2 / 2000)
    assert float(spread.abs().max()) < 4


def test_draws_differ_and_repeat_with_the_seed() -> None:
    model = gaussian(VPSDE(), 2)
    a, b = ScoreDistribution(model, (2,), seed=5), ScoreDistribution(model, (2,), seed=5)
    first = a.sample((3,))
    assert not torch.equal(first, a.sample((3,)))
    torch.testing.assert_close(b.sample((3,)), first)
    assert a.sample().shape == (2,)


def test_gradients_reach_the_value() -> None:
    model = gaussian(VPSDE(), 2)
    law = ScoreDistribution(model, (2,), method=PerSample(1e-6))
    x = model.sample(1, 1e-3, seed=1).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(slope, model.score(x.detach(), 1e-3), rtol=1e-2, atol=1e-2)


def test_values_that_cannot_be_right() -> None:
    law = ScoreDistribution(gaussian(VPSDE(), 2), (2,))
    with pytest.raises(ShapeError, match=r"\(\*, 2\)"):
        law.log_prob(torch.zeros(4, 3))
    with pytest.raises(DtypeError, match=r"write torch\.as_tensor\(x\)"):
        law.log_prob(np.zeros((4, 2)))
    for event in (2, (2.0,), "2"):
        with pytest.raises(ShapeError, match=r"such as \(2,\), in whole numbers, got"):
            ScoreDistribution(law.model, event)
    with pytest.raises(ConfigError, match=r"runs both ways .*, got Heun"):
        ScoreDistribution(law.model, (2,), solver=Heun())
    with pytest.raises(DtypeError, match="floating point"):
        ScoreDistribution(law.model, (2,), dtype=torch.int64)
    broken = ScoreDistribution(ScoreModel(lambda x, t: x * math.nan, VPSDE(), time="t"), (2,))
    with pytest.raises(NonFiniteError, match="2 of 2 values"):
        broken.log_prob(torch.zeros(2, 2))
