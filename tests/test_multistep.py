"""The exponential multistep family: its weights, its order, its ends, its names."""

from __future__ import annotations

import math
import pickle
import weakref
from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from support import CONTINUOUS, DISCRETE, gaussian, mixture, randn
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde import (
    DDIM,
    EDMSDE,
    VPSDE,
    Covariance,
    FlowSDE,
    Gaussian,
    Grid,
    ScoreModel,
    iterate,
    sample,
    uniform_lambda,
    uniform_t,
)
from scoresde.axis import Focus
from scoresde.errors import ConfigError
from scoresde.exact.mixtures import GaussianMixture
from scoresde.grid import focused, from_lambdas, from_times, karras
from scoresde.noise import BatchSeed
from scoresde.solvers import ERSDE, evaluations
from scoresde.solvers.exponential import (
    DEIS,
    IPNDM,
    LMS,
    PNDM,
    DPMSolverMultistep,
    DPMSolverPP,
    ExponentialAB,
    ExponentialMultistep,
    SASolver,
    UniPC,
)
from scoresde.solvers.exponential.forms import form
from scoresde.solvers.exponential.weights import step_weights
from scoresde.wrapper import Observer

PRESETS = {
    "DPM-Solver++(2M)": DPMSolverPP(2),
    "DPM-Solver++(3M)": DPMSolverPP(3),
    "DPM-Solver multistep": DPMSolverMultistep(2),
    "DEIS tAB": DEIS(4, "t"),
    "DEIS rhoAB": DEIS(3, "rho"),
    "LMS": LMS(),
    "iPNDM": IPNDM(),
    "PNDM": PNDM(),
    "exponential AB v": ExponentialAB(5, "v"),
    "exponential AB x0": ExponentialAB(3, "x0"),
    "UniPC": UniPC(3),
    "UniPC bh1": UniPC(2, "bh1", "eps"),
    "focused": ExponentialMultistep(4, "v", Focus(), corrector=4),
}


def exact_end(model, grid, x):
    """Where the flow of a Gaussian model ends, also from alpha = 0."""
    start, end = grid.knots[0], grid.knots[-1]
    if not start.is_zero_snr:
        return model.flow(x, start, end)
    spread = (model.moments()[1].diagonal() * end.alpha**2 + end.sigma**2).sqrt()
    return end.alpha * model.means[0] + x * spread


def error(model, solver, grid, x=None):
    x = grid.knots[0].sigma * randn(8, *model.event_shape) if x is None else x
    got = sample(model, solver, grid, x=x).x
    return float((got - exact_end(model, grid, x)).abs().max())


def uneven(sde, n):
    """A smooth grid whose steps grow by a factor of 5 from one end to the other."""
    ends = [float(sde.lam(t)) for t in (sde.t_max, max(sde.t_min, 0.01 * sde.t_max))]
    u = np.linspace(0, 1, n + 1)
    return from_lambdas(sde, ends[0] + (ends[1] - ends[0]) * (u + 2 * u**2) / 3, clean=False)


# -- weights -----------------------------------------------------------------------------------


def published_kernel(kind, s, tau):
    """The kernel over lambda, written from the papers rather than from the code."""
    rho = lambda lam: mpmath.exp(-lam)  # noqa: E731
    factor = 1 + mpmath.mpf(tau) ** 2
    alpha, sigma = mpmath.mpf(s.alpha), mpmath.mpf(s.sigma)
    lam_s = mpmath.mpf(s.lam)
    if kind == "eps":
        return lambda lam: -factor * alpha * rho(lam)
    if kind == "x0":
        return lambda lam: factor * sigma * mpmath.exp(-(tau**2) * lam_s + factor * lam)
    cosine = lambda lam: 1 / mpmath.sqrt(1 + rho(lam) ** 2)  # noqa: E731
    radius = mpmath.sqrt(alpha**2 + sigma**2)
    return lambda lam: (
        -factor
        * radius
        * (cosine(lam) / cosine(lam_s)) ** (tau**2)
        * rho(lam)
        / (1 + rho(lam) ** 2)
    )


