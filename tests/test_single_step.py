"""Exponential Runge-Kutta methods and Heun: order, tableaus, evaluations, range, churn."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from support import CONTINUOUS, gaussian, mixture, randn

from scoresde import EDMSDE, VPSDE, Covariance, FlowSDE, Gaussian, karras, sample, uniform_lambda
from scoresde.errors import ConfigError
from scoresde.grid import from_lambdas
from scoresde.solvers import Heun, evaluations
from scoresde.solvers.exponential import DPM2, RES2, DPMSolver, ExponentialRK
from scoresde.solvers.exponential.tableaus import TABLEAUS, phi

SOLVERS = {
    "DPM-Solver-2": (DPMSolver(2), 2),
    "DPM-Solver-3": (DPMSolver(3), 3),
    "DPM-Solver++(2S)": (DPMSolver(2, "x0"), 2),
    "DPM-Solver++(3S)": (DPMSolver(3, "x0"), 3),
    "DPM2": (DPM2(), 2),
    "RES2": (RES2(), 2),
    "Krogstad eps": (ExponentialRK("krogstad4", "eps"), 4),
    "Krogstad v": (ExponentialRK("krogstad4", "v"), 4),
    "Hochbruck x0": (ExponentialRK("hochbruck4", "x0"), 4),
    "Heun": (Heun(), 2),
}


class Recorder:
    """A model that notes the noise levels at which it is asked."""

    def __init__(self, model):
        self.model, self.sde, self.seen = model, model.sde, []

    def __call__(self, x, knot):
        self.seen.append(float(knot.t))
        return self.model(x, knot)

    def rows(self, index):
        return self


def middle_grid(sde, n):
    """Even in lambda between noise levels where a short grid is already accurate."""
    lams = torch.linspace(-1.5, 2.0, n + 1, dtype=torch.float64)
    return from_lambdas(sde, lams.tolist(), clean=False)


@pytest.mark.parametrize("process", CONTINUOUS)
@pytest.mark.parametrize("name", SOLVERS)
def test_observed_order(name, process):
    solver, order = SOLVERS[name]
    model = gaussian(CONTINUOUS[process])
    errors = []
    for n in (16, 32):
        grid = middle_grid(model.sde, n)
        x = grid.knots[0].radius * randn(8, 3)
        truth = model.flow(x, grid.knots[0], grid.knots[-1])
        errors.append(float((sample(model, solver, grid, x=x).x - truth).abs().max()))
    assert order - 0.35 < math.log2(errors[0] / errors[1]) < order + 0.9, errors


@pytest.mark.parametrize("z", [-30.0, -1.0, -0.3, -1e-8, 0.0, 1e-5, 0.999, 1.0, 8.0])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_phi_to_full_precision(k, z):
    with mpmath.workdps(40):
        want = mpmath.nsum(lambda n: mpmath.mpf(z) ** n / mpmath.factorial(n + k), [0, mpmath.inf])
    assert phi(k, z) == pytest.approx(float(want), rel=1e-13)


@pytest.mark.parametrize("z", [-2.0, -0.1, 0.0, 0.7])
@pytest.mark.parametrize("name", TABLEAUS)
def test_stages_are_exact_for_a_constant(name, z):
    """Each row sums to c_i phi_1(c_i z), the last to phi_1(z)."""
    table = TABLEAUS[name]
    nodes = (*table.nodes, 1.0)
    rows = table.rows(z, (0.0, *table.nodes))
    for c, row in zip(nodes, rows, strict=True):
        assert sum(row) == pytest.approx(c * phi(1, c * z), rel=1e-12)


@pytest.mark.parametrize("z", [-2.0, -0.1, 0.0, 0.7])
@pytest.mark.parametrize("name", ["etd2", "dpm3", "krogstad4", "hochbruck4"])
def test_stiff_order_conditions(name, z):
    """sum_i b_i c_i^(k-1) = (k-1)! phi_k(z) up to k = 2, and 3 for the methods of order 4."""
    table = TABLEAUS[name]
    weights = table.rows(z, (0.0, *table.nodes))[-1]
    for k in (2, 3) if table.order == 4 else (2,):
        total = sum(b * c ** (k - 1) for b, c in zip(weights, (0.0, *table.nodes), strict=True))
        assert total == pytest.approx(math.factorial(k - 1) * phi(k, z), rel=1e-11)


def test_classical_runge_kutta_where_nothing_is_stiff():
    table = TABLEAUS["krogstad4"]
    rows = table.rows(0.0, (0.0, 0.5, 0.5, 1.0))
    assert rows[0] == pytest.approx([1 / 2])
    assert rows[1] == pytest.approx([0, 1 / 2])
    assert rows[2] == pytest.approx([0, 0, 1])
    assert rows[3] == pytest.approx([1 / 6, 1 / 3, 1 / 3, 1 / 6])


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_counted_evaluations_are_those_stated_and_lie_in_range(name, steps):
    solver, _ = SOLVERS[name]
    for sde in (VPSDE(), EDMSDE(), FlowSDE()):
        for clean in (True, False):
            model = Recorder(mixture(sde))
            grid = uniform_lambda(sde, steps, clean=clean)
            result = sample(model, solver, grid, shape=(2, 2))
            assert result.mean_nfe == evaluations(solver, grid) == len(model.seen)
            assert bool(torch.isfinite(result.x).all())
            assert min(model.seen) >= sde.t_min * (1 - 1e-12)
            assert max(model.seen) <= sde.t_max * (1 + 1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_last_step_keeps_the_order(name):
    """The step to sigma = 0 beats the first-order one, from the same state, by 5 or more."""
    solver, _ = SOLVERS[name]
    model = gaussian(EDMSDE(t_min=0.02))
    grid = karras(model.sde, 40)
    x = grid.knots[0].sigma * randn(8, 3)
    with_end = sample(model, solver, grid, x=x).x
    before = sample(model, solver, grid, x=x, final="none").x
    last = float((with_end - model.flow(before, grid.knots[-2], model.sde.clean)).abs().max())
    denoised = sample(model, solver, grid, x=x, final="denoise").x
    tweedie = float((denoised - model.flow(before, grid.knots[-2], model.sde.clean)).abs().max())
    assert last < 0.2 * tweedie, (last, tweedie)


@pytest.mark.parametrize("name", ["DPM-Solver-3", "DPM-Solver++(3S)"])
def test_third_order_single_steps_written_out(name):
    """Lu et al., "DPM-Solver", 2022, algorithm 5, and its ++ form (2S's argument once more)."""
    model, x, r1, r2 = mixture(VPSDE()), randn(5, 2), 1 / 3, 2 / 3
    sde, want = model.sde, x
    grid = uniform_lambda(sde, 4, clean=False)
    for t, s in zip(grid.knots, grid.knots[1:], strict=False):
        h = s.lam - t.lam
        a, b = sde.at_lambda(t.lam + r1 * h), sde.at_lambda(t.lam + r2 * h)
        if name == "DPM-Solver-3":
            e = model(want, t).eps
            at_a = a.alpha / t.alpha * want - a.sigma * math.expm1(r1 * h) * e
            d = model(at_a, a).eps - e
            at_b = b.alpha / t.alpha * want - b.sigma * math.expm1(r2 * h) * e
            at_b = at_b - b.sigma * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d
            d = model(at_b, b).eps - e
            want = s.alpha / t.alpha * want - s.sigma * math.expm1(h) * e
            want = want - s.sigma / r2 * (math.expm1(h) / h - 1) * d
        else:
            e = model(want, t).x0
            at_a = a.sigma / t.sigma * want - a.alpha * math.expm1(-r1 * h) * e
            d = model(at_a, a).x0 - e
            at_b = b.sigma / t.sigma * want - b.alpha * math.expm1(-r2 * h) * e
            at_b = at_b + b.alpha * r2 / r1 * (math.expm1(-r2 * h) / (r2 * h) + 1) * d
            d = model(at_b, b).x0 - e
            want = s.sigma / t.sigma * want - s.alpha * math.expm1(-h) * e
            want = want + s.alpha / r2 * (math.expm1(-h) / h + 1) * d
    got = sample(model, SOLVERS[name][0], grid, x=x).x
    assert torch.allclose(got, want, rtol=1e-11, atol=1e-12)


# -- Heun --------------------------------------------------------------------------------------


def test_one_step_of_heun_by_hand():
    model = mixture(VPSDE())
    t, s = model.sde.at(0.8), model.sde.at(0.6)
    grid = from_lambdas(model.sde, [float(t.lam), float(s.lam)], clean=False)
    x = randn(4, 2)
    y, h = x / t.alpha, s.rho - t.rho
    first = model(x, t).eps
    second = model(s.alpha * (y + h * first), s).eps
    want = s.alpha * (y + h * (first + second) / 2)
    assert torch.allclose(sample(model, Heun(), grid, x=x).x, want, rtol=1e-12, atol=0)


def test_churn_raises_the_noise_by_what_it_says_and_never_above_the_top():
    model = Recorder(mixture(EDMSDE()))
    grid = karras(model.sde, 20)
    solver = Heun(s_churn=4.0, s_min=0.05, s_max=100.0)
    result = sample(model, solver, grid, shape=(4, 2), dtype=torch.float64)
    assert result.mean_nfe == evaluations(solver, grid)
    asked = model.seen[0::2]
    for knot, at in zip(grid.knots[:-1], asked, strict=True):
        factor = 1.2 if 0.05 <= knot.rho <= 100 else 1.0
        assert at == pytest.approx(min(factor * knot.rho, 80.0), rel=1e-9)


def test_churn_leaves_the_law_of_the_data():
    """Variances within 4 standard errors of 20,000 samples, plus 1% for the step size."""
    variances = torch.tensor([[0.3, 0.05]], dtype=torch.float64)
    model = Gaussian(EDMSDE(), torch.tensor([0.3, -0.5]), Covariance.diagonal(variances))
    n = 20_000
    x = sample(model, Heun(s_churn=20.0), karras(model.sde, 60), shape=(n, 2), seeds=1).x.double()
    assert float((x.var(0) / variances[0] - 1).abs().max()) < 4 * math.sqrt(2 / n) + 0.01
    centre = (x.mean(0) - torch.tensor([0.3, -0.5])) / (variances[0] / n).sqrt()
    assert float(centre.abs().max()) < 4


def test_settings_that_mean_nothing():
    with pytest.raises(ConfigError, match="did you mean 'krogstad4'"):
        ExponentialRK("krogstad")
    with pytest.raises(ConfigError, match="orders 1 to 3"):
        DPMSolver(4)
    with pytest.raises(ConfigError, match="s_churn >= 0"):
        Heun(s_churn=-1.0)
    with pytest.raises(ConfigError, match="s_min <= s_max"):
        Heun(s_min=2.0, s_max=1.0)
