"""SA-Solver, ER-SDE and SEEDS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.denoiser import Denoiser
from benchmarks.peers.er_sde import METHODS, one_kind
from benchmarks.peers.noise_schedule import noise, schedule
from benchmarks.peers.seeds import load, solver
from benchmarks.peers.source import clone, double
from scoresde.prediction import Prediction
from scoresde.sde.knot import Knot
from scoresde.solvers import ERSDE, SEEDS2, SEEDS3
from scoresde.solvers.er_sde import SCALES
from scoresde.solvers.exponential import SASolver
from scoresde.solvers.solver import Solver

from . import (
    DRAWS,
    KARRAS,
    MODEL,
    RHOS,
    SDE,
    START,
    STEPS,
    UNIFORM,
    Group,
    Pair,
    in_order,
    label,
    ours,
    scaled,
    seeded,
    silent,
)


class Recording:
    """MODEL, and the states at which it was asked."""

    sde = SDE

    def __init__(self) -> None:
        self.asked: list[Tensor] = []

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        self.asked.append(x)
        return MODEL(x, knot)

    def rows(self, index: Tensor) -> Recording:
        return self


def sa_solver() -> Group:
    (module,), commit = clone("SA-Solver", "scxue/SA-Solver", "sa_solver")

    def pair(predictor: int, corrector: int, tau: float) -> Pair:
        preset = SASolver(predictor, corrector, tau=tau, tau_min=0.0, tau_max=math.inf)

        def run() -> tuple[Tensor, Tensor]:
            """Where the network is asked, before each correction: states are corrected at
            different moments. Up to where it begins to lower the order.
            """
            theirs, mine = Recording(), Recording()
            with seeded() as drawn, double(), silent():
                times = schedule(module, SDE)
                module.SASolver(noise(theirs, times, START.shape), times).sample_few_steps(
                    START, lambda t: tau, STEPS, t_end=SDE.t_min, predictor_order=predictor,
                    corrector_order=corrector,
                )  # fmt: skip
            ours(preset, UNIFORM, drawn[1:], model=mine)  # its first draw is not used
            return mine.asked[STEPS - 4], theirs.asked[STEPS - 4]

        return Pair(label(preset), f"P{predictor}C{corrector}, tau {tau:g}", run)

    orders = [(1, 0), (2, 0), (3, 0), (4, 0), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4)]
    pairs = [pair(p, c, tau) for p, c in orders for tau in (0.0, 0.6, 1.0)]
    return Group("SA-Solver", commit, pairs)


@dataclass(frozen=True)
class HundredPoints(ERSDE):
    """ER-SDE with its authors' quadrature, a left sum of 100 points."""

    def _moments(self, t: float, s: float) -> tuple[float, float]:
        rho = s + np.arange(100) / 100 * (t - s)
        inverse = float(SCALES[self.scale](np.asarray(s))) * (t - s) / 100 / SCALES[self.scale](rho)
        return s - t + float(inverse.sum()), 0.5 * (s - t) ** 2 + float(inverse @ (rho - t))


def er_sde() -> Group:
    (module,), commit = clone("ER-SDE-Solver", "QinpengCui/ER-SDE-Solver", "er_sde_solver")
    kinds = {"ode": 1, "sde": 2, "er4": 6, "er5": 7}

    def pair(preset: ERSDE, tolerance: float = 1e-9, reason: str = "") -> Pair:
        def run() -> tuple[Tensor, Tensor]:
            theirs = module.ER_SDE_Solver("vp", "x_start")
            alphas = torch.tensor([float(k.alpha) for k in KARRAS.knots], dtype=torch.float64)
            sigmas = torch.tensor([float(k.sigma) for k in KARRAS.knots], dtype=torch.float64)
            with seeded() as drawn, one_kind(module):
                y = getattr(theirs, METHODS[preset.history])(
                    lambda x, knot: MODEL(x, knot).x0, START, alphas, sigmas, KARRAS.knots,
                    lambda rho: module.customized_func(rho, kinds[preset.scale]),
                )  # fmt: skip
            return ours(preset, draws=drawn), y

        return Pair(label(preset), f"{METHODS[preset.history]}, {preset.scale}", run, tolerance,
                    reason)  # fmt: skip

    left = "ours with its quadrature, a left sum of 100 points"
    pairs = [pair(ERSDE(1, scale)) for scale in kinds]
    pairs += [pair(HundredPoints(k, scale), reason=left) for scale in kinds for k in (2, 3)]
    own = "its integrals are left sums of 100 points"
    return Group("ER-SDE-Solver", commit, [*pairs, pair(ERSDE(3, "er5"), 0.05, own)])


def seeds() -> Group:
    module, commit = load()

    def pair(preset: Solver, order: int, quiet: bool = False, reason: str = "") -> Pair:
        def run() -> tuple[Tensor, Tensor]:
            draws = tuple(0.0 * z for z in DRAWS) if quiet else DRAWS
            net = Denoiser(MODEL)
            theirs = solver(module, net, order)
            theirs.randn_like = in_order(tuple(-z for z in draws))
            y = net.start(START)
            for k, (t, s) in enumerate(pairwise(RHOS)):
                y = theirs.update(y, t, s, STEPS + 1, k)
            return scaled(ours(preset, draws=draws)), y

        name = f"ETD_SERK order {order}" + (", noise set to 0" if quiet else "")
        return Pair(label(preset), name, run, 1e-11, reason, bool(reason))

    stage = "at its second stage sigma of the step's end for the stage's, and z1 and z2 swapped"
    pairs = [pair(SEEDS2(), 2), pair(SEEDS3(), 3, quiet=True), pair(SEEDS3(), 3, reason=stage)]
    return Group("SEEDS", commit, pairs)
