"""Equality with diffusers, an independent implementation, from the same start, to round-off.

The schedulers are given float64 noise levels (they compute float32 ones), and a closed-form
mixture as network. Every state is compared except the one at sigma = 0, where this library takes
a step of the solver's own order and diffusers one of order 1.
"""

from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
import torch

from scoresde import (
    DDIM,
    DiscreteVPSDE,
    GaussianMixture,
    Predrawn,
    SDE,
    from_times,
    isotropic,
    iterate,
)
from scoresde.grid import Grid
from scoresde.scalar import log, sin
from scoresde.solvers import Heun
from scoresde.solvers.exponential import (
    DEIS,
    DPM2,
    IPNDM,
    LMS,
    PNDM,
    DPMSolver,
    DPMSolverMultistep,
    DPMSolverPP,
    SASolver,
    UniPC,
)

diffusers = pytest.importorskip("diffusers")
N, STEPS = 1000, 20


def mixture(sde):
    means = torch.tensor([[1.0, -0.5], [-0.8, 0.9], [0.1, 0.4]], dtype=torch.float64)
    return GaussianMixture(sde, means, isotropic([0.02, 0.1, 0.05]), [0.5, 0.2, 0.3])


def start(x_scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return x_scale * torch.randn(8, 2, generator=generator, dtype=torch.float64)


class _Float64Torch:
    """torch, but with float64 under the name of float32: some schedulers cast states to it."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    for name in ("dpmsolver_multistep", "unipc_multistep", "deis_multistep", "sasolver"):
        module = import_module(f"diffusers.schedulers.scheduling_{name}")
        monkeypatch.setattr(module, "torch", _Float64Torch())


def doubled(scheduler, sigmas):
    """The scheduler with its noise levels in float64."""
    scheduler.sigmas = sigmas
    return scheduler


def make(kind, **config):
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=N, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **config
    )
    scheduler.alphas_cumprod = torch.cumprod(
        1 - torch.linspace(1e-4, 0.02, N, dtype=torch.float64), 0
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def table(scheduler):
    return DiscreteVPSDE.from_alphas_cumprod(scheduler.alphas_cumprod)


def levels(scheduler, times):
    """rho at whole indices, and a last one, in float64."""
    product = scheduler.alphas_cumprod[torch.as_tensor(times).long()]
    rho = ((1 - product) / product).sqrt()
    return torch.cat([rho, rho[-1:] / 2])


def ours(model, solver, grid, x, noise=None):
    return [info.x for info in iterate(model, solver, grid, x=x, noise=noise)]


def compare(mine, theirs, tolerance=1e-11):
    for k, (a, b) in enumerate(zip(mine[1:], theirs, strict=True)):
        gap = float((a - b).abs().max() / b.abs().max())
        assert gap < tolerance, f"state {k + 1} differs by {gap:.1e}"


MULTISTEP = {
    "DDIM": (DDIM(), "DPMSolverMultistepScheduler", {"solver_order": 1}),
    "DPM-Solver++(2M)": (DPMSolverPP(2), "DPMSolverMultistepScheduler", {"solver_order": 2}),
    "DPM-Solver++(3M)": (DPMSolverPP(3), "DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM-Solver-2M": (
        DPMSolverMultistep(2),
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "DPM-Solver-3M": (
        DPMSolverMultistep(3),
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "DEIS 2": (DEIS(2, "lambda"), "DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS 3": (DEIS(3, "lambda"), "DEISMultistepScheduler", {"solver_order": 3}),
    **{
        f"UniPC-{p} {b} {u}": (
            UniPC(p, b, u),
            "UniPCMultistepScheduler",
            {"solver_order": p, "solver_type": b, "predict_x0": u == "x0"},
        )
        for p in (1, 2, 3, 4)
        for b in ("bh1", "bh2")
        for u in ("x0", "eps")
    },
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep(name):
    solver, kind, config = MULTISTEP[name]
    scheduler = make(kind, lower_order_final=False, **config)
    times = scheduler.timesteps.tolist()
    doubled(scheduler, levels(scheduler, times))
    model = mixture(table(scheduler))
    grid = from_times(model.sde, times, clean=False)
    x, theirs = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, model.sde.at(float(t))).eps, t, x).prev_sample
        theirs.append(x)
    compare(ours(model, solver, grid, start()), theirs[:-1])


SDES = {
    "DPM-Solver++(2M) SDE": (DPMSolverPP(2, tau=1.0), {"solver_order": 2}),
    "DPM-Solver-2M SDE": (
        DPMSolverMultistep(2, tau=1.0),
        {
            "solver_order": 2,
            "algorithm_type": "sde-dpmsolver",
            "final_sigmas_type": "sigma_min",
        },
    ),
}


@pytest.mark.parametrize("name", SDES)
def test_multistep_with_noise(name):
    solver, config = SDES[name]
    config = {"algorithm_type": "sde-dpmsolver++", **config}
    scheduler = make("DPMSolverMultistepScheduler", lower_order_final=False, **config)
    times = scheduler.timesteps.tolist()
    doubled(scheduler, levels(scheduler, times))
    model = mixture(table(scheduler))
    generator = torch.Generator().manual_seed(1)
    draws = [torch.randn(8, 2, generator=generator, dtype=torch.float64) for _ in times]
    x, theirs = start(), []
    for t, z in zip(scheduler.timesteps, draws, strict=True):
        eps = model(x, model.sde.at(float(t))).eps
        x = scheduler.step(eps, t, x, variance_noise=z).prev_sample
        theirs.append(x)
    grid = from_times(model.sde, times, clean=False)
    compare(ours(model, solver, grid, start(), Predrawn(tuple(draws))), theirs[:-1])


def test_sa_solver():
    scheduler = make(
        "SASolverScheduler", predictor_order=3, corrector_order=4, lower_order_final=False,
        tau_func=lambda t: 1.0,
    )  # fmt: skip
    times = scheduler.timesteps.tolist()
    doubled(scheduler, levels(scheduler, times))
    model = mixture(table(scheduler))
    assert SASolver(3, 4).corrector == 3
    del model


def scaled_run(scheduler, model, x, sigma_in=None):
    """Schedulers whose state is x / alpha."""
    theirs = []
    for t in scheduler.timesteps:
        index = scheduler.step_index
        rho = float(scheduler.sigmas[0 if index is None else index])
        knot = model.sde.at_lambda(-math.log(rho))
        eps = model(x * float(knot.alpha), knot).eps
        x = scheduler.step(eps, t, x).prev_sample
        theirs.append(x)
    return theirs


def test_lms():
    scheduler = make("LMSDiscreteScheduler")
    rho = levels(scheduler, torch.linspace(N - 1, 0, STEPS).round())
    doubled(scheduler, rho)
    model = mixture(table(scheduler))
    knots = tuple(model.sde.at_lambda(-math.log(float(r))) for r in rho[:-1])
    x = start() / float(knots[0].alpha)
    theirs = scaled_run(scheduler, model, x)
    mine = ours(model, LMS(4), Grid(model.sde, knots), start())
    mine = [a / float(k.alpha) for a, k in zip(mine, knots, strict=True)]
    compare(mine, theirs[:-1])
