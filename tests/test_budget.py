"""Budgets: which solver and grid they give, and solvers given by name."""

from __future__ import annotations

import math

import pytest
import torch

import scoresde as sd
from scoresde._internal.specs import SOLVERS, solver
from scoresde.bench import Starts, compare, solve_reference
from scoresde.errors import ConfigError
from scoresde.exact.problems import ring8
from scoresde.metrics import endpoint_errors
from scoresde.sampling.choose import choose, default_grid
from scoresde.solvers import evaluations

SDE = sd.VPSDE()
MODEL = ring8(SDE, seed=5)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_takes_a_budget(name):
    """The budget is kept, and one further step would break it."""
    rule = solver(name)
    # Methods that amplify noise in long steps: see test_default_budgets.py.
    nfe = 12 if name not in ("SEEDS2", "SEEDS3", "StochasticHeun") else 60
    if evaluations(rule, sd.uniform_lambda(SDE, 4)) is None:
        with pytest.raises(ConfigError, match="a tolerance instead of a budget"):
            choose(SDE, name, None, 12)
        assert choose(SDE, name, None, None)[1] == sd.uniform_lambda(
            SDE, 40 if name == "TorchSDE" else 2
        )
        return
    chosen, grid = choose(SDE, name.lower(), None, nfe)
    assert chosen == rule
    assert (
        evaluations(rule, grid) <= nfe < evaluations(rule, default_grid(rule)(SDE, grid.steps + 1))
    )


def test_the_default_budget_and_the_default_choice():
    out = sd.sample(MODEL, "ddim", shape=(3, 2), seeds=range(3))
    assert out.mean_nfe == out.steps == 20
    assert choose(SDE, None, None, None) == sd.recommended(SDE, 20)
    assert choose(SDE, "recommended(stochastic=True)", None, 9) == sd.recommended(
        SDE, 9, stochastic=True
    )
    heun = sd.sample(MODEL, "heun", nfe=10, shape=(3, 2), seeds=range(3))
    assert heun.mean_nfe == 9
    by_hand = sd.sample(MODEL, sd.Heun(), sd.focused(SDE, 5), shape=(3, 2), seeds=range(3))
    assert torch.equal(heun.x, by_hand.x)


def test_grids_are_those_that_suit_the_solver():
    focus = sd.Focus(0.1, 10.0)
    for rule, expected in (
        (sd.DDIM(), sd.focused(SDE, 6)),
        (sd.UniPC(), sd.uniform_lambda(SDE, 6)),
        (sd.Ancestral(), sd.uniform_lambda(SDE, 6)),
        (sd.ExponentialMultistep(3, "v", focus), sd.focused(SDE, 6, focus)),
    ):
        assert default_grid(rule)(SDE, 6) == expected


@pytest.mark.parametrize("name", ["DDIM", "Heun", "DEIS", "DPMSolver", "LMS"])
def test_the_default_grid_beats_the_usual_one(name):
    """One instance of one problem, at 20 evaluations."""
    start = SDE.prior_sample(sd.SampleSeeds(tuple(range(128))).open((128, 2), torch.float64))
    truth = solve_reference(MODEL, start, rtol=1e-6).x

    def error(grid):
        ends = endpoint_errors(sd.sample(MODEL, name, grid, x=start).x, truth)
        return math.sqrt(ends.square().mean())

    own = choose(SDE, name, None, 20)[1]
    assert error(own) < 0.8 * error(sd.uniform_lambda(SDE, own.steps))


def test_names_stand_for_solvers_wherever_one_is_taken(tmp_path):
    grid = sd.uniform_lambda(SDE, 4)
    x = MODEL.sample(3, SDE.t_min, seed=1)
    flow = "ProbabilityFlow(backend=TorchDiffEq(rtol=1e-4), clock='rho')"
    value = sd.ProbabilityFlow(sd.TorchDiffEq(rtol=1e-4), clock="rho")
    *_, last = sd.iterate(MODEL, "DDIM", grid, shape=(3, 2), seeds=range(3))
    same = sd.sample(MODEL, sd.DDIM(), grid, shape=(3, 2), seeds=range(3)).x
    assert torch.equal(last.x, same)
    job = sd.sample_many(MODEL, "DDIM", grid, tmp_path, event_shape=(2,), seeds=range(3))
    assert torch.equal(job.samples(), same)
    with torch.no_grad():
        assert torch.equal(sd.encode(MODEL, x, solver=flow), sd.encode(MODEL, x, solver=value))
        assert torch.equal(sd.decode(MODEL, x, solver=flow), sd.decode(MODEL, x, solver=value))
    assert sd.ScoreDistribution(MODEL, (2,), solver=flow).solver == value
    table = compare(MODEL, ["ddim", sd.DDIM()], nfe=[4], starts=Starts(4))
    assert table.cells[0].scores == table.cells[1].scores
    named = sd.log_likelihood(MODEL, x, method="persample(tol=1e-3)")
    assert torch.equal(named.nats, sd.log_likelihood(MODEL, x, method=sd.PerSample(1e-3)).nats)
