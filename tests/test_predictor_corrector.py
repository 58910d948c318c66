"""Langevin correctors and predictor-corrector sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from stochastic_truth import IDS, PROCESSES, LinearModel, affine_map, lambda_grid

from scoresde import DDIM, VPSDE, SampleSeeds
from scoresde.errors import ConfigError
from scoresde.grid import uniform_lambda, uniform_t
from scoresde.noise import Predrawn
from scoresde.sampling.run import sample
from scoresde.solvers import evaluations
from scoresde.solvers.ancestral import Ancestral
from scoresde.solvers.kinetic import KineticLangevin
from scoresde.solvers.langevin import AnnealedLangevin, Langevin
from scoresde.solvers.predictor_corrector import PredictorCorrector
from scoresde.solvers.reverse_diffusion import ReverseDiffusion
from scoresde.solvers.solver import Solver

CORRECTORS = [
    Langevin(),
    Langevin(snr=0.1, steps=3),
    AnnealedLangevin(),
    AnnealedLangevin(0.2, 2),
    KineticLangevin(),
    KineticLangevin(0.8, friction=0.0, steps=3),
]


@dataclass(frozen=True)
class Stay(Solver):
    """A predictor that stays: what is left is the corrector."""

    order = 1

    def step(self, model, x, t, s, carry, noise):
        return x * (s.sigma / t.sigma), carry

    def evals(self, grid):
        return 0


def test_langevin_takes_each_samples_own_norms():
    """Song et al. 2021, algorithm 5, by hand for one sample, and its batch-mates far away."""
    model = LinearModel(VPSDE())
    knot = model.sde.at(0.4)
    x = torch.tensor([[0.3, -1.2, 0.8], [50.0, 1.0, -40.0]], dtype=torch.float64)
    z = torch.tensor([[1.1, 0.2, -0.4], [0.5, -0.1, 2.0]], dtype=torch.float64)
    stream = Predrawn((z,)).open(x.shape, x.dtype)
    got = Langevin(snr=0.2)(model, x, knot, stream)
    p = knot.alpha**2 * 0.25 + knot.sigma**2
    for row in range(2):
        score = -(x[row] - knot.alpha * 0.7) / p
        size = 2 * (0.2 * z[row].norm() / score.norm()) ** 2
        want = x[row] + size * score + (2 * size).sqrt() * z[row]
        torch.testing.assert_close(got[row], want, rtol=1e-13, atol=1e-13)


def test_langevin_stays_finite_where_the_score_is_zero():
    model = LinearModel(VPSDE(), mean=0.0)
    x = torch.zeros(2, 3)
    x[1] = 1.0
    stream = SampleSeeds((0, 1)).open(x.shape, x.dtype)
    moved = Langevin()(model, x, model.sde.at(0.5), stream)
    assert bool(moved.isfinite().all())
    assert torch.equal(moved[0], x[0])
    assert not torch.equal(moved[1], x[1])


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
def test_annealed_langevin_keeps_the_variance_that_theory_says(sde):
    """For Gaussian data of marginal variance p one move has x' = (1 - 2 k^2 q) x + 2 k sigma z,
    q = sigma^2 / p, whose stationary variance is p / (1 - k^2 q)."""
    k, v = 0.3, 0.25
    knot = sde.at_lambda(0.5)
    p = knot.alpha**2 * v + knot.sigma**2
    q = knot.sigma**2 / p
    model = LinearModel(sde, mean=0.0, variance=v)
    x = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    keep, add = AnnealedLangevin(k)(model, x, knot, Predrawn((z,)).open(x.shape, x.dtype))
    assert float(keep) == pytest.approx(1 - 2 * k**2 * q, rel=1e-12)
    stationary = float(add) ** 2 / (1 - float(keep) ** 2)
    assert stationary == pytest.approx(p / (1 - k**2 * q), rel=1e-12)


def test_langevin_finds_the_marginal_from_a_wrong_start():
    """In 400 dimensions the norms hardly vary: the stationary variance is p (1 + snr^2)."""
    model = LinearModel(VPSDE())
    knot = model.sde.at(0.4)
    stream = SampleSeeds(tuple(range(64))).open((64, 400), torch.float64)
    x = Langevin(snr=0.2, steps=150)(model, 3 * stream.normal(), knot, stream)
    p = knot.alpha**2 * 0.25 + knot.sigma**2
    count = 64 * 400
    assert float(x.mean()) == pytest.approx(knot.alpha * 0.7, abs=4 * math.sqrt(p / count))
    # The norms of |score| in the step move the variance by no more than 1 / D = 0.0025.
    tolerance = 4 * math.sqrt(2 / count) + 0.0025
    assert float(x.var()) / p == pytest.approx(1 / (1 - 0.2**2), abs=tolerance)


def linear_move(corrector, sde, knot):
    """(a, b): x' = a x + sum b_k z_k, for data N(0, 1/4) and a corrector of one coordinate."""
    model = LinearModel(sde, mean=0.0)
    x = torch.zeros(12, 1, dtype=torch.float64)
    x[0] = 1.0
    draws = tuple(torch.eye(12, dtype=torch.float64)[:, [k + 1]] for k in range(11))
    moved = corrector(model, x, knot, Predrawn(draws).open(x.shape, x.dtype)).flatten()
    return float(moved[0]), moved[1:]


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
def test_one_heavily_damped_kinetic_step_is_annealed_langevin(sde):
    knot = sde.at_lambda(0.3)
    a, b = linear_move(KineticLangevin(0.6, friction=1e6, steps=1), sde, knot)
    keep, add = linear_move(AnnealedLangevin(0.6 / math.sqrt(8)), sde, knot)
    assert a == pytest.approx(keep, rel=1e-12)
    assert float(b.norm()) == pytest.approx(float(add.norm()), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_kinetic_corrector_is_baoab(steps):
    """Against 2 x 2 matrices for a Gaussian: position over sigma, and momentum."""
    h, friction, knot = 0.7, 1.3, VPSDE().at_lambda(0.3)
    a, b = linear_move(KineticLangevin(h, friction, steps), VPSDE(), knot)
    stiff = knot.sigma**2 / (knot.alpha**2 * 0.25 + knot.sigma**2)
    c = math.exp(-friction * h)
    kick, drift, damp = torch.eye(2), torch.eye(2), torch.diag(torch.tensor([1.0, c]))
    kick, drift, damp = kick.double(), drift.double(), damp.double()
    kick[1, 0], drift[0, 1] = -h / 2 * stiff, h / 2
    damp[1, 1] = c
    noise = torch.diag(torch.tensor([0.0, 1 - c * c], dtype=torch.float64))
    move = torch.eye(2, dtype=torch.float64)
    spread = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))  # the fresh momentum
    for _ in range(steps):
        for part in (kick, drift, damp, drift, kick):
            move, spread = part @ move, part @ spread @ part.T
            if part is damp:
                spread = spread + noise
    assert a == pytest.approx(float(move[0, 0]), rel=1e-12)
    assert float(b.square().sum()) / knot.sigma**2 == pytest.approx(float(spread[0, 0]), rel=1e-12)


