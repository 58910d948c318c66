"""dpm-solver and UniPC."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.noise_schedule import noise, schedule
from benchmarks.peers.source import clone, double
from scoresde import from_times
from scoresde._internal import step_control
from scoresde.solvers import DPMSolverAdaptive
from scoresde.solvers.exponential import DPMSolver, DPMSolverMultistep, DPMSolverPP, UniPC

from . import MODEL, SDE, START, STEPS, TIMES, UNIFORM, Group, Pair, label, ours, silent


def dpm_solver() -> Group:
    (module,), commit = clone("dpm-solver", "LuChengTHU/dpm-solver", "dpm_solver_pytorch")
    names = {"eps": "dpmsolver", "x0": "dpmsolver++"}

    def solver(kind: str) -> Any:
        times = schedule(module, SDE)
        return module.DPM_Solver(noise(MODEL, times, START.shape), times, kind)

    def multistep(order: int, variable: str) -> Pair:
        make = DPMSolverPP if variable == "x0" else DPMSolverMultistep

        def run() -> tuple[Tensor, Tensor]:
            with double():
                y = solver(names[variable]).sample(START, STEPS, order=order, t_end=SDE.t_min)
            return ours(make(order), UNIFORM), y

        return Pair(label(make(order)), f"{names[variable]} multistep {order}", run)

    def single(order: int, variable: str) -> Pair:
        preset = DPMSolver(order, variable)

        def run() -> tuple[Tensor, Tensor]:
            with double():
                theirs, y = solver(names[variable]), START
                for t, s in pairwise(TIMES):
                    y = theirs.singlestep_dpm_solver_update(y, t[None], s[None], order)
            return ours(preset, UNIFORM), y

        return Pair(label(preset), f"{names[variable]} singlestep {order}", run)

    def adaptive(order: int) -> Pair:
        preset = DPMSolverAdaptive(order, atol=1e-4, rtol=1e-3)

        def run() -> tuple[Tensor, Tensor]:
            """One sample at a time: its step size is that of the whole batch."""
            rows = []
            with double(), silent():
                for row in START[:4].split(1):
                    times = schedule(module, SDE)
                    theirs = module.DPM_Solver(noise(MODEL, times, row.shape), times, "dpmsolver")
                    rows.append(
                        theirs.sample(row, order=order, method="adaptive", t_end=SDE.t_min,
                                      atol=1e-4, rtol=1e-3)
                    )  # fmt: skip
            grid = from_times(SDE, [1.0, SDE.t_min], clean=False)
            before, step_control.GROW = step_control.GROW, math.inf
            try:
                return ours(preset, grid, (), x=START[:4]), torch.cat(rows)
            finally:
                step_control.GROW = before

        return Pair(
            label(preset), f"adaptive {order}, one sample at a time", run, 1e-4,
            "its steps are float32 and end within 1e-5 of t_min; our bound on their growth lifted",
        )  # fmt: skip

    pairs = [multistep(order, u) for u in names for order in (1, 2, 3)]
    pairs += [single(order, u) for u in names for order in (1, 2, 3)]
    return Group("dpm-solver", commit, pairs + [adaptive(order) for order in (2, 3)])


def unipc() -> Group:
    (module,), commit = clone("UniPC", "wl-zhao/UniPC", "uni_pc")
    kinds = {"eps": "noise_prediction", "x0": "data_prediction"}

    def pair(order: int, variant: str, variable: str) -> Pair:
        published = variant != "vary_coeff"
        preset = UniPC(order, variant if published else "exact", variable)

        def run() -> tuple[Tensor, Tensor]:
            shaped = START[:, :, None, None]
            with double(), silent():
                times = schedule(module, SDE)
                model = noise(MODEL, times, START.shape)
                theirs = module.UniPC(model, times, kinds[variable], variant=variant)
                y = theirs.sample(shaped, STEPS, order=order, t_end=SDE.t_min,
                                  lower_order_final=False)  # fmt: skip
            return ours(preset, UNIFORM), y.reshape(START.shape)

        reason = "" if published else "its coefficients are not those of the integral"
        name = f"UniPC {variant}, order {order}, {kinds[variable]}"
        return Pair(label(preset), name, run, 1e-9, reason, not published)

    pairs = [
        pair(order, variant, variable)
        for variable in ("x0", "eps") for variant in ("bh1", "bh2") for order in (1, 2, 3, 4)
    ]  # fmt: skip
    return Group("UniPC", commit, [*pairs, pair(3, "vary_coeff", "x0")])
