"""Defects of well-known samplers, and tests that this library does not have them.

1 to 10 are about sampling; each test describes the defect elsewhere. `test_every_solver` tests
claimed orders, and likelihoods have separate tests.
"""

from __future__ import annotations

import inspect
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import CONTINUOUS, DISCRETE, PROCESSES, gaussian, mixture, randn
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde.solvers
from scoresde import (
    DDIM,
    VPSDE,
    Covariance,
    EulerMaruyama,
    Gaussian,
    Heun,
    SampleSeeds,
    ScoreModel,
    from_times,
    iterate,
    karras,
    leading,
    sample,
    trailing,
    uniform_lambda,
    uniform_t,
)
from scoresde.grid import power
from scoresde.solvers import Solver

GRIDS = {"uniform_t": uniform_t, "power": power, "lambda": uniform_lambda, "karras": karras}


def _solvers() -> list[Solver]:
    """All that are exported and need no arguments."""
    made = []
    for name in scoresde.solvers.__all__:
        thing = getattr(scoresde.solvers, name)
        if inspect.isclass(thing) and (not issubclass(thing, Solver) or inspect.isabstract(thing)):
            continue
        if not callable(thing):
            continue
        required = [
            p
            for p in inspect.signature(thing).parameters.values()
            if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        ]
        if not required and isinstance(one := thing(), Solver):
            made.append(one)
    return list(dict.fromkeys(made))


SOLVERS = _solvers()
FIXED = [solver for solver in SOLVERS if solver.evals(uniform_t(VPSDE(), 4)) is not None]
ids = {"ids": str}


def _asked(model):
    """The model, and the list of times that it is going to be asked at."""
    times: list[float] = []

    class Recording:
        sde = model.sde

        def __call__(self, x, knot):
            times.append(float(knot.t.flatten()[0] if isinstance(knot.t, torch.Tensor) else knot.t))
            return model(x, knot)

        def rows(self, index):
            return self

    return Recording(), times


# 1. NaN with few steps, because beta was discretised as beta(t) / N; steps 5% off the grid's.


@pytest.mark.parametrize("solver", SOLVERS, **ids)
@pytest.mark.parametrize("process", ["vp", "linear table", "cosine table"])
def test_few_steps_give_numbers(solver, process):
    sde = PROCESSES[process]
    if process != "vp" and solver not in FIXED:
        pytest.skip("the steps are its own")
    for n in (1, 2, 3, 5, 10):
        grid = uniform_lambda(sde, n)
        out = sample(mixture(sde), solver, grid, shape=(3, 2), seeds=range(3))
        assert bool(torch.isfinite(out.x).all())
    if process == "vp":  # with even the coarsest sensible grid the result is like data
        out = sample(mixture(sde), solver, karras(sde, 10), shape=(50, 2), seeds=range(50))
        assert float(out.x.abs().max()) < 30


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=1.0), EulerMaruyama()], **ids)
@pytest.mark.parametrize("process", CONTINUOUS)
def test_the_network_is_asked_at_the_times_of_the_grid(solver, process):
    sde = CONTINUOUS[process]
    grid = uniform_t(sde, 20)
    model, times = _asked(mixture(sde))
    sample(model, solver, grid, shape=(2, 2))
    np.testing.assert_allclose(times, np.linspace(sde.t_max, sde.t_min, 20), rtol=1e-12)


def test_a_forward_step_is_exact_however_long():
    """beta(t) / N as a variance is wrong by half of it; here two steps are one."""
    sde = VPSDE()
    for n in (1, 3, 20):
        a, b2 = 1.0, 0.0
        knots = [sde.clean, *(sde.at((k + 1) / n) for k in range(n))]
        for s, t in pairwise(knots):
            step_a, step_b = sde.transition(s, t)
            a, b2 = a * step_a, b2 * step_a**2 + step_b**2
        assert a == pytest.approx(sde.at(1.0).alpha, rel=1e-12)
        assert math.sqrt(b2) == pytest.approx(sde.at(1.0).sigma, rel=1e-12)


# 2. A duplicated last sigma, or rounded times that repeat: wasted calls, and NaN in third order.


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("maker", GRIDS)
def test_no_time_is_visited_twice(process, maker):
    sde = PROCESSES[process]
    for n in (1, 2, 50, 300):
        grid = GRIDS[maker](sde, n)
        times = [knot.t for knot in grid.knots[:-1]]
        assert len(set(times)) == len(times)
        assert len(times) == n
    model, asked = _asked(mixture(sde))
    sample(model, DDIM(), GRIDS[maker](sde, 7), shape=(1, 2))
    assert len(set(asked)) == 7


# 3. Times rounded to integers for a network that takes real ones: an error floor near 1e-3.


