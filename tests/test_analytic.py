"""The closed-form models, against autograd, torch.distributions and an independent integrator."""

from __future__ import annotations

import math
from dataclasses import fields
from functools import partial

import pytest
import torch
from scipy.integrate import solve_ivp
from support import CONTINUOUS, PROCESSES, generator, randn

from scoresde import (
    VPSDE,
    FlowSDE,
    Gaussian,
    GaussianMixture,
)
from scoresde import (
    Covariance as Cov,
)
from scoresde.errors import ConfigError, ShapeError
from scoresde.exact.mixtures import Diagonal

D, K = 6, 3


def _first(covariance):
    """The covariance of the first component alone."""
    parts = {field.name: getattr(covariance, field.name)[:1] for field in fields(covariance)}
    return type(covariance)(**parts)


def _matrices() -> torch.Tensor:
    factor = randn(K, D, D, seed=5) / math.sqrt(D)
    return factor @ factor.transpose(1, 2) + 0.1 * torch.eye(D, dtype=torch.float64)


FACTORS = randn(K, D, 2, seed=6)
SPREAD = 0.1 + torch.rand(K, D, generator=generator(7), dtype=torch.float64)

# A covariance as the library takes it, and the matrices it stands for, shape (K, D, D).
KINDS = {
    "one isotropic": (Cov.isotropic(0.3), 0.3 * torch.eye(D).double().expand(K, D, D)),
    "isotropic": (
        Cov.isotropic([0.1, 0.2, 0.5]),
        torch.tensor([0.1, 0.2, 0.5], dtype=torch.float64)[:, None, None] * torch.eye(D).double(),
    ),
    "diagonal": (Cov.diagonal(SPREAD), torch.diag_embed(SPREAD)),
    "one diagonal": (Cov.diagonal(SPREAD[:1]), torch.diag_embed(SPREAD[:1]).expand(K, D, D)),
    "full": (Cov.full(_matrices()), _matrices()),
    "one full": (Cov.full(_matrices()[:1]), _matrices()[:1].expand(K, D, D)),
    "low rank": (
        Cov.low_rank(FACTORS, 0.2),
        FACTORS @ FACTORS.transpose(1, 2) + 0.2 * torch.eye(D).double(),
    ),
    "low rank, one ridge each": (
        Cov.low_rank(FACTORS, [0.1, 0.2, 0.3]),
        FACTORS @ FACTORS.transpose(1, 2)
        + torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)[:, None, None] * torch.eye(D).double(),
    ),
}

MEANS = randn(K, D, seed=8)
WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)


# Every kind on one process, every process with one kind.
PAIRS = [
    *(("vp", kind) for kind in KINDS),
    *((process, "low rank, one ridge each") for process in PROCESSES if process != "vp"),
]


@pytest.fixture(params=list(KINDS))
def kind(request):
    return KINDS[request.param]


def _model(sde, covariance) -> GaussianMixture:
    return GaussianMixture(sde, MEANS, covariance, 3 * WEIGHTS)


def _summed_score(model, knot, x):
    return model.score(x, knot).sum(0)


def _reference(knot, matrices):
    """The same density by torch.distributions."""
    noise = float(knot.sigma) ** 2 * torch.eye(D).double()
    component = torch.distributions.MultivariateNormal(
        float(knot.alpha) * MEANS, float(knot.alpha) ** 2 * matrices + noise
    )
    mixing = torch.distributions.Categorical(probs=WEIGHTS)
    return torch.distributions.MixtureSameFamily(mixing, component)