CASES = [
    ("eps", "lambda", 0.0, 1e-5),
    ("eps", "rho", 0.0, 1.5),
    ("eps", "angle", 1.0, 0.02),
    ("x0", "lambda", 0.0, 0.02),
    ("x0", "lambda", 1.0, 1.5),
    ("x0", "rho", 0.0, 1e-5),
    ("v", "angle", 0.0, 1e-5),
    ("v", "angle", 1.0, 1.5),
    ("v", "lambda", 0.0, 1.5),
]


@pytest.mark.parametrize(("kind", "coordinate", "tau", "spacing"), CASES)
def test_weights_of_order_six_to_full_precision(kind, coordinate, tau, spacing):
    sde = VPSDE()
    lams = np.cumsum([0.3, 1.0, 0.7, 1.3, 0.9, 1.1, 0.8]) * spacing - 1.0
    grid = from_lambdas(sde, lams, clean=False)
    solver = ExponentialMultistep(6, kind, coordinate, tau=tau)
    rule = solver.init(mixture(sde), grid).plans[5].rule
    t, s = grid.knots[5:7]
    axis = {
        "lambda": lambda lam: lam,
        "rho": lambda lam: mpmath.exp(-lam),
        "angle": lambda lam: mpmath.atan(mpmath.exp(-lam)),
    }[coordinate]
    kernel = published_kernel(kind, s, tau)
    with mpmath.workdps(32):
        nodes = [axis(mpmath.mpf(k.lam)) for k in grid.knots[5::-1]]
        for j, own in enumerate(nodes):

            def integrand(lam, own=own, j=j):
                others = [node for i, node in enumerate(nodes) if i != j]
                basis = mpmath.fprod((axis(lam) - node) / (own - node) for node in others)
                return kernel(lam) * basis

            want = mpmath.quad(integrand, [t.lam, s.lam], maxdegree=4)
            # Nodes given as floats move by one part in 1e16 of themselves, not of their distance.
            tolerance = max(1e-12, 1e-14 / spacing)
            assert rule.weights[j] == pytest.approx(float(want), rel=tolerance, abs=1e-300)


def test_fourth_order_weights_of_a_uniform_grid_are_those_of_adams():
    """In rho with alpha = 1 and even steps: 55, -59, 37, -9 over 24."""
    sde = EDMSDE()
    grid = uniform_t(sde, 10, t_min=1.0, t_max=11.0, clean=False)
    want = [-55 / 24, 59 / 24, -37 / 24, 9 / 24]
    for solver in (LMS(4), IPNDM(4)):
        rule = solver.init(mixture(sde), grid).plans[6].rule
        assert rule.decay == 1.0
        assert rule.weights == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_noise_keeps_the_marginals_of_simple_data(name, tau):
    """A single point through x0, and N(0, I) data through v, have exact steps at any tau."""
    sde = CONTINUOUS[name]
    grid = uniform_lambda(sde, 5, clean=False)
    for t, s, plan in zip(
        grid.knots[:-1],
        grid.knots[1:],
        ExponentialMultistep(3, "x0", "lambda", tau=tau).init(mixture(sde), grid).plans,
        strict=True,
    ):
        rule = plan.rule
        assert rule.decay * t.alpha + sum(rule.weights) == pytest.approx(s.alpha, rel=1e-12)
        variance = (rule.decay * t.sigma) ** 2 + rule.spread**2
        assert variance == pytest.approx(s.sigma**2, rel=1e-12)
    for t, s, plan in zip(
        grid.knots[:-1],
        grid.knots[1:],
        ExponentialMultistep(3, "v", "angle", tau=tau).init(mixture(sde), grid).plans,
        strict=True,
    ):
        rule = plan.rule
        variance = (rule.decay * t.radius) ** 2 + rule.spread**2
        assert variance == pytest.approx(s.radius**2, rel=1e-12)


# -- order -------------------------------------------------------------------------------------

