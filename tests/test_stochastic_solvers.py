"""Stochastic solvers against exact paths and exact moments."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
import torch
from stochastic_truth import (
    IDS,
    PROCESSES,
    FinePath,
    Given,
    LinearModel,
    affine_map,
    follow,
    follow_gaussian,
    lambda_grid,
    marginal_error,
    observed_order,
    output_moments,
    transition_error,
    true_moments,
)

from scoresde import (
    DDIM,
    VPSDE,
    BrownianPath,
    EulerMaruyama,
    GaussianMixture,
    Grid,
    Predrawn,
    SampleSeeds,
    ScoreModel,
)
from scoresde.errors import ConfigError, SolverError
from scoresde.exact.mixtures import Covariance
from scoresde.grid import karras, uniform_lambda, uniform_t
from scoresde.sampling.run import sample
from scoresde.solvers import evaluations
from scoresde.solvers.analytic_dpm import AnalyticDPM
from scoresde.solvers.ancestral import Ancestral
from scoresde.solvers.dpmpp_ancestral import DPMSolverPP2SAncestral
from scoresde.solvers.er_sde import ERSDE
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.seeds_sde import SEEDS2, SEEDS3, DPMSolverPPSDE, StochasticHeun
from scoresde.solvers.torchsde_solver import TorchSDE

FIRST_ORDER = [EulerMaruyama(), ReverseDiffusion(), Ancestral(), Ancestral("forward")]
SECOND_ORDER = [
    SEEDS2(),
    SEEDS3(),
    StochasticHeun(),
    DPMSolverPPSDE(),
    DPMSolverPPSDE(r=1.0),
    SEEDS2(0.5),
    DPMSolverPPSDE(tau=1.5, r=0.7),
    ERSDE(2, "sde"),
    ERSDE(3, "sde"),
]
ANCESTRAL_2S = [DPMSolverPP2SAncestral(), DPMSolverPP2SAncestral(0.5)]
ALL = [
    *FIRST_ORDER,
    *SECOND_ORDER,
    *ANCESTRAL_2S,
    ERSDE(),
    ERSDE(2),
    ERSDE(1, "sde"),
    ERSDE(scale="er4"),
]


def mixture(sde):
    means = torch.tensor([[-1.0], [0.2], [1.3]], dtype=torch.float64)
    return GaussianMixture(sde, means, Covariance.isotropic([0.04, 0.09, 0.02]), [0.5, 0.3, 0.2])


def rms(x):
    return float(x.square().mean().sqrt())


# -- strong convergence --------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("solver", [*FIRST_ORDER, *SECOND_ORDER[:5]], ids=str)
def test_strong_order_against_the_exact_path_of_gaussian_data(solver, sde):
    fine = lambda_grid(sde, 6144)
    path = FinePath(fine, 256)
    x = 1.3 * fine.knots[0].sigma * torch.linspace(-2, 2, 256, dtype=torch.float64)[:, None]
    truth = follow_gaussian(path, fine, x)
    counts = [64, 128, 256]
    errors = []
    for n in counts:
        got = sample(LinearModel(sde), solver, lambda_grid(sde, n), x=x, noise=Given(path)).x
        errors.append(rms(got - truth))
    # The error of one step has independent signs for its noise part: strong order 1, not 1/2.
    assert observed_order(errors, counts) == pytest.approx(1.0, abs=0.15)
    assert errors[-1] < 0.05 * rms(truth)


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("kind", [EulerMaruyama, ReverseDiffusion])
def test_strong_convergence_for_every_stochasticity(kind, stochasticity):
    sde = VPSDE()
    fine = lambda_grid(sde, 8192)
    path = FinePath(fine, 256)
    x = torch.linspace(-3, 3, 256, dtype=torch.float64)[:, None]
    truth = follow_gaussian(path, fine, x, stochasticity)
    counts = [128, 256, 512]
    errors = [
        rms(
            sample(
                LinearModel(sde), kind(stochasticity), lambda_grid(sde, n), x=x, noise=Given(path)
            ).x
            - truth
        )
        for n in counts
    ]
    assert observed_order(errors, counts) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("solver", FIRST_ORDER, ids=str)
def test_strong_order_on_a_mixture(solver):
    sde = VPSDE()
    model, fine = mixture(sde), lambda_grid(sde, 2048)
    path = FinePath(fine, 256, seed=3)
    x = fine.knots[0].sigma * torch.linspace(-2, 2, 256, dtype=torch.float64)[:, None]
    truth = follow(model, path, fine, x)
    counts = [32, 64, 128]
    errors = [
        float((sample(model, solver, lambda_grid(sde, n), x=x, noise=Given(path)).x - truth)
              .abs().median())
        for n in counts
    ]  # fmt: skip
    assert observed_order(errors, counts) == pytest.approx(1.0, abs=0.2)


def test_a_brownian_path_is_followed_by_any_number_of_steps():
    sde = VPSDE()
    noise = BrownianPath(tuple(range(24)))
    x = torch.linspace(-2, 2, 24, dtype=torch.float64)[:, None]
    ends = [
        sample(LinearModel(sde), ReverseDiffusion(), lambda_grid(sde, n), x=x, noise=noise).x
        for n in (16, 32, 64, 128)
    ]
    # Differences of successive refinements halve: a Cauchy sequence of strong order 1.
    gaps = [rms(b - a) for a, b in pairwise(ends)]
    assert observed_order(gaps, [16, 32, 64]) == pytest.approx(1.0, abs=0.25)


# -- exact marginal moments ------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("solver", FIRST_ORDER, ids=str)
def test_the_bias_of_mean_and_variance_falls_at_order_1(solver, sde):
    counts = [128, 256, 512]
    errors = [marginal_error(solver, lambda_grid(sde, n)) for n in counts]
    assert observed_order([e[1] for e in errors], counts) == pytest.approx(1.0, abs=0.15)
    if errors[-1][0] > 1e-9:  # some schemes carry the mean exactly
        assert observed_order([e[0] for e in errors], counts) == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("sde", [PROCESSES[1], PROCESSES[3], PROCESSES[5]], ids=IDS[1::2])
@pytest.mark.parametrize("solver", SECOND_ORDER, ids=str)
def test_mean_and_variance_given_the_start_converge_at_the_weak_order(solver, sde):
    share = getattr(solver, "tau", getattr(solver, "eta", 1.0))
    counts = [64, 128, 256]
    errors = [transition_error(solver, lambda_grid(sde, n), share) for n in counts]
    for column in zip(*errors, strict=True):  # the mean's slope, the variance, the offset
        if max(column) > 1e-9:  # x0 forms carry the mean exactly: x0 is a martingale
            # The order is a promise from below: signs of two error terms may cancel for a while.
            assert observed_order(column, counts) > solver.order - 0.15
            assert column[-1] < 2e-3


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("solver", ANCESTRAL_2S, ids=str)
def test_the_marginal_variance_of_2s_ancestral_has_order_2(solver, sde):
    """Its law given the start is another one than the reverse SDE's; only marginals agree."""
    counts = [64, 128, 256]
    errors = [marginal_error(solver, lambda_grid(sde, n))[1] for n in counts]
    assert observed_order(errors, counts) == pytest.approx(2.0, abs=0.15)


