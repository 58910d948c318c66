"""azula."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.azula import Denoiser, Schedule
from benchmarks.peers.source import package
from scoresde import DDIM
from scoresde.solvers import Ancestral, Heun
from scoresde.solvers.exponential import LMS, ExponentialAB, ExponentialMultistep
from scoresde.solvers.solver import Solver

from . import MODEL, SDE, START, STEPS, UNIFORM, Group, Pair, label, ours, seeded


def azula() -> Group:
    module, version = package("azula.sample", "azula")

    def pair(solver: Solver, kind: str, *, reason: str = "", differs: bool = False,
             tolerance: float = 1e-10, **options: Any) -> Pair:  # fmt: skip
        def run() -> tuple[Tensor, Tensor]:
            times = Schedule(SDE, "uniform t", False)
            sampler = getattr(module, kind)(
                Denoiser(MODEL, times), steps=STEPS, silent=True, dtype=torch.float64,
                **options,
            )  # fmt: skip
            with seeded() as drawn:
                y = sampler(START)
            return ours(solver, UNIFORM, drawn), y

        tag = ", ".join(f"{k}={v}" for k, v in options.items())
        return Pair(label(solver), f"{kind}({tag})", run, tolerance, reason, differs)

    order = "one sigma_t stands for a sigma_s in its last factor, so that its order is 1"
    pairs = [
        pair(DDIM(), "DDIMSampler"),
        pair(Ancestral(), "DDPMSampler"),
        pair(DDIM(1.0), "DDIMSampler", eta=1.0),
        pair(DDIM(half := math.sqrt(0.5)), "DDIMSampler", eta=half**2),
        pair(Heun(), "HeunSampler"),
        *(pair(ExponentialMultistep(1, "eps", tau=a), "ItoSampler", eta=a) for a in (0.5, 1.0)),
        *(pair(LMS(k), "zABSampler", order=k) for k in (2, 3, 4)),
        *(pair(ExponentialAB(k, "eps"), "zEABSampler", order=k) for k in (2, 3, 4)),
        *(pair(ExponentialAB(k, "x0"), "xEABSampler", order=k) for k in (2, 3, 4)),
        pair(ExponentialMultistep(3, "v", "lambda"), "REABSampler", order=3, reason=order,
             differs=True),
    ]  # fmt: skip
    return Group("azula", version, pairs)