ORDERED = {
    "eps lambda 2": (ExponentialMultistep(2, "eps", "lambda", start="etd2"), 2),
    "x0 lambda 3": (ExponentialMultistep(3, "x0", "lambda", start="dpm3"), 3),
    "x0 t 3": (ExponentialMultistep(3, "x0", "t", start="dpm3"), 3),
    "eps rho 3": (ExponentialMultistep(3, "eps", "rho", start="dpm3"), 3),
    "v angle 4": (ExponentialMultistep(4, "v", "angle", start="krogstad4"), 3.85),
    "v angle 3 + 3": (ExponentialMultistep(3, "v", "angle", corrector=3, start="dpm3"), 4),
    "v angle 4 + 2": (ExponentialMultistep(4, "v", "angle", corrector=2), 3),
    "v angle 2 + 3": (ExponentialMultistep(2, "v", "angle", corrector=3), 3),
    "v focus 4": (ExponentialMultistep(4, "v", Focus(), start="krogstad4"), 3.9),
    "DPM-Solver++(2M)": (DPMSolverPP(2), 2),
    "DPM-Solver++(3M)": (DPMSolverPP(3), 2),
    "iPNDM": (IPNDM(), 2),
    "UniPC-1": (UniPC(1), 2),
    "UniPC-2": (UniPC(2), 3),
}


@pytest.mark.parametrize("process", CONTINUOUS)
@pytest.mark.parametrize("name", ORDERED)
def test_observed_order(name, process):
    solver, order = ORDERED[name]
    model = gaussian(CONTINUOUS[process])
    errors = [error(model, solver, uneven(model.sde, n)) for n in (80, 160, 320)]
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert slopes[-1] > order - 0.3, (errors, slopes)
    assert solver.order <= order + 0.2


def test_dpm_solver_pp_3m_is_of_order_two():
    """Its quadratic term has half the weight that the integral asks for."""
    model = gaussian(VPSDE())
    grids = [uneven(model.sde, n) for n in (80, 160, 320)]
    published = [error(model, DPMSolverPP(3), grid) for grid in grids]
    exact = [error(model, ExponentialMultistep(3, "x0", "lambda", start="dpm3"), g) for g in grids]
    assert math.log2(published[1] / published[2]) < 2.4
    assert exact[2] < 0.1 * published[2]


@pytest.mark.parametrize("process", ["vp", "edm", "cosine"])
def test_order_above_four_down_to_sigma_zero(process):
    """One solver, one family of grids; no floor from the last step, nor from the first ones."""
    model = gaussian(CONTINUOUS[process])
    solver = ExponentialMultistep(4, "v", Focus(), corrector=4, start="krogstad4")
    errors = [error(model, solver, focused(model.sde, n)) for n in (50, 100, 200)]
    assert math.log2(errors[0] / errors[2]) / 2 > 4.5
    assert errors[2] < 1e-8


def test_last_step_of_first_order_would_leave_a_floor():
    model = gaussian(VPSDE())
    grid = focused(model.sde, 200)
    x = grid.knots[0].sigma * randn(8, 3)
    solver = ExponentialMultistep(4, "v", Focus(), corrector=4)
    denoised = sample(model, solver, grid.without_clean(), x=x, final="denoise").x
    truth = model.flow(x, grid.knots[0], model.sde.clean)
    assert float((denoised - truth).abs().max()) > 1e-5
    assert error(model, solver, grid, x) < 1e-7


@pytest.mark.parametrize("solver", [ExponentialAB(3, "v"), ExponentialAB(3, "x0"), UniPC(2)])
def test_starts_where_alpha_is_zero(solver):
    for sde in (FlowSDE(), DISCRETE["zero-SNR table"]):
        model = gaussian(sde)
        assert model.sde.at(sde.t_max).is_zero_snr
        assert solver.starts_at_zero_snr
        errors = [error(model, solver, focused(sde, n)) for n in (24, 48, 96)]
        assert errors[2] < 0.1 * errors[0]
        assert errors[2] < 1e-3