@pytest.mark.parametrize("sde", PROCESSES[:5], ids=IDS[:5])
@pytest.mark.parametrize("n", [1, 2, 3, 20])
@pytest.mark.parametrize("clean", [True, False])
def test_reverse_diffusion_makes_the_moments_of_its_recursion(sde, n, clean):
    grid = uniform_t(sde, n, clean=clean)
    m, v = 0.7, 0.25
    mean, variance = true_moments(grid.knots[0], m, v)
    for t, s in pairwise(grid.knots):
        p = t.alpha**2 * v + t.sigma**2
        if s.is_clean:  # E[x0 | x]
            mean = m + t.alpha * v / p * (mean - t.alpha * m)
            variance *= (t.alpha * v / p) ** 2
            continue
        a = t.alpha / s.alpha
        b2 = t.sigma**2 - (a * s.sigma) ** 2
        mean = (2 - a) * mean - b2 * (mean - t.alpha * m) / p
        variance = (2 - a - b2 / p) ** 2 * variance + b2
    got = output_moments(ReverseDiffusion(), grid, m, v)
    assert got == pytest.approx((mean, variance), rel=1e-9)
    assert all(math.isfinite(value) for value in got)


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_the_posterior_variance_is_exact_for_one_point(sde, n):
    got = output_moments(Ancestral(), lambda_grid(sde, n), variance=1e-14)
    assert got == pytest.approx(true_moments(sde.at_lambda(2.0), variance=1e-14), rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 3, 20])
