"""Orders of convergence from t_max to sigma = 0, also for discrete tables."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import PROCESSES, gaussian, randn

from scoresde import (
    DDIM,
    VPSDE,
    Covariance,
    EulerMaruyama,
    FlowSDE,
    Gaussian,
    Heun,
    karras,
    sample,
    uniform_t,
)
from scoresde.solvers import Ancestral, ReverseDiffusion

SOLVERS = [DDIM(), Heun(), EulerMaruyama(0.0), ReverseDiffusion(0.0)]
IN_T = (EulerMaruyama, ReverseDiffusion)  # whose steps are steps of t


def _errors(solver, model, grids) -> list[float]:
    errors = []
    for grid in grids:
        x = float(grid.knots[0].radius) * randn(64, 3)
        out = sample(model, solver, grid, x=x).x
        gap = out - model.flow(x, grid.knots[0], grid.knots[-1])
        errors.append(float(gap.square().mean().sqrt()))
    return errors


def _slopes(errors: list[float]) -> list[float]:
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda s: type(s).__name__)
def test_order_from_t_max_to_sigma_zero(process, solver):
    """Karras's grid is finest at the end, so that its order is the solver's own there too."""
    sde = PROCESSES[process]
    make = uniform_t if isinstance(solver, IN_T) and process != "edm" else karras
    clean = make is karras
    t_max = {
        "edm": 10.0,
        "flow": 0.95,
        "ot": 0.95,
        "trig": 0.95,
        "cosine": 0.9,
        "zero-SNR table": 90.0,
        "cosine table": 900.0,
    }.get(process)
    t_min = {"ve": 0.3}.get(process) if make is uniform_t else None
    grids = [make(sde, n, t_max=t_max, t_min=t_min, clean=clean) for n in (40, 80, 160)]
    errors = _errors(solver, gaussian(sde, 3), grids)
    assert errors[-1] < 0.15
    assert _slopes(errors)[-1] > solver.order - 0.3
    assert _slopes(errors)[-1] < solver.order + 0.6


@pytest.mark.parametrize("process", ["linear table", "cosine table", "sigmoid table"])
def test_a_table_costs_no_order(process):
    """Between its points a table is C2: second order holds with steps across and inside them."""
    sde = PROCESSES[process]
    grids = [uniform_t(sde, n, t_min=20.0, t_max=320.0, clean=False) for n in (150, 300, 600)]
    assert _slopes(_errors(Heun(), gaussian(sde, 3), grids))[-1] == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("process", ["vp", "flow", "cosine table", "zero-SNR table"])
def test_from_the_very_end_where_there_is_no_signal(process):
    """The whole of time, the last sliver of signal included: no error is left behind."""
    sde = FlowSDE() if process == "flow" else PROCESSES[process]
    model = Gaussian(sde, 0.3 * torch.ones(3, dtype=torch.float64), Covariance.isotropic(0.3))
    errors = []
    for n in (50, 100, 200):
        grid = karras(sde, n)
        x = float(grid.knots[0].sigma) * randn(64, 3)
        truth = model.flow(x, grid.knots[0], sde.clean)
        errors.append(float((sample(model, DDIM(), grid, x=x).x - truth).square().mean().sqrt()))
    assert _slopes(errors)[-1] > 0.75


@pytest.mark.parametrize(
    "solver", [Ancestral(), EulerMaruyama(), ReverseDiffusion(), DDIM(eta=0.5)]
)
def test_stochastic_solvers_reach_the_data(solver):
    """10,000 samples from t_max to sigma = 0 with 300 steps: 10% in each variance and mean."""
    sde = VPSDE()
    model = gaussian(sde, 2)
    out = sample(
        model, solver, uniform_t(sde, 300), shape=(10_000, 2), dtype=torch.float64, seeds=2
    ).x
    mean, covariance = model.moments()
    std = covariance.diagonal().sqrt()
    assert float(((out.mean(0) - mean) / std).abs().max()) < 4 / math.sqrt(10_000) + 0.02
    ratio = out.var(0) / covariance.diagonal()
    assert float((ratio - 1).abs().max()) < 4 * math.sqrt(2 / 10_000) + 0.04
    correlation = float(np.corrcoef(out.T)[0, 1])
    assert abs(correlation) < 4 / math.sqrt(10_000)