def test_velocity_needs_no_other_rule_at_alpha_zero():
    """One order-4 family from t = 1 to 0 of a flow process, in the angle alone."""
    model = gaussian(FlowSDE())
    solver = ExponentialMultistep(4, "v", "angle", start="krogstad4")
    errors = [error(model, solver, uniform_t(model.sde, n, clean=False)) for n in (60, 120, 240)]
    assert math.log2(errors[1] / errors[2]) > 3.6


@pytest.mark.parametrize("tau", [0.0, 1.0])
@pytest.mark.parametrize("start", ["", "krogstad4"])
def test_sigma_data_is_a_unit_of_length(start, tau):
    """v of unit d is v itself for the same data measured in d."""
    if start and tau:
        pytest.skip("a start is deterministic")
    d, x = 0.2, randn(6, 2)
    runs = []
    for unit in (1.0, d):
        sde = EDMSDE(t_min=0.02 / unit, t_max=80.0 / unit)
        means = torch.tensor([[0.5, 0.1], [-0.7, 0.4]], dtype=torch.float64) / unit
        model = GaussianMixture(sde, means, Covariance.isotropic(0.04 / unit**2))
        solver = ExponentialMultistep(
            3, "v", "lambda", corrector=2, start=start, sigma_data=d / unit, tau=tau
        )
        runs.append(unit * sample(model, solver, karras(sde, 12), x=x * 80.0 / unit, seeds=3).x)
    assert torch.allclose(*runs, rtol=0, atol=1e-10)


# -- names -------------------------------------------------------------------------------------


def same(a, b, grid, model):
    x = grid.knots[0].sigma * randn(4, *model.event_shape)
    left, right = (sample(model, solver, grid, x=x).x for solver in (a, b))
    return float((left - right).abs().max()) < 1e-12


def test_members_that_are_one_and_the_same():
    model = mixture(VPSDE())
    grid = uniform_lambda(model.sde, 12)
    for first in ("eps", "x0"):
        assert same(ExponentialMultistep(1, first, "lambda"), DDIM(), grid, model)
    assert same(LMS(3), DEIS(3, "rho"), grid, model)
    predictor = ExponentialMultistep(2, "x0", "lambda", "bh2")
    assert same(predictor, DPMSolverPP(2), grid, model)
    assert not same(DPMSolverPP(3), ExponentialAB(3, "x0"), grid, model)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_counted_evaluations_are_those_stated(name, steps):
    solver, model = PRESETS[name], mixture(VPSDE())
    for clean in (True, False):
        grid = uniform_lambda(model.sde, steps, clean=clean)
        result = sample(model, solver, grid, shape=(2, 2))
        assert result.mean_nfe == evaluations(solver, grid)
        assert bool(torch.isfinite(result.x).all())


@pytest.mark.parametrize("name", PRESETS)
def test_values_are_frozen_hashable_and_pickle(name):
    solver = PRESETS[name]
    assert pickle.loads(pickle.dumps(solver)) == solver
    assert hash(solver) == hash(pickle.loads(pickle.dumps(solver)))


def test_steps_are_pure_and_keep_no_more_than_their_history():
    model = mixture(VPSDE())
    grid = uniform_lambda(model.sde, 8)
    solver = ExponentialMultistep(3, "v", "angle")
    stream = BatchSeed(0).open((4, 2), torch.float64)
    x, carry = randn(4, 2), solver.init(model, grid)
    for t, s in pairwise(grid.knots):
        kept = x.clone()
        first = solver.step(model, x, t, s, carry, stream)
        again = solver.step(model, x, t, s, carry, stream)
        assert torch.equal(first[0], again[0])
        assert torch.equal(x, kept)
        x, carry = first
        assert len(carry.past) <= solver.values - 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_stays_at_its_own_round_off(dtype):
    model = gaussian(VPSDE())
    grid = focused(model.sde, 40)
    x = randn(8, 3)
    for solver in (ExponentialMultistep(4, "v", Focus(), corrector=4), DPMSolverPP(3)):
        exact = sample(model, solver, grid, x=x.to(dtype).double()).x
        low = sample(model, solver, grid, x=x.to(dtype)).x
        assert low.dtype == dtype
        assert float((low.double() - exact).abs().max()) < 40 * torch.finfo(dtype).eps