@pytest.mark.parametrize(("process", "kind"), PAIRS)
def test_density_score_and_divergence_at_any_time(process, kind):
    sde, (covariance, matrices) = PROCESSES[process], KINDS[kind]
    model = _model(sde, covariance)
    for share in (0.0, 0.1, 0.5, 0.99):
        knot = sde.at(sde.t_min + share * (sde.t_max - sde.t_min))
        x = (knot.alpha * randn(5, D, seed=9) + knot.sigma * randn(5, D, seed=10)).requires_grad_()
        reference = _reference(knot, matrices)
        log_prob = reference.log_prob(x)
        torch.testing.assert_close(model.log_prob(x, knot), log_prob, rtol=1e-9, atol=1e-9)
        (score,) = torch.autograd.grad(log_prob.sum(), x)
        unit = knot.sigma
        torch.testing.assert_close(unit * model.score(x, knot), unit * score, rtol=1e-7, atol=1e-8)
        x = x.detach()
        torch.testing.assert_close(model(x, knot).score, model.score(x, knot))
        jacobians = torch.autograd.functional.jacobian(partial(_summed_score, model, knot), x)
        trace = torch.einsum("ibi->b", jacobians)
        torch.testing.assert_close(
            unit**2 * model.divergence(x, knot), unit**2 * trace, rtol=1e-8, atol=1e-8
        )


def test_the_score_is_the_gradient_of_the_models_own_density(kind):
    model = _model(VPSDE(), kind[0])
    x = randn(4, D).requires_grad_()
    (grad,) = torch.autograd.grad(model.log_prob(x, 0.3).sum(), x)
    torch.testing.assert_close(model.score(x.detach(), 0.3), grad, rtol=1e-9, atol=1e-9)


def test_one_time_a_sample(kind):
    sde, model = VPSDE(), _model(VPSDE(), kind[0])
    x, t = randn(3, D), torch.tensor([0.05, 0.5, 0.9], dtype=torch.float64)
    for fn in (model.score, model.log_prob, model.divergence):
        together = fn(x, t)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], fn(x[i : i + 1], float(t[i])))
    torch.testing.assert_close(model(x, sde.at(t, like=x)).score, model.score(x, t))


def test_the_datas_own_density(kind):
    model = _model(VPSDE(), kind[0])
    x = randn(5, D)
    expected = _reference(VPSDE.clean, kind[1]).log_prob(x)
    torch.testing.assert_close(model.log_prob(x, VPSDE.clean), expected)


def test_moments_and_samples(kind):
    """40,000 draws: 4 standard errors are 2% of a deviation in the mean, 3% in a variance."""
    model, n = _model(VPSDE(), kind[0]), 40_000
    mean = (WEIGHTS[:, None] * MEANS).sum(0)
    centred = MEANS - mean
    covariance = torch.einsum("k,kij->ij", WEIGHTS, kind[1]) + torch.einsum(
        "k,ki,kj->ij", WEIGHTS, centred, centred
    )
    given_mean, given = model.moments()
    torch.testing.assert_close(given_mean, mean)
    torch.testing.assert_close(given, covariance)
    knot = VPSDE().at(0.4)
    for t, a, s in ((None, 1.0, 0.0), (0.4, knot.alpha, knot.sigma)):
        x = model.sample(n, t, seed=11)
        expected = a * a * covariance + s * s * torch.eye(D).double()
        z = (x.mean(0) - a * mean) / (expected.diagonal() / n).sqrt()
        assert float(z.abs().max()) < 4
        # A mixture's fourth moments are below the Gaussian ones times 2 here.
        sd = (expected.diagonal()[:, None] * expected.diagonal() + expected**2).sqrt()
        error = (torch.cov(x.T) - expected) / (sd / math.sqrt(n))
        assert float(error.abs().max()) < 5.5
    assert torch.equal(model.sample(7, seed=1), model.sample(7, seed=1))
    assert model.sample(7, dtype=torch.float32).dtype == torch.float32