def test_kinetic_moves_keep_the_marginal_and_go_further():
    """Stationary variance within h^2/8 of p, and a faster approach than as many plain steps."""
    knot = VPSDE().at_lambda(0.0)
    p = knot.alpha**2 * 0.25 + knot.sigma**2
    a, b = linear_move(KineticLangevin(0.4, friction=0.5, steps=5), VPSDE(), knot)
    stationary = float(b.square().sum()) / (1 - a * a)
    assert stationary == pytest.approx(p, rel=0.4**2 / 8)
    plain, _ = linear_move(AnnealedLangevin(0.4 / math.sqrt(8), steps=5), VPSDE(), knot)
    assert abs(a) < 0.5 * abs(plain)


@pytest.mark.parametrize("corrector", CORRECTORS, ids=str)
@pytest.mark.parametrize("predictor", [ReverseDiffusion(), Ancestral(), DDIM()], ids=str)
@pytest.mark.parametrize("steps", [1, 2, 3, 20])
def test_evaluations_are_the_predictors_and_the_correctors(predictor, corrector, steps):
    model = LinearModel(VPSDE())
    solver = PredictorCorrector(predictor, corrector)
    grid = uniform_t(model.sde, steps)
    out = sample(model, solver, grid, shape=(3, 4), seeds=range(3))
    assert out.mean_nfe == len(model.asked) == evaluations(solver, grid)
    assert out.mean_nfe == steps * (1 + corrector.steps)
    assert all(knot.sigma > 0 for knot in model.asked)
    assert bool(out.x.isfinite().all())


def test_corrects_first_and_then_predicts():
    model = LinearModel(VPSDE())
    grid = lambda_grid(model.sde, 1)
    t, s = grid.knots
    x = torch.tensor([[0.4]], dtype=torch.float64)
    z = [torch.tensor([[value]], dtype=torch.float64) for value in (0.7, -1.3)]
    solver = PredictorCorrector(Ancestral(), AnnealedLangevin(0.2))
    got = sample(model, solver, grid, x=x, noise=Predrawn(tuple(z))).x
    middle = AnnealedLangevin(0.2)(model, x, t, Predrawn((z[0],)).open(x.shape, x.dtype))
    want = Ancestral().step(model, middle, t, s, None, Predrawn((z[1],)).open(x.shape, x.dtype))[0]
    torch.testing.assert_close(got, want, rtol=0, atol=0)


