"""Likelihoods that end at the highest noise level that is trusted, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from scoresde import (
    VPSDE,
    Covariance,
    DiscreteVPSDE,
    Gaussian,
    GaussianMixture,
    ScoreModel,
    bits_per_dim,
    cosine_betas,
    log_likelihood,
)
from scoresde.errors import ConfigError, TimeRangeError, ZeroSNRError
from scoresde.exact.problems import ring8
from scoresde.guidance import CFG
from scoresde.likelihood import (
    Exact,
    MomentMatched,
    PerSample,
    Pixels,
    Whitened,
    calibrated_grid,
    nll_dataset,
)
from scoresde.likelihood.distribution import ScoreDistribution
from scoresde.likelihood.end_gap import end_gap
from scoresde.noise import generator
from scoresde.trusted import NoiseRange

COSINE = DiscreteVPSDE.from_betas(cosine_betas(1000))
DIM, STD = 16, 0.5
MEAN = torch.full((DIM,), 0.3, dtype=torch.float64)
GAUSSIAN = Gaussian(COSINE, MEAN, Covariance.isotropic(STD**2))
FINE = PerSample(tol=1e-6)


def network(exact: GaussianMixture, error: float = 0.0, above: float = 0.0) -> ScoreModel:
    """The exact network, with an error in eps of this root mean square above a noise level."""
    sde, size = exact.sde, exact.event_shape[0]
    waves = torch.randn(size, size, generator=generator("waves"), dtype=torch.float64)

    def net(x: Tensor, t: Tensor) -> Tensor:
        knot = sde.at(t, like=x)
        wrong = error * math.sqrt(2) * torch.sin(x @ waves / math.sqrt(size))
        return exact(x, knot).eps + torch.where(knot.sigma > above * knot.alpha, wrong, 0.0)

    return ScoreModel(net, sde, predicts="eps", time="t", net_dtype=torch.float64)


def trusted(model, high: float, mean: Tensor = MEAN, variance: float = STD**2) -> ScoreModel:
    return model.with_range(NoiseRange(0.01, high, mean, variance))


def moments(exact: GaussianMixture) -> tuple[Tensor, float]:
    drawn = exact.sample(200_000, seed=5).double()
    return drawn.mean(0), float(drawn.var(0).mean())


def test_a_gaussian_is_exact_at_any_end():
    x = GAUSSIAN.sample(8, seed=0)
    want = GAUSSIAN.log_prob(x, COSINE.at(COSINE.t_min))
    model = network(GAUSSIAN)
    for high in (1.0, 30.0, 1e6):  # the process ends at 20,291
        found = log_likelihood(trusted(model, high), x, method=FINE)
        torch.testing.assert_close(found.nats, want, rtol=0, atol=1e-3)
        rho = float(COSINE.at(found.t_max).rho)
        assert rho == pytest.approx(min(high, float(COSINE.at(COSINE.t_max).rho)), rel=1e-6)
    assert log_likelihood(trusted(model, 10.0), x).mean_nfe < log_likelihood(model, x).mean_nfe


def test_the_old_meaning_is_one_argument_away():
    # VP ends at rho = 152, where N(0, sigma^2) costs what its prior gap says.
    sde = VPSDE(beta_max=8.0)
    exact = Gaussian(sde, MEAN, Covariance.isotropic(STD**2))
    x, model = exact.sample(8, seed=0), network(exact)
    plain = log_likelihood(model, x, method=FINE)
    old = log_likelihood(trusted(model, 3.0), x, method=FINE, end="process")
    assert torch.equal(plain.nats, old.nats)
    assert old.t_max == sde.t_max
    new = log_likelihood(trusted(model, 3.0), x, method=FINE)
    assert float((old.nats - new.nats).abs().max()) > 0.01
    torch.testing.assert_close(new.nats, exact.log_prob(x, sde.at(sde.t_min)), rtol=0, atol=1e-3)
    prior = MomentMatched(MEAN, STD**2)  # a density at t_max, as ever
    given = log_likelihood(trusted(model, 3.0), x, method=FINE, prior=prior)
    assert given.t_max == sde.t_max
    torch.testing.assert_close(given.nats, new.nats, rtol=0, atol=1e-3)
    low = log_likelihood(trusted(model, 3.0), x, method=FINE, end=0.7)
    assert float(sde.at(low.t_max).rho) == pytest.approx(0.7)
    torch.testing.assert_close(low.nats, new.nats, rtol=0, atol=1e-3)


def test_a_mixture_errs_by_the_divergence_of_its_gaussian_which_falls_with_the_end():
    exact = ring8(VPSDE())
    mean, variance = moments(exact)
    x = exact.sample(64, seed=1).double()
    want = exact.log_prob(x, exact.sde.at(exact.sde.t_min))
    model, errors = network(exact), []
    for high in (0.5, 1.0, 2.0):
        found = log_likelihood(trusted(model, high, mean, variance), x, method=FINE)
        end = exact.sde.at(found.t_max)
        gaussian = MomentMatched(mean, variance).at(exact.sde)
        # The flow is a bijection: what is missed is the ratio of the two densities at the end.
        missed = exact.log_prob(found.z, end) - gaussian.log_prob(found.z, end)
        torch.testing.assert_close(want - found.nats, missed, rtol=0, atol=2e-3)
        many = exact.sample(100_000, seed=2).double()
        many = end.alpha * many + end.sigma * torch.randn_like(many)
        divergence = float((exact.log_prob(many, end) - gaussian.log_prob(many, end)).mean())
        errors.append(divergence)
        # The budget's estimate, made at half the level, lies above what the end costs.
        args = {"t_min": None, "divergence": None, "end": None, "seeds": range(64)}
        assert end_gap(trusted(model, high, mean, variance), x, **args) > divergence
    assert errors[0] > 0.05
    assert errors[1] < errors[0] / 8
    assert errors[2] < errors[1] / 8


def test_a_network_with_a_floor_is_right_at_its_trusted_end_and_not_at_the_process():
    x = GAUSSIAN.sample(64, seed=3)
    want = GAUSSIAN.log_prob(x, COSINE.at(COSINE.t_min))
    model = trusted(network(GAUSSIAN, 0.02, above=5.0), 10.0)
    settings = {"t_min": None, "divergence": Exact(), "end": None, "seeds": range(64)}
    stated = end_gap(model, x, **settings)
    new = log_likelihood(model, x, method=FINE)
    old = log_likelihood(model, x, method=FINE, end="process")
    assert abs(float((new.nats - want).mean())) < stated + float(new.error.mean())
    assert abs(float((old.nats - want).mean())) > 5 * stated
    assert float((old.nats - want).std()) > 4 * float((new.nats - want).std())


def test_the_budget_knows_the_end(tmp_path):
    spread = torch.linspace(0.5, 1.5, DIM, dtype=torch.float64) * STD**2
    exact = Gaussian(COSINE, MEAN, Covariance.diagonal(spread[None]))
    frame = Whitened(MEAN + 0.1, spread)
    images = torch.randint(60, 196, (20, DIM), generator=generator("images"))
    high = 4.0
    model = trusted(network(exact), high)
    settings = {"pixels": Pixels(), "divergence": Exact(), "frame": frame}
    found = bits_per_dim(model, images, **settings, method="PerSample(tol=1e-5)")
    noisy, used = spread + high**2, STD**2 + high**2
    want = 0.5 * (noisy / used - 1 - (noisy / used).log() + 0.1**2 / used).sum()
    assert found.parts["prior"] == pytest.approx(float(want) / (DIM * math.log(2)), rel=1e-4)
    assert 0 < found.parts["end"] < 0.01
    job = nll_dataset(model, images, tmp_path, **settings, batch_size=7)
    assert job.mean == pytest.approx(found.mean, abs=1e-3)
    assert job.parts["prior"] == found.parts["prior"]
    old = bits_per_dim(model, images, **settings, end="process", method="PerSample(tol=1e-5)")
    assert math.isnan(old.parts["end"])
    plain = bits_per_dim(network(exact), images, **settings, method="PerSample(tol=1e-5)")
    assert plain.mean == old.mean
    assert plain.parts["prior"] == old.parts["prior"]


def test_zero_snr_has_a_likelihood_where_it_is_trusted():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    betas = torch.cat([betas[:-1], torch.ones(1, dtype=torch.float64)])
    sde = DiscreteVPSDE.from_betas(betas)
    exact = Gaussian(sde, MEAN, Covariance.isotropic(STD**2))
    x = exact.sample(4, seed=0)
    with pytest.raises(ZeroSNRError, match="with_range"):
        log_likelihood(network(exact), x)
    model = trusted(network(exact), 20.0)
    want = exact.log_prob(x, sde.at(sde.t_min))
    torch.testing.assert_close(log_likelihood(model, x, method=FINE).nats, want, rtol=0, atol=1e-3)
    images = torch.randint(60, 196, (4, DIM), generator=generator("images"))
    assert math.isfinite(bits_per_dim(model, images).mean)


def test_grids_wrappers_and_distributions_end_there_too():
    model = trusted(network(GAUSSIAN), 10.0)
    x = GAUSSIAN.sample(16, seed=0)
    want = GAUSSIAN.log_prob(x, COSINE.at(COSINE.t_min))
    grid = calibrated_grid(model, x[:4], 31)
    torch.testing.assert_close(log_likelihood(model, x, method=grid).nats, want, rtol=0, atol=5e-3)
    guided = CFG.pair(model, model, scale=2.0)
    torch.testing.assert_close(log_likelihood(guided, x, method=FINE).nats, want, rtol=0, atol=1e-3)
    density = ScoreDistribution(model, (DIM,), method=FINE)
    drawn = density.sample((400,))
    assert float(drawn.mean()) == pytest.approx(0.3, abs=0.03)
    assert float(drawn.std()) == pytest.approx(STD, abs=0.03)
    torch.testing.assert_close(density.log_prob(x), want, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    ("end", "error", "says"),
    [
        ("end", ConfigError, "or 'process'"),
        (-1.0, ConfigError, "noise level rho"),
        (1e7, TimeRangeError, "ends at rho"),
        (1e-5, TimeRangeError, "begins at rho"),
    ],
)
def test_ends_that_cannot_be(end, error, says: str):
    with pytest.raises(error, match=says):
        log_likelihood(network(GAUSSIAN), MEAN[None], end=end)
