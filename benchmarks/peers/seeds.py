"""SEEDS' own code in y = x / alpha, down to t_min and then to x0."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scoresde.grid import karras, uniform_lambda
from scoresde.model import Predictor

from . import Peer
from .denoiser import Denoiser
from .source import clone

GRIDS = {"karras": karras, "uniform lambda": uniform_lambda}


def solver(module: ModuleType, net: Denoiser, order: int) -> Any:
    """Its stochastic exponential Runge-Kutta method in eps, for sigma(t) = t and no scaling."""
    return module.ETD_SERK_SOLVER(
        net, lamb=lambda u: -torch.log(u), lamb_inv=lambda u: torch.exp(-u), class_labels=None,
        sigma=lambda u: u, s=lambda u: 1.0, order=order, c2=None, noise_pred=True,
        butcher_type=None, noise_type=None,
    )  # fmt: skip


@dataclass(frozen=True)
class Sampler:
    """SEEDS-1, 2 or 3 on a grid."""

    module: ModuleType
    order: int
    grid: str

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """As many steps as the budget allows; one evaluation is kept for x0."""
        net, steps = Denoiser(model), max(1, (nfe - 1) // self.order)
        knots = GRIDS[self.grid](model.sde, steps, clean=False).knots
        levels = torch.tensor([float(knot.rho) for knot in knots], dtype=torch.float64)
        method, y = solver(self.module, net, self.order), net.start(x)
        for k, (t, s) in enumerate(pairwise(levels)):
            y = method.update(y, t, s, steps + 1, k)
        return net.forward(y, levels[-1:])


def load() -> tuple[ModuleType, str]:
    """The module of the method, and the commit."""
    (module,), commit = clone("SEEDS", "nfsrules/SEEDS", "seeds_lib.methods.etd_serk")
    return module, commit


def peers() -> list[Peer]:
    """All of them."""
    module, commit = load()
    note = "its stages do not lie on the noise that the step ends with"
    return [
        Peer(
            f"SEEDS-{order} {grid}", "SEEDS", commit, Sampler(module, order, grid), "stochastic",
            note if order == 3 else None,
        )
        for order in (1, 2, 3)
        for grid in GRIDS
    ]  # fmt: skip
