"""Compiled networks, compiled runs, and loops without synchronisation of host and device."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support import gaussian, mixture, randn
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde import (
    DDIM,
    VPSDE,
    EulerMaruyama,
    FlowSDE,
    Heun,
    Predrawn,
    SampleSeeds,
    ScoreModel,
    from_times,
    iterate,
    recommended,
    sample,
    uniform_lambda,
)
from scoresde.solvers import (
    DPMSolver,
    DPMSolverAdaptive,
    DPMSolverPP,
    ExponentialRK,
    PredictorCorrector,
    SASolver,
    UniPC,
)
from scoresde.testing import Bimodal, check_solver
from scoresde.testing.contract import Syncs

SDE = VPSDE()
FIXED = [
    DDIM(),
    DDIM(eta=1.0),
    EulerMaruyama(),
    Heun(),
    DPMSolver(3),
    DPMSolverPP(2),
    UniPC(3),
    SASolver(),
    PredictorCorrector(),
    recommended(SDE, 50)[0],
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x, time):
        features = torch.cat([x, time[:, None]], dim=1)
        return self.last(torch.tanh(self.first(features)))


class Counting:
    """A backend of torch.compile that runs the graph as it is and counts how often it was built."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def _compiled_network():
    torch.manual_seed(0)
    torch.compiler.reset()
    net, backend = Net().requires_grad_(False), Counting()
    model = ScoreModel(torch.compile(net, backend=backend, fullgraph=True), SDE, time="t")
    return net, model, backend


@pytest.mark.parametrize("solver", FIXED, ids=str)
def test_a_compiled_network_is_compiled_once(solver):
    net, model, backend = _compiled_network()
    settings = {"shape": (4, 2), "seeds": range(4), "dtype": torch.float32}
    grid = uniform_lambda(SDE, 8)
    out = sample(model, solver, grid, **settings)
    assert backend.graphs == 1
    sample(model, solver, uniform_lambda(SDE, 11), **settings)
    assert backend.graphs == 1
    plain = sample(ScoreModel(net, SDE, time="t"), solver, grid, **settings)
    assert torch.equal(out.x, plain.x)


def test_steps_of_each_samples_own_cost_one_graph_of_any_batch():
    """The batch shrinks as samples arrive: one graph for the first size, one for all others."""
    _, model, backend = _compiled_network()
    sample(model, DPMSolverAdaptive(), uniform_lambda(SDE, 2), shape=(7, 2), seeds=range(7))
    assert backend.graphs <= 3  # a batch of one is always a graph of its own


def _run(model, solver, grid, x, draws, final="solver"):
    *_, last = iterate(model, solver, grid, x=x, noise=Predrawn(draws), final=final)
    return last.x, last.nfe


@pytest.mark.parametrize(
    ("solver", "grid", "final"),
    [
        (*recommended(SDE, 20), "solver"),
        (*recommended(SDE, 80), "none"),
        (*recommended(SDE, 8, stochastic=True), "denoise"),
        (Heun(), from_times(FlowSDE(), [1.0, 0.7, 0.4]), "solver"),
        (UniPC(2), from_times(FlowSDE(), [1.0, 0.7, 0.4, 0.2]), "none"),
        (ExponentialRK("hochbruck4", "v"), from_times(FlowSDE(), [1.0, 0.7, 0.4]), "denoise"),
    ],
    ids=["20", "80", "noise", "Heun", "UniPC", "RK"],
)
def test_whole_runs_are_one_graph(solver, grid, final):
    model, x = Bimodal(grid.sde), randn(3, 2)
    draws = tuple(randn(3, 2, seed=k) for k in range(20))
    torch.compiler.reset()
    plain = _run(model, solver, grid, x, draws, final)
    compiled = torch.compile(_run, fullgraph=True, backend="eager")
    for _ in range(2):
        x_end, nfe = compiled(model, solver, grid, x, draws, final)
        torch.testing.assert_close(x_end, plain[0], rtol=1e-12, atol=1e-12)
        assert torch.equal(nfe, plain[1])


@dataclasses.dataclass(frozen=True)
class Breaks(DDIM):
    """In order but for a call that no graph holds, as foreign code may make."""

    def step(self, model, x, t, s, carry, noise):
        torch._dynamo.graph_break()
        return super().step(model, x, t, s, carry, noise)


def test_a_claim_that_is_not_met_is_found():
    found = check_solver(Breaks(), [SDE]).findings
    assert [finding.check for finding in found] == ["a compiled run"]
    assert "not one graph" in found[0].message


@pytest.mark.parametrize("solver", [*FIXED, ExponentialRK("krogstad4", "v")], ids=str)
def test_the_host_never_waits_in_the_loop(solver):
    """From the first step to the last, driver, counting and noise included."""
    watch, run = (
        Syncs(),
        iterate(
            mixture(SDE), solver, uniform_lambda(SDE, 5), shape=(3, 2), noise=SampleSeeds((1, 2, 3))
        ),
    )
    next(run)
    with watch:
        for _ in run:
            pass
    assert not watch.seen


def test_an_operation_that_waits_is_seen():
    watch = Syncs()
    with watch:
        randn(3).max().item()
    assert watch.seen == {"_local_scalar_dense"}
    assert isinstance(watch, TorchDispatchMode)


@pytest.mark.gpu
@pytest.mark.parametrize("solver", FIXED, ids=str)
def test_the_host_never_waits_for_the_gpu(solver):
    run = iterate(
        gaussian(SDE, 2), solver, uniform_lambda(SDE, 5), shape=(3, 2), seeds=0, device="cuda"
    )
    next(run)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in run:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
