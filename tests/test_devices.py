"""CUDA without a GPU: PyTorch's fake tensors have a device, shapes and dtypes but no values.

On them, an operation that mixes CUDA and CPU tensors fails, as on a GPU. An operation that needs a
value on the host (`.item()`, a truth value, `nonzero`) also fails; on a GPU it would make the host
wait. So a loop that runs here neither mixes devices nor waits. Backward passes and slices cannot be
tested in this way, since they call the device's driver.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from test_every_solver import SOLVERS
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    FakeTensorMode,
    unset_fake_temporarily,
)

import scoresde.sampling.run
from scoresde import (
    DDIM,
    EDMSDE,
    VPSDE,
    FlowSDE,
    Predrawn,
    ScoreModel,
    iterate,
    recommended,
    uniform_lambda,
)

SHAPE = (4, 3, 8, 8)
ON_THE_HOST = ("DPMSolverAdaptive", "GottaGoFast", "ProbabilityFlow", "TorchSDE")  # by design
FIXED = [solver for solver in SOLVERS if type(solver).__name__ not in ON_THE_HOST]


class Net(nn.Module):
    """A mixture of channels told the time, with weights on the device."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 3, device="cuda"))

    def forward(self, x, time):
        return torch.einsum("ij,bj...->bi...", self.weight, x) * time.reshape(-1, 1, 1, 1)


@pytest.fixture
def cuda(monkeypatch):
    # The door's check of the start for NaN is the one place where a run looks at values.
    monkeypatch.setattr(scoresde.sampling.run, "bad_rows", lambda x: [])
    with FakeTensorMode(), torch.no_grad():
        yield


def draws(n: int) -> Predrawn:
    return Predrawn(tuple(torch.empty(SHAPE, device="cuda") for _ in range(n)))


def last(model, solver, grid):
    x = torch.empty(SHAPE, device="cuda")
    *_, info = iterate(model, solver, grid, x=x, noise=draws(60))
    return info.x


@pytest.mark.parametrize("sde", [VPSDE(), EDMSDE()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("solver", FIXED, ids=str)
def test_fixed_grids_neither_mix_devices_nor_wait(cuda, solver, sde):
    model = ScoreModel(Net(), sde, predicts="v", time="log_sigma")
    with unset_fake_temporarily():  # coefficients are made ahead of the loop, on the host
        grid = uniform_lambda(sde, 7)
        solver.init(model, grid)
    assert last(model, solver, grid).device.type == "cuda"


@pytest.mark.parametrize("stochastic", [False, True])
def test_recommended_from_zero_snr(cuda, stochastic):
    model = ScoreModel(Net(), FlowSDE(), predicts="flow", time="t")
    solver, grid = recommended(model.sde, 12, stochastic=stochastic)
    assert last(model, solver, grid).device.type == "cuda"


# -- planted defects -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Mixing(DDIM):
    def step(self, model, x, t, s, carry, noise):
        moved, carry = super().step(model, x, t, s, carry, noise)
        return moved * torch.ones(SHAPE), carry


@dataclass(frozen=True)
class Waiting(DDIM):
    def step(self, model, x, t, s, carry, noise):
        moved, carry = super().step(model, x, t, s, carry, noise)
        return (moved if x.max() > 0 else -moved), carry


@pytest.mark.parametrize(
    ("solver", "error", "says"),
    [
        (Mixing(), RuntimeError, "at least two devices, cuda:0 and cpu"),
        (Waiting(), DataDependentOutputException, "_local_scalar_dense"),
    ],
)
def test_both_defects_are_found(cuda, solver, error, says):
    model = ScoreModel(Net(), VPSDE(), predicts="eps", time="t")
    with pytest.raises(error, match=says):
        last(model, solver, uniform_lambda(model.sde, 3))
