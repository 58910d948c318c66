"""ER-SDE-Solver's own code on the model's process, down to t_min and then to x0."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from scoresde.grid import karras, uniform_lambda
from scoresde.model import Predictor

from . import Peer
from .source import clone, replaced

METHODS = {1: "vp_1_order", 2: "vp_2_order_taylor", 3: "vp_3_order_taylor"}
GRIDS = {"karras": karras, "uniform lambda": uniform_lambda}


def one_kind(module: ModuleType) -> AbstractContextManager[None]:
    """As published it asks for noise levels that are numpy's in one line and torch's in another."""
    return replaced(module, "np", sum=torch.sum, arange=lambda n, dtype: torch.arange(n).double())


@dataclass(frozen=True)
class Sampler:
    """An order, a noise scale function by its number there, and a grid."""

    module: ModuleType
    order: int
    scale: int
    grid: str

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """One evaluation is kept for x0."""
        knots = GRIDS[self.grid](model.sde, nfe - 1, clean=False).knots
        alphas = torch.tensor([float(knot.alpha) for knot in knots], dtype=torch.float64)
        sigmas = torch.tensor([float(knot.sigma) for knot in knots], dtype=torch.float64)
        solver = self.module.ER_SDE_Solver("vp", "x_start")
        with one_kind(self.module):
            end = getattr(solver, METHODS[self.order])(
                lambda state, knot: model(state, knot).x0, x, alphas, sigmas, knots,
                lambda rho: self.module.customized_func(rho, self.scale),
            )  # fmt: skip
        return model(end, knots[-1]).x0


def peers() -> list[Peer]:
    """The scale that its paper recommends, and the reverse SDE's own."""
    (module,), commit = clone("ER-SDE-Solver", "QinpengCui/ER-SDE-Solver", "er_sde_solver")
    return [
        Peer(
            f"ER-SDE-{order} {name} {grid}", "ER-SDE-Solver", commit,
            Sampler(module, order, scale, grid), "stochastic",
            "integrals by left sums of 100 points" if order > 1 else None,
        )
        for name, scale in (("SDE_5", 7), ("SDE", 2))
        for order in METHODS
        for grid in GRIDS
    ]  # fmt: skip
