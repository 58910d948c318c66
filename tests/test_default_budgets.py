"""What `sample(model, "name", nfe=...)` draws without a grid has the right width, or is refused."""

from __future__ import annotations

import re

import pytest
import torch
from support import DISCRETE

from scoresde import (
    EDMSDE,
    VPSDE,
    CosineVPSDE,
    Covariance,
    FlowSDE,
    Gaussian,
    Grid,
    sample,
    uniform_lambda,
)
from scoresde.errors import ConfigError
from scoresde.exact.problems import ring8
from scoresde.solvers import SEEDS2, SEEDS3, DPMSolverPPSDE, StochasticHeun, TorchSDE
from scoresde.solvers.stability import limit_of_variance, longest_stable_step, longest_step

PROCESSES = [VPSDE(), EDMSDE(), FlowSDE(t_max=0.999), CosineVPSDE(), DISCRETE["linear table"]]


def _gaussian(sde, std):
    return Gaussian(sde, torch.zeros(2), Covariance.isotropic(std**2))


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("solver", [SEEDS2(), SEEDS3(), StochasticHeun()], ids=str)
def test_a_budget_is_refused_or_gives_the_right_deviation(solver, sde):
    with pytest.raises(ConfigError, match="amplifies noise") as caught:
        sample(_gaussian(sde, 0.3), solver, nfe=20, shape=(1, 2))
    least = int(re.search(r"nfe=(\d+)", str(caught.value))[1])
    assert 20 < least < 130
    for std in (0.05, 0.3, 1.0):
        x = sample(_gaussian(sde, std), solver, nfe=least, shape=(4000, 2)).x
        assert float(x.std()) == pytest.approx(std, rel=0.2)
    with pytest.raises(ConfigError, match=f"nfe={least} or more"):
        sample(_gaussian(sde, 0.3), solver, nfe=least - 1, shape=(1, 2))


def test_a_method_in_x0_is_stable_at_any_step():
    assert longest_stable_step(DPMSolverPPSDE()) == float("inf")
    x = sample(_gaussian(VPSDE(), 0.3), DPMSolverPPSDE(), nfe=20, shape=(4000, 2)).x
    assert float(x.std()) == pytest.approx(0.3, rel=0.2)


def test_the_limit_of_the_variance_is_that_of_many_steps():
    """Data that are all 0, and 30 equal steps: the state over sigma has variance V(h)."""
    solver, h = SEEDS3(), 0.6
    sde = EDMSDE()
    knots = [sde.at_lambda(-4.3 + h * k) for k in range(17)]
    model = _gaussian(sde, 1e-9)
    x = sample(model, solver, Grid(sde, tuple(knots)), shape=(40_000, 2)).x
    found = float((x / knots[-1].sigma).var())
    assert found == pytest.approx(limit_of_variance(solver, h), rel=0.03)


def test_a_grid_of_ones_own_is_obeyed():
    model = _gaussian(VPSDE(), 0.3)
    grid = uniform_lambda(model.sde, 9)
    assert longest_step(grid) > longest_stable_step(SEEDS2())
    assert sample(model, SEEDS2(), grid, shape=(2, 2)).steps == 9


@pytest.mark.parametrize("method", ["srk", "euler", "heun", "midpoint", "euler_heun"])
def test_torchsde_without_a_grid_draws_the_data(method):
    pytest.importorskip("torchsde")
    model = ring8(VPSDE())
    x = sample(model, TorchSDE(method=method), shape=(200, 2)).x
    truth = model.sample(20_000)
    # The ring's size along each axis: 200 draws have a standard error of 5 % and less.
    torch.testing.assert_close(x.double().std(0), truth.std(0), rtol=0.2, atol=0.0)
    assert float(x.abs().max()) < 1.3 * float(truth.abs().max())


def test_solvers_with_steps_of_their_own_say_what_to_give_them():
    with pytest.raises(ConfigError, match="a tolerance instead of a budget, or a grid"):
        sample(ring8(VPSDE()), "TorchSDE", nfe=20, shape=(2, 2))