def test_the_forward_variance_is_exact_for_standard_normal_data(n):
    got = output_moments(Ancestral("forward"), lambda_grid(VPSDE(), n), mean=0.0, variance=1.0)
    assert got == pytest.approx((0.0, 1.0), abs=1e-12)


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
def test_ancestral_sampling_is_ddim_with_eta_1(sde):
    model, grid = mixture(sde), uniform_t(sde, 7)
    noise = SampleSeeds(tuple(range(5)))
    settings = {"shape": (5, 1), "noise": noise, "dtype": torch.float64}
    ours = sample(model, Ancestral(), grid, **settings).x
    theirs = sample(model, DDIM(eta=1.0), grid, **settings).x
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


# -- published rules ------------------------------------------------------------------------------


def rows(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_seeds_3_is_the_published_algorithm():
    """Gonzalez et al. 2023, algorithm 3, line by line for one VP step."""
    sde = VPSDE()
    model, (t, s) = mixture(sde), lambda_grid(sde, 1, -0.5, 0.4).knots
    x, z1, z2, z3 = (rows(4, 1, seed=k) for k in range(4))
    h = s.lam - t.lam
    k1, k2 = (sde.at_lambda(t.lam + r * h) for r in (1 / 3, 2 / 3))
    e = math.exp
    eps = model(x, t).eps
    u1 = k1.alpha / t.alpha * x - 2 * k1.sigma * (e(h / 3) - 1) * eps
    u1 = u1 + k1.sigma * math.sqrt(e(2 * h / 3) - 1) * z1
    d1 = model(u1, k1).eps - eps
    r = 2 / 3 * h
    u2 = k2.alpha / t.alpha * x - 2 * k2.sigma * (e(r) - 1) * eps
    u2 = u2 - 2 * k2.sigma * 2 * ((e(r) - 1) / r - 1) * d1
    u2 = u2 + k2.sigma * (math.sqrt(e(2 * r) - e(r)) * z1 + math.sqrt(e(r) - 1) * z2)
    d2 = model(u2, k2).eps - eps
    want = s.alpha / t.alpha * x - 2 * s.sigma * (e(h) - 1) * eps
    want = want - 3 * s.sigma * ((e(h) - 1) / h - 1) * d2
    want = want + s.sigma * (
        math.sqrt(e(2 * h) - e(4 * h / 3)) * z1
        + math.sqrt(e(4 * h / 3) - e(2 * h / 3)) * z2
        + math.sqrt(e(2 * h / 3) - 1) * z3
    )
    got = sample(model, SEEDS3(), lambda_grid(sde, 1, -0.5, 0.4), x=x, noise=Predrawn((z1, z2, z3)))
    torch.testing.assert_close(got.x, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_2s_ancestral_is_the_published_rule(eta):
    """k-diffusion's sample_dpmpp_2s_ancestral, in EDM's variables."""
    sde = PROCESSES[3]
    grid = lambda_grid(sde, 3)
    model, x, draws = mixture(sde), rows(5, 1), [rows(5, 1, seed=k) for k in (1, 2, 3)]
    want = 5 * x
    for (t, s), z in zip(pairwise(grid.knots), draws, strict=True):
        up = min(s.sigma, eta * math.sqrt(s.sigma**2 * (t.sigma**2 - s.sigma**2) / t.sigma**2))
        down = math.sqrt(s.sigma**2 - up**2)
        h = math.log(t.sigma / down)
        middle = math.exp(math.log(t.sigma) - h / 2)
        x2 = middle / t.sigma * want - math.expm1(-h / 2) * model(want, t).x0
        d2 = model(x2, sde.at(middle)).x0
        want = down / t.sigma * want - math.expm1(-h) * d2 + up * z
    noise = Predrawn(tuple(draws))
    got = sample(model, DPMSolverPP2SAncestral(eta), grid, x=5 * x, noise=noise).x
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("scale", ["ode", "sde", "er4", "er5"])
def test_er_sde_is_the_published_rule(scale):
    """Cui et al. 2023, algorithm 3 for variance-exploding processes; integrals by 2,000 sums."""
    phi = {
        "ode": lambda u: u,
        "sde": lambda u: u**2,
        "er4": lambda u: u**0.9 * (1 + 100 * u**1.5).log10(),
        "er5": lambda u: u * ((u**0.3).exp() + 10),
    }[scale]
    sde = PROCESSES[3]
    grid = lambda_grid(sde, 4)
    model, x = mixture(sde), 5 * rows(5, 1)
    draws = [rows(5, 1, seed=k) for k in range(1, 5)]
    want, known = x, []
    for (t, s), z in zip(pairwise(grid.knots), draws, strict=True):
        high, low = (torch.tensor(k.sigma, dtype=torch.float64) for k in (t, s))
        x0 = model(want, t).x0
        known.append((t.sigma, x0))
        q = phi(low) / phi(high)
        new = q * want + (1 - q) * x0
        width = (high - low) / 2000
        u = low + (torch.arange(2000, dtype=torch.float64) + 0.5) * width
        if len(known) > 1:
            d = (x0 - known[-2][1]) / (t.sigma - known[-2][0])
            new = new + (s.sigma - t.sigma + phi(low) * (width / phi(u)).sum()) * d
        if len(known) > 2:
            before = (known[-2][1] - known[-3][1]) / (known[-2][0] - known[-3][0])
            dd = (d - before) / ((t.sigma - known[-3][0]) / 2)
            factor = phi(low) * (width * (u - t.sigma) / phi(u)).sum()
            new = new + ((s.sigma - t.sigma) ** 2 / 2 + factor) * dd
        want = new + (low**2 - high**2 * q**2).clamp_min(0).sqrt() * z
    got = sample(model, ERSDE(3, scale), grid, x=x, noise=Predrawn(tuple(draws))).x
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_optimal_variance_is_exact_for_isotropic_gaussian_data(sde, n):
    grid = lambda_grid(sde, n)
    p = [k.alpha**2 * 0.25 + k.sigma**2 for k in grid.knots]
    energies = tuple(k.sigma**2 / v for k, v in zip(grid.knots, p, strict=True))
    solver = AnalyticDPM(tuple(k.lam for k in grid.knots), energies)
    assert output_moments(solver, grid) == pytest.approx(true_moments(grid.knots[-1]), rel=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_a_right_learned_variance_is_exact_for_isotropic_gaussian_data(sde, n):
    """The variance of x_s given x_t is known for Gaussian data, and so is its share."""
    grid = lambda_grid(sde, n)
    following = dict(pairwise(grid.knots))

    class Knows(LinearModel):
        def __call__(self, x, t):
            s = following[t]
            prediction = super().__call__(x, t)
            p = [k.alpha**2 * 0.25 + k.sigma**2 for k in (s, t)]
            large = sde.transition(s, t)[1]
            small = large * s.sigma / t.sigma
            optimal = p[0] * large**2 / p[1]  # of a Gaussian: p_s - (a p_s)^2 / p_t
            share = math.log(math.sqrt(optimal) / small) / math.log(large / small)
            prediction.share = torch.full_like(x, share)
            return prediction

    c, a, b = affine_map(Knows(sde), Ancestral("learned"), grid)
    mean, variance = true_moments(grid.knots[0])
    moments = c + a * mean, a * a * variance + float(b.square().sum())
    assert moments == pytest.approx(true_moments(grid.knots[-1]), rel=1e-9)
    with pytest.raises(ConfigError, match="LearnedRange"):
        sample(LinearModel(sde), Ancestral("learned"), grid, shape=(2, 1))


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
def test_without_energies_those_of_gaussian_data_are_used(sde):
    grid = lambda_grid(sde, 3)
    moments = output_moments(AnalyticDPM(data_std=0.5), grid)
    assert moments == pytest.approx(true_moments(grid.knots[-1]), rel=1e-9)


def test_the_energy_is_estimated_from_data():
    grid = uniform_lambda(VPSDE(), 8)
    model = LinearModel(grid.sde)
    found = AnalyticDPM.estimate(model, 0.7 + 0.5 * rows(4000, 10), grid)
    for lam, energy in zip(found.lams, found.energies, strict=True):
        knot = grid.sde.at_lambda(lam)
        want = knot.sigma**2 / (knot.alpha**2 * 0.25 + knot.sigma**2)
        assert energy == pytest.approx(want, rel=4.5 * math.sqrt(2 / 40_000))
    assert found.evals(grid) == 10
    with pytest.raises(ConfigError, match="estimate"):
        AnalyticDPM((0.0,), ())


@pytest.mark.parametrize("method", ["euler", "milstein", "euler_heun", "heun", "midpoint", "srk"])
def test_torchsde_reaches_the_exact_moments(method):
    pytest.importorskip("torchsde")
    model, n = LinearModel(VPSDE()), 60_000
    grid = lambda_grid(model.sde, 24)
    mean, variance = true_moments(grid.knots[0])
    x = mean + math.sqrt(variance) * rows(60, 1000)
    solver = TorchSDE(method)
    out = sample(model, solver, grid, x=x, seeds=3)
    assert torch.equal(out.x, sample(model, solver, grid, x=x, seeds=3).x)
    assert all(VPSDE().t_min <= knot.t <= VPSDE().t_max for knot in model.asked)
    mean, variance = true_moments(grid.knots[-1])
    assert float(out.x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    bias = 0.03 if solver.order == 2 else 0.16
    assert float(out.x.var()) / variance == pytest.approx(1.0, abs=4 * math.sqrt(2 / n) + bias)


def test_torchsde_differentiates_by_the_adjoint():
    pytest.importorskip("torchsde")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x, t):
            return x - self.shift

    grads = []
    for adjoint in (False, True):
        model = ScoreModel(Net(), VPSDE(), time="t")
        grid = lambda_grid(model.sde, 1, -0.5, 0.0)
        noise = SampleSeeds((1, 2))
        solver = TorchSDE("midpoint", substeps=50, adjoint=adjoint)
        stream = noise.open((2, 3), torch.float64)
        x = rows(2, 3)
        out, _ = solver.step(model, x, *grid.knots, None, stream)
        out.square().sum().backward()
        grads.append(float(model.net.shift.grad))
    assert grads[1] == pytest.approx(grads[0], rel=0.02)


def test_torchsde_differentiates_whole_runs_by_the_adjoint():
    """Through `sample`, whose counting must let the parameters through."""
    pytest.importorskip("torchsde")
    grads = []
    for adjoint in (False, True):
        net = torch.nn.Linear(3, 3).double()
        torch.nn.init.eye_(net.weight)
        torch.nn.init.zeros_(net.bias)
        model = ScoreModel(lambda x, t, net=net: net(x), VPSDE(), time="t")
        model.net_module = net
        grid = lambda_grid(model.sde, 2, -0.5, 0.0)
        solver = TorchSDE("midpoint", substeps=25, adjoint=adjoint)
        out = sample(model, solver, grid, x=rows(2, 3), seeds=(1, 2), grad=True)
        out.x.square().sum().backward()
        grads.append(net.bias.grad.clone())
    torch.testing.assert_close(grads[1], grads[0], rtol=0.03, atol=0.03)
    with pytest.raises(ConfigError, match="adjoint=False"):
        sample(LinearModel(VPSDE()), solver, grid, x=rows(2, 3))


def test_torchsde_chooses_its_own_steps_for_each_sample():
    pytest.importorskip("torchsde")
    sde = VPSDE()
    grid = lambda_grid(sde, 1)
    solver, x = TorchSDE("srk", adaptive=True, rtol=1e-2, atol=1e-2), 2.0 * rows(3, 2)
    together = sample(LinearModel(sde), solver, grid, x=x, seeds=(1, 2, 3)).x
    for k in range(3):
        alone = sample(LinearModel(sde), solver, grid, x=x[k : k + 1], seeds=(k + 1,)).x
        assert torch.equal(alone[0], together[k])
    models = {tol: LinearModel(sde) for tol in (1e-1, 1e-3)}
    for tol, model in models.items():
        solver = TorchSDE("srk", adaptive=True, rtol=tol, atol=tol)
        sample(model, solver, grid, x=x, seeds=(1, 2, 3))
    assert len(models[1e-3].asked) > 1.5 * len(models[1e-1].asked)
    many = 4000  # coordinates of one sample
    (mean, variance), (want, spread) = map(true_moments, (grid.knots[0], grid.knots[-1]))
    x = mean + math.sqrt(variance) * rows(1, many)
    out = sample(LinearModel(sde), TorchSDE("srk", adaptive=True), grid, x=x, seeds=(1,)).x
    assert float(out.mean()) == pytest.approx(want, abs=4.5 * math.sqrt(spread / many))
    assert float(out.var()) == pytest.approx(spread, rel=4.5 * math.sqrt(2 / many))
    with pytest.raises(ConfigError, match="not both 0"):
        TorchSDE(adaptive=True, rtol=0.0, atol=0.0)


# -- the step to sigma = 0 -------------------------------------------------------------------------


@pytest.mark.parametrize("variance", [1e-9, 3e-4, 0.001, 0.01, 0.1])
def test_the_last_step_keeps_the_variance(variance):
    """The deviation is right up to rho^6; x0 alone loses rho^2 / 2C."""
    sde = VPSDE()
    grid = Grid(sde, (sde.at(1e-3), sde.clean))
    start = grid.knots[0]
    u = start.rho**2 / variance
    deviation = math.sqrt(output_moments(DPMSolverPPSDE(), grid, 0.0, variance)[1] / variance)
    plain = math.sqrt(output_moments(Ancestral(), grid, 0.0, variance)[1] / variance)
    assert plain == pytest.approx(1 / math.sqrt(1 + u), rel=1e-9)
    if u < 0.4:
        assert abs(deviation - 1) < 0.06 * u**3
    else:  # a point as seen from rho: what is left is noise
        assert deviation * math.sqrt(variance) == pytest.approx(0.396 * start.rho, rel=2e-3)


# -- distribution, contract, defects ---------------------------------------------------------------


def ks_statistic(x, model):
    """Largest distance between the empirical and the mixture's distribution function."""
    x = x.flatten().double().sort().values
    z = (x[:, None] - model.means[:, 0]) / torch.tensor([0.04, 0.09, 0.02]).double().sqrt()
    cdf = (model.weights * torch.special.ndtr(z)).sum(1)
    steps = torch.arange(len(x) + 1, dtype=torch.float64) / len(x)
    return float(torch.maximum(steps[1:] - cdf, cdf - steps[:-1]).max())


@pytest.mark.parametrize("solver", [ReverseDiffusion(), Ancestral()], ids=str)
def test_samples_follow_the_mixture(solver):
    """Level 0.001 with n = 40,000 draws: a deviation 5% off, or a mean off by 0.02, is seen."""
    model, n = mixture(VPSDE(t_min=1e-5)), 40_000
    x = sample(model, solver, uniform_lambda(model.sde, 300), shape=(n, 1), seeds=5).x
    critical = 1.949 / math.sqrt(n)
    assert ks_statistic(x, model) < critical
    centre = float(x.mean())
    assert ks_statistic(centre + 1.05 * (x - centre), model) > critical
    assert ks_statistic(x + 0.02, model) > critical


@pytest.mark.parametrize("solver", ALL, ids=str)
@pytest.mark.parametrize("make", [SampleSeeds, BrownianPath])
def test_a_sample_does_not_depend_on_its_batch_mates(solver, make):
    model = LinearModel(VPSDE())
    grid = karras(model.sde, 6)
    seeds = (5, 11, 3, 8)
    together = sample(model, solver, grid, shape=(4, 3, 2), noise=make(seeds)).x
    for k, seed in enumerate(seeds):
        alone = sample(model, solver, grid, shape=(1, 3, 2), noise=make((seed,))).x
        assert torch.equal(alone[0], together[k])


@pytest.mark.parametrize("solver", ALL, ids=str)
@pytest.mark.parametrize("sde", [VPSDE(), PROCESSES[5]], ids=["VPSDE", "FlowSDE"])
def test_evaluations_dtype_and_times(solver, sde):
    for steps in (1, 2, 3, 20):
        grid = uniform_t(sde, steps)
        for dtype in (torch.bfloat16, torch.float32, torch.float64):
            model = LinearModel(sde)
            out = sample(model, solver, grid, shape=(4, 3, 2), seeds=range(4), dtype=dtype)
            assert out.x.dtype == dtype
            assert bool(out.x.isfinite().all())
            assert out.mean_nfe == len(model.asked) == evaluations(solver, grid)
            assert all(sde.t_min <= knot.t <= sde.t_max and knot.sigma > 0 for knot in model.asked)


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_solvers_are_values(solver):
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert hash(solver) == hash(type(solver)(**vars(solver)))


def test_the_start_is_drawn_at_the_grids_own_scale():
    sde = VPSDE()
    grid = uniform_t(sde, 5, t_max=0.3)
    out = sample(LinearModel(sde), Ancestral(), grid, shape=(20_000, 1), keep=[0])
    deviation = float(out.trajectory[0].x.std())
    assert deviation == pytest.approx(grid.knots[0].sigma, rel=4 / math.sqrt(2 * 20_000))
    assert abs(grid.knots[0].sigma - sde.at(1.0).sigma) > 0.2


def test_float64_as_the_default_dtype():
    torch.set_default_dtype(torch.float64)
    try:
        for solver in ALL:
            x = sample(LinearModel(VPSDE()), solver, uniform_t(VPSDE(), 3), shape=(2, 1)).x
            assert x.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReverseDiffusion(-1.0),
        lambda: ReverseDiffusion(math.nan),
        lambda: Ancestral("posteriour"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_torchsde_gives_up_samples_that_take_too_long():
    pytest.importorskip("torchsde")
    sde = VPSDE()
    solver = TorchSDE("srk", adaptive=True, rtol=1e-14, atol=1e-14, max_evals=200)
    with pytest.raises(SolverError, match="not done after 200 evaluations"):
        sample(LinearModel(sde), solver, uniform_lambda(sde, 2), shape=(2, 2))
    with pytest.raises(ConfigError, match="max_evals"):
        TorchSDE(adaptive=True, max_evals=0)