def test_each_component_is_drawn_from_its_own_covariance():
    far = 100 * torch.arange(K).double()[:, None] * torch.ones(D).double()
    for covariance, matrices in KINDS.values():
        x = GaussianMixture(VPSDE(), far, covariance, WEIGHTS).sample(30_000, seed=2)
        which = (x.mean(1) / 100).round().long()
        share = torch.bincount(which, minlength=K) / 30_000
        assert float((share - WEIGHTS).abs().max()) < 4 * 0.5 / math.sqrt(30_000)
        for k in range(K):
            mine = x[which == k]
            sd = (
                matrices[k].diagonal()[:, None] * matrices[k].diagonal() + matrices[k] ** 2
            ).sqrt()
            error = (torch.cov(mine.T) - matrices[k]) * math.sqrt(len(mine)) / sd
            assert float(error.abs().max()) < 4.5


@pytest.mark.parametrize(("process", "kind"), [pair for pair in PAIRS if pair[0] in CONTINUOUS])
def test_the_flow_of_a_gaussian_against_a_tight_integration(process, kind):
    """x' = f x - g^2 score / 2, integrated by scipy's DOP853 to 1e-11."""
    sde, covariance = CONTINUOUS[process], KINDS[kind][0]
    one = _first(covariance)
    model = Gaussian(sde, MEANS[0], one)
    start, end = 0.9 * sde.t_max, max(sde.t_min, 0.05 * sde.t_max)
    x = float(sde.at(start).radius) * randn(2, D)

    def velocity(t, flat):
        y = torch.from_numpy(flat).reshape(2, D)
        return (sde.f(t) * y - 0.5 * sde.g2(t) * model.score(y, t)).flatten().numpy()

    path = solve_ivp(
        velocity, (start, end), x.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-12
    )
    moved = model.flow(x, sde.at(start), sde.at(end))
    reached = torch.from_numpy(path.y[:, -1]).reshape(2, D)
    torch.testing.assert_close(moved, reached, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("process", "kind"), PAIRS)
def test_the_flow_is_a_group(process, kind):
    sde, covariance = PROCESSES[process], KINDS[kind][0]
    one = _first(covariance)
    model = Gaussian(sde, MEANS[0], one)
    a, b, c = (sde.at(sde.t_min + s * (sde.t_max - sde.t_min)) for s in (0.05, 0.4, 0.9))
    x = c.radius * randn(4, D)
    there = model.flow(x, c, a)
    torch.testing.assert_close(model.flow(model.flow(x, c, b), b, a), there)
    torch.testing.assert_close(model.flow(there, a, c), x)
    torch.testing.assert_close(model.flow(x, c, c), x)
    clean = model.flow(x, c, sde.clean)
    torch.testing.assert_close(model.flow(there, a, sde.clean), clean)


def test_the_flow_carries_the_density():
    """log p_s(flow(x)) + log |d flow / d x| = log p_t(x), the change of variables."""
    sde = CONTINUOUS["subvp"]
    model = Gaussian(sde, MEANS[0], Cov.full(_matrices()[:1]))
    t, s = sde.at(0.8), sde.at(0.1)
    x = randn(1, D)
    jacobian = torch.autograd.functional.jacobian(lambda y: model.flow(y, t, s)[0], x)[:, 0]
    moved = model.log_prob(model.flow(x, t, s), s) + torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(moved, model.log_prob(x, t))