def test_real_valued_indices_leave_no_floor():
    sde = DISCRETE["linear table"]
    exact = gaussian(sde, 3)

    def run(time, n):
        def net(x, t):
            return exact(x, sde.at(float(t[0]))).eps

        model = ScoreModel(net, sde, time=time)
        grid = uniform_lambda(sde, n, t_max=900.0, clean=False)
        x = float(grid.knots[0].radius) * randn(16, 3)
        out = sample(model, Heun(), grid, x=x).x
        return float((out - exact.flow(x, grid.knots[0], grid.knots[-1])).square().mean().sqrt())

    real = [run("t", n) for n in (300, 600)]
    assert real[1] < 3e-5
    assert real[0] / real[1] > 3.5  # still second order
    assert run("index", 600) > 1.5 * real[1]  # what rounding costs, where the network needs it


# 4. Steps that jump where n does not divide 1000.


def test_errors_fall_smoothly_whatever_n_is():
    sde = DISCRETE["linear table"]
    model = gaussian(sde, 3)
    for make in (trailing, leading):
        scaled_errors = []
        for n in (100, 128, 150, 170, 200, 230, 250, 300, 333):
            grid = make(sde, n)
            # From the first knot's own place on one path of the exact flow.
            x = model.flow(randn(32, 3), sde.at(990.0), grid.knots[0])
            truth = model.flow(x, grid.knots[0], sde.clean)
            error = float((sample(model, DDIM(), grid, x=x).x - truth).square().mean().sqrt())
            scaled_errors.append(n * error)
        ratios = np.array(scaled_errors[1:]) / np.array(scaled_errors[:-1])
        assert (abs(ratios - 1) < 0.12).all(), ratios


def test_nothing_is_clipped():
    """Data far outside (-1, 1) come out where they should."""
    sde = VPSDE()
    model = Gaussian(sde, torch.tensor([40.0, -70.0]), Covariance.isotropic(0.5))
    out = sample(model, DDIM(), karras(sde, 60), shape=(400, 2), seeds=1).x
    torch.testing.assert_close(out.mean(0).double(), model.means[0], rtol=0.02, atol=0.3)


# 5. A last step of first order to sigma = 0 floors the error of a solver of higher order.


def test_the_last_step_keeps_the_order():
    sde, fine = VPSDE(t_min=0.02), VPSDE(t_min=1e-4)  # rho = 0.056 and 3e-3 before the last step
    x = 0.7 * randn(256, 2)
    truth = sample(mixture(fine, 2), Heun(), uniform_lambda(fine, 700), x=x).x
    errors = {}
    for final in ("solver", "denoise"):
        out = sample(mixture(sde, 2), Heun(), uniform_lambda(sde, 200), x=x, final=final).x
        errors[final] = float((out - truth).abs().median())
    assert errors["solver"] < 0.3 * errors["denoise"]


# 7. NaN at sigma = 0; a crash on a single step or with another default dtype; host syncs.


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("solver", SOLVERS, **ids)
def test_another_default_dtype_changes_nothing(solver):
    sde = VPSDE()
    settings = {"shape": (3, 2), "seeds": range(3), "dtype": torch.float32}
    for grid in (karras(sde, 4), from_times(sde, [0.5])):
        wide = sample(mixture(sde), solver, grid, **settings).x
        assert wide.dtype == torch.float32
        torch.set_default_dtype(torch.float32)
        assert torch.equal(sample(mixture(sde), solver, grid, **settings).x, wide)
        torch.set_default_dtype(torch.float64)


class _NoSync(TorchDispatchMode):
    """Fails at every operation that makes the host wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("solver", FIXED, **ids)
def test_no_value_is_read_on_the_way(solver):
    sde = VPSDE()
    run = iterate(gaussian(sde, 3), solver, karras(sde, 6), shape=(4, 3), seeds=range(4))
    next(run)  # the start is checked once
    with _NoSync():
        for _ in run:
            pass


# 9. Langevin steps from norms of the batch; seeds that depend on the batch's size.


@pytest.mark.parametrize("solver", SOLVERS, **ids)
def test_a_sample_is_its_own(solver):
    sde = VPSDE()
    seeds = (5, 6, 7, 8)
    grid = uniform_lambda(sde, 6)
    settings = {"dtype": torch.float64}
    together = sample(
        mixture(sde), solver, grid, shape=(4, 2), noise=SampleSeeds(seeds), **settings
    ).x
    adaptive = solver.evals(grid) is None
    for rows in ([2], [3, 0], [1, 1]):
        noise = SampleSeeds(seeds).rows(rows)
        some = sample(mixture(sde), solver, grid, shape=(len(rows), 2), noise=noise, **settings).x
        room = 1e-3 if adaptive else 1e-9
        torch.testing.assert_close(some, together[rows], rtol=room, atol=room)


# 10. The start drawn at the scale of t_max although sampling starts below it.


@pytest.mark.parametrize("process", ["ve", "edm", "flow"])
def test_the_start_has_the_scale_of_its_own_time(process):
    sde = CONTINUOUS[process]
    grid = from_times(sde, [0.4 * sde.t_max])
    first = next(iterate(mixture(sde), DDIM(), grid, shape=(20_000, 2), seeds=1)).x
    assert float(first.std()) == pytest.approx(sde.at(0.4 * sde.t_max).sigma, rel=0.02)