@dataclass(frozen=True)
class Counting(Solver):
    """A predictor that counts its steps in the carry, starting from the grid's length."""

    order = 1

    def init(self, model, grid):
        return grid.steps

    def step(self, model, x, t, s, carry, noise):
        return x + carry, carry + 1

    def evals(self, grid):
        return None


def test_the_predictors_history_passes_through():
    grid = lambda_grid(VPSDE(), 3)
    x = torch.zeros(1, 1, dtype=torch.float64)
    model = LinearModel(grid.sde)
    solver = PredictorCorrector(Counting(), AnnealedLangevin(1e-300))
    got = sample(model, solver, grid, x=x).x
    assert float(got) == 3 + 4 + 5
    assert solver.evals(grid) is None


def test_the_corrector_takes_the_predictors_bias_away():
    """With many small moves a predictor that adds no noise at all still ends at the truth."""
    grid = lambda_grid(VPSDE(), 40, -2.0, 0.0)
    t, s = grid.knots[0], grid.knots[-1]

    def bias(corrector):
        _, a, b = affine_map(LinearModel(grid.sde), PredictorCorrector(Stay(), corrector), grid)
        last = grid.knots[-2]  # the corrector acts at t, so the predictor has the last word
        p = last.alpha**2 * 0.25 + last.sigma**2
        start = t.alpha**2 * 0.25 + t.sigma**2
        got = (a * a * start + float(b.square().sum())) * (last.sigma / s.sigma) ** 2
        return got / p - 1

    assert abs(bias(AnnealedLangevin(1e-9))) > 0.15
    q = grid.knots[-2].sigma ** 2 / (grid.knots[-2].alpha ** 2 * 0.25 + grid.knots[-2].sigma ** 2)
    # What is left is the corrector's own bias, 1 / (1 - snr^2 q) - 1.
    assert bias(AnnealedLangevin(0.2, steps=60)) == pytest.approx(1 / (1 - 0.04 * q) - 1, rel=0.02)


@pytest.mark.parametrize("corrector", CORRECTORS, ids=str)
def test_a_sample_does_not_depend_on_its_batch_mates(corrector):
    model = LinearModel(VPSDE())
    grid = uniform_lambda(model.sde, 5)
    solver = PredictorCorrector(corrector=corrector)
    seeds = (5, 11, 3, 8)
    together = sample(model, solver, grid, shape=(4, 3, 2), seeds=seeds).x
    for k, seed in enumerate(seeds):
        alone = sample(model, solver, grid, shape=(1, 3, 2), seeds=[seed]).x
        assert torch.equal(alone[0], together[k])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(3,), (2, 5), (1, 3, 5, 7), (2, 1, 3, 4, 5), (0, 3, 2)])
def test_dtype_and_shape_are_kept(dtype, shape):
    model = LinearModel(VPSDE())
    for corrector in CORRECTORS:
        solver = PredictorCorrector(corrector=corrector)
        out = sample(model, solver, uniform_t(model.sde, 3), shape=shape, dtype=dtype)
        assert out.x.dtype == dtype
        assert out.x.shape == shape


@pytest.mark.parametrize("name", ["ReverseDiffusion", "Ancestral"])
def test_starts_where_there_is_no_signal(name):
    sde = PROCESSES[5]
    predictor = {"ReverseDiffusion": ReverseDiffusion(), "Ancestral": Ancestral()}[name]
    solver = PredictorCorrector(predictor, AnnealedLangevin())
    model = LinearModel(sde)
    grid = uniform_t(sde, 40)
    out = sample(model, solver, grid, shape=(4000, 2), seeds=3)
    assert out.mean_nfe == len(model.asked) == evaluations(solver, grid)
    assert float(out.x.mean()) == pytest.approx(0.7, abs=0.035)  # 6 standard errors


@pytest.mark.parametrize(
    "make",
    [
        lambda: Langevin(snr=0.0),
        lambda: Langevin(snr=-1.0),
        lambda: Langevin(steps=0),
        lambda: AnnealedLangevin(steps=1.5),
        lambda: KineticLangevin(size=2.0),
        lambda: KineticLangevin(friction=-1.0),
        lambda: KineticLangevin(steps=0),
        lambda: PredictorCorrector(Langevin(), Langevin()),
        lambda: PredictorCorrector(ReverseDiffusion(), ReverseDiffusion()),
        lambda: PredictorCorrector(ReverseDiffusion, Langevin()),
        lambda: PredictorCorrector(ReverseDiffusion(), Langevin),
    ],
)
def test_settings_that_mean_nothing_are_refused(make):
    with pytest.raises(ConfigError):
        make()