# -- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [
        DPMSolverPP(2, tau=1.0),
        DPMSolverPP(3, tau=1.0),
        SASolver(3, 4, tau=1.0),
        ExponentialMultistep(2, "eps", "lambda", tau=0.5),
        ExponentialMultistep(3, "v", "angle", tau=0.5),
    ],
)
def test_noise_leaves_the_law_of_the_data(solver):
    """Variances within 4 standard errors of 20,000 samples, plus 1% for the step size."""
    variances = torch.tensor([[0.3, 0.05]], dtype=torch.float64)
    model = Gaussian(VPSDE(), torch.tensor([0.3, -0.5]), Covariance.diagonal(variances))
    n = 20_000
    x = sample(model, solver, uniform_lambda(model.sde, 120), shape=(n, 2), seeds=3).x.double()
    ratio = x.var(0) / variances[0]
    assert float((ratio - 1).abs().max()) < 4 * math.sqrt(2 / n) + 0.01
    centre = (x.mean(0) - torch.tensor([0.3, -0.5])) / (variances[0] / n).sqrt()
    assert float(centre.abs().max()) < 4


# -- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prediction": "epsilon"}, "did you mean 'eps'"),
        ({"coordinate": "sigma"}, "unknown coordinate"),
        ({"weights": "bh3"}, "did you mean"),
        ({"values": 0}, "values must be"),
        ({"corrector": -1}, "corrector must be"),
        ({"coordinate": "index"}, "weights='mean'"),
        ({"weights": "bh1"}, "prediction='x0' or 'eps'"),
        ({"start": "rk4"}, "unknown Runge-Kutta method"),
        ({"start": "dpm3", "tau": 1.0}, "start=''"),
        ({"tau": -1.0}, "tau >= 0"),
    ],
)
def test_settings_that_mean_nothing(arguments, message):
    with pytest.raises(ConfigError, match=message):
        ExponentialMultistep(**arguments)


def test_a_step_off_the_prepared_grid_is_refused():
    model = mixture(VPSDE())
    grid = uniform_lambda(model.sde, 6)
    other = Grid(model.sde, grid.knots[1:])
    solver = DPMSolverPP(2)
    stream = BatchSeed(0).open((2, 2), torch.float64)
    with pytest.raises(ConfigError, match=r"init\(model, grid\)"):
        solver.step(model, randn(2, 2), *other.knots[:2], solver.init(model, grid), stream)
    with pytest.raises(ConfigError, match="orders 1 to 3"):
        DPMSolverPP(4)


# -- no host sync ------------------------------------------------------------------------------