def test_events_of_any_shape_agree_with_flat_ones(kind):
    covariance, _ = kind
    shaped = (
        Cov.diagonal(covariance.e.reshape(-1, 2, 3))
        if isinstance(covariance, Diagonal)
        else covariance
    )
    flat = _model(VPSDE(), covariance)
    cube = GaussianMixture(VPSDE(), MEANS.reshape(K, 2, 3), shaped, WEIGHTS)
    x = randn(4, D)
    torch.testing.assert_close(cube.score(x.reshape(4, 2, 3), 0.3).flatten(1), flat.score(x, 0.3))
    torch.testing.assert_close(cube.log_prob(x.reshape(4, 2, 3), 0.3), flat.log_prob(x, 0.3))
    assert cube.sample(2).shape == (2, 2, 3)
    assert cube.means.shape == (K, 2, 3)
    assert cube.moments()[0].shape == (2, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_low_precision_states_get_float64_arithmetic(dtype, kind):
    model = _model(VPSDE(), kind[0])
    x = randn(3, D).to(dtype)
    for fn in (model.score, model.log_prob, model.divergence):
        assert fn(x, 0.3).dtype == dtype
        assert torch.equal(fn(x, 0.3), fn(x.double(), 0.3).to(dtype))
    assert model.score(x[:0], 0.3).shape == (0, D)


def test_low_noise_stays_accurate():
    """With variances of 1e-8 at the clean end nothing cancels: 1e-6 relative, in the score."""
    sde = VPSDE(t_min=1e-6)
    narrow = GaussianMixture(sde, MEANS, Cov.low_rank(FACTORS, 1e-8), WEIGHTS)
    knot = sde.at(1e-6)
    x = narrow.sample(4, knot, seed=3)
    reference = _reference(knot, FACTORS @ FACTORS.transpose(1, 2) + 1e-8 * torch.eye(D).double())
    y = x.clone().requires_grad_()
    (score,) = torch.autograd.grad(reference.log_prob(y).sum(), y)
    torch.testing.assert_close(narrow.score(x, knot), score, rtol=1e-5, atol=1e-3)


def test_without_signal_the_mean_is_the_best_guess():
    sde = FlowSDE()
    model = _model(sde, KINDS["full"][0])
    out = model(randn(3, D), sde.at(1.0))
    torch.testing.assert_close(out.x0, model.moments()[0].expand(3, D))
    torch.testing.assert_close(out.eps, randn(3, D))
    near = model(randn(3, D), sde.at(1 - 1e-9))
    torch.testing.assert_close(near.x0, out.x0, rtol=1e-5, atol=1e-5)


def test_a_copy_on_another_device_is_the_same(kind):
    model = _model(VPSDE(), kind[0])
    copy = model.to("cpu")
    x = randn(3, D)
    assert torch.equal(copy.score(x, 0.3), model.score(x, 0.3))
    assert copy.event_shape == model.event_shape


def test_weights_given_as_numbers_are_not_rounded():
    model = GaussianMixture(VPSDE(), MEANS, Cov.isotropic(0.3), [0.2, 0.5, 0.3])
    assert model.weights.tolist() == pytest.approx([0.2, 0.5, 0.3], abs=1e-15)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (
            lambda: GaussianMixture(VPSDE(), torch.zeros(3), Cov.isotropic(1.0)),
            ShapeError,
            "(K, *event)",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.isotropic(1.0), [0.5, 0.5]),
            ShapeError,
            "3 weights",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.isotropic(1.0), [1, 0, 1]),
            ConfigError,
            "positive",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.isotropic(0.0)),
            ConfigError,
            "variances",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.isotropic([1.0, 2.0])),
            ShapeError,
            "3 means",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.diagonal(torch.ones(3, 5))),
            ShapeError,
            "(3, 5)",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.diagonal(-torch.ones(3, D))),
            ConfigError,
            "-1",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.full(torch.eye(5)[None])),
            ShapeError,
            "6 coord",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.full(-torch.eye(D)[None])),
            ConfigError,
            "positive",
        ),
        (
            lambda: GaussianMixture(VPSDE(), MEANS, Cov.low_rank(FACTORS, 0.0)),
            ConfigError,
            "positive",
        ),
        (
            lambda: _model(VPSDE(), Cov.isotropic(1.0)).score(randn(2, 5), 0.5),
            ShapeError,
            "(B, 6)",
        ),
        (
            lambda: _model(VPSDE(), Cov.isotropic(1.0)).score(randn(2, 6), torch.rand(3)),
            ShapeError,
            "(2,)",
        ),
    ],
)
def test_bad_input_is_explained(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)
