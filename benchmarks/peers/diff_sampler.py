"""diff-sampler's solvers in y = x / alpha, on its grids, with its last step to x0.

Its rhoAB is left out: from the fifth step on it goes on with the weights of the fourth, and
diverges. Its DPM-Solver++ and UniPC clip x0 by a quantile of each sample, which has no off switch.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from scoresde.model import Predictor

from . import Peer
from .denoiser import Denoiser
from .source import clone, double


@dataclass(frozen=True)
class Sampler:
    """A solver, its order, and a grid: `get_schedule`'s kind and exponent."""

    solvers: ModuleType
    utils: ModuleType
    function: str
    order: int
    kind: str
    exponent: int
    deis: str = ""

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """As many knots as evaluations: the last one is asked for x0."""
        net = Denoiser(model)
        with double():
            knots = self.utils.get_schedule(
                nfe, net.sigma_min, net.sigma_max, "cpu", self.kind, self.exponent, net
            ).double()
            weights = (
                self.utils.get_deis_coeff_list(knots, self.order, deis_mode=self.deis)
                if self.deis
                else None
            )
            out: Tensor = getattr(self.solvers, self.function)(
                net, net.start(x) / knots[0], num_steps=nfe, t_steps=knots,
                max_order=self.order, coeff_list=weights, denoise_to_zero=True,
            )  # fmt: skip
        return out


def peers() -> list[Peer]:
    """All of them."""
    (solvers, utils), commit = clone(
        "diff-sampler/diff-solvers-main", "zju-pi/diff-sampler", "solvers", "solver_utils"
    )
    grids = {
        "uniform t": ("time_uniform", 1),
        "quadratic": ("time_uniform", 2),
        "karras": ("polynomial", 7),
        "uniform lambda": ("logsnr", 7),
    }
    rows = {
        "iPNDM-3": ("ipndm_sampler", 3, ""),
        "iPNDM-4": ("ipndm_sampler", 4, ""),
        "iPNDM-v-4": ("ipndm_v_sampler", 4, ""),
        "DEIS tAB3": ("deis_sampler", 3, "tab"),
        "DEIS tAB4": ("deis_sampler", 4, "tab"),
    }
    notes = {"ipndm_v_sampler": "not of its order on non-uniform grids"}
    return [
        Peer(
            f"diff-sampler {name} {grid}", "diff-sampler", commit,
            Sampler(solvers, utils, function, order, kind, exponent, deis),
            note=notes.get(function),
        )
        for name, (function, order, deis) in rows.items()
        for grid, (kind, exponent) in grids.items()
    ]  # fmt: skip