class _NoSync(TorchDispatchMode):
    """Raises where a tensor's value would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func)
        assert "is_nonzero" not in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [*PRESETS, "SA-Solver"])
def test_no_value_is_waited_for_in_the_loop(name):
    solver = PRESETS.get(name, SASolver())
    sde = VPSDE()

    def net(x, t):
        return 0.3 * x

    model = ScoreModel(net, sde, predicts="eps", time="t")
    grid = uniform_lambda(sde, 6)
    stream = BatchSeed(0).open((4, 2), torch.float32)
    x, carry = randn(4, 2, dtype=torch.float32), solver.init(model, grid)
    with _NoSync():
        for t, s in pairwise(grid.knots):
            x, carry = solver.step(model, x, t, s, carry, stream)
    assert bool(torch.isfinite(x).all())


# -- memory ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "kept"),
    [
        (ExponentialAB(1), 0),
        (ExponentialAB(4), 3),
        (UniPC(3), 3),
        (ExponentialMultistep(4, "v", "angle", corrector=4), 4),
        (SASolver(3, 4), 3),
    ],
    ids=str,
)
def test_no_more_is_kept_than_the_polynomial_needs(solver, kept):
    """Of all outputs of the network, those of the last p - 1 knots are alive, and the last one,
    which `StepInfo` shows.
    """
    sde, outputs = VPSDE(), []

    class Seen(Observer):
        def observe(self, prediction):
            outputs.append(weakref.ref(prediction.raw))

    model = Seen(ScoreModel(lambda x, t: torch.tanh(x), sde, predicts=solver.prediction, time="t"))
    for info in iterate(model, solver, uniform_lambda(sde, 12), shape=(2, 3)):
        alive = sum(ref() is not None for ref in outputs)
        assert alive == min(info.step, max(kept, 1)) or info.knot.is_clean


def test_a_corrector_is_part_of_the_rule():
    """Predict, ask, correct, predict again, written out: two rules for two steps."""
    sde = VPSDE()
    grid, model, x = uniform_lambda(sde, 3, clean=False), mixture(sde), randn(4, 2)
    solver = ExponentialMultistep(2, "x0", "lambda", corrector=2)
    plain = ExponentialMultistep(2, "x0", "lambda")
    r, s, t = grid.knots[:3]
    known = {0: model(x, r).x0}

    def move(start, a, b, places):
        nodes = [(i, grid.knots[i]) for i in places]
        weights = step_weights(
            form("x0"), sde, a, b, nodes, coordinate="lambda", rule="exact", tau=0.0
        )
        moved = start * form("x0").decay(a, b, 0.0)
        return moved + sum(w * known[i] for w, i in zip(weights, places, strict=True))

    at_s = move(x, r, s, [0])
    known[1] = model(at_s, s).x0
    at_s = move(x, r, s, [0, 1])
    at_t = move(at_s, s, t, [1, 0])
    run = sample(model, solver, grid, x=x, keep=[1, 2]).trajectory
    assert torch.equal(run[0].x, sample(model, plain, grid, x=x, keep=[1]).trajectory[0].x)
    assert torch.allclose(run[1].x, at_t, rtol=1e-13, atol=1e-14)


def test_caps_limit_the_values_of_single_steps():
    model = mixture(VPSDE())
    grid = uniform_lambda(model.sde, 8)
    x = randn(4, *model.event_shape)
    whole, part = (
        sample(model, ExponentialMultistep(4, caps=caps), grid, x=x).x
        for caps in ((), (1, 2, 3, 4, 4, 4, 4, 4))
    )
    torch.testing.assert_close(part, whole, rtol=0, atol=0)
    low, capped = (
        sample(model, solver, grid, x=x).x
        for solver in (ExponentialMultistep(2), ExponentialMultistep(4, caps=(2,) * 8))
    )
    torch.testing.assert_close(capped, low, rtol=0, atol=0)
    # One step alone: the same up to it, another state after it.
    one = ExponentialMultistep(4, caps=(1, 2, 3, 4, 4, 1))
    paths = [
        sample(model, solver, grid, x=x, keep=True).trajectory
        for solver in (ExponentialMultistep(4), one)
    ]
    same = [bool((a.x == b.x).all()) for a, b in zip(*paths, strict=True)]
    assert same == [True] * 6 + [False] * 3
    assert one.order == 1
    with pytest.raises(ConfigError, match="caps"):
        ExponentialMultistep(4, caps=(0,))


@pytest.mark.parametrize("solver", [UniPC(3), SASolver(), DPMSolverPP(3), ERSDE()], ids=str)
def test_two_knots_close_together_count_as_one(solver):
    """Their weights would be 1e5 and more; UniPC had values of 370, SA-Solver of 8000."""
    sde = VPSDE()
    model = mixture(sde)
    times = [float(knot.t) for knot in uniform_lambda(sde, 10).knots[:-1]]
    twice = from_times(sde, sorted([*times, times[4] - 2e-6], reverse=True))
    for dtype in (torch.float32, torch.float64):
        out = sample(model, solver, twice, shape=(64, 2), seeds=range(64), dtype=dtype).x
        assert float(out.abs().max()) < 4.0  # means within 1.3, deviations up to 0.3
