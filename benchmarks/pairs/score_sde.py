"""score_sde."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.score_sde import Net, load
from benchmarks.peers.score_sde_likelihood import score_sde_log_likelihood
from benchmarks.peers.source import double, replaced
from scoresde import VPSDE, EulerMaruyama, from_times
from scoresde.exact.problems import ring8
from scoresde.ode import SciPy
from scoresde.solvers import (
    Ancestral,
    AnnealedLangevin,
    Corrector,
    Langevin,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
)
from scoresde.solvers.solver import Solver

from . import MODEL, SDE, START, Group, Pair, label, ours, seeded


def score_sde() -> Group:
    code, (likelihood,), commit = load()
    count = 50
    grid = from_times(SDE, [1 - k / count for k in range(46)], clean=False)

    def process(exact: bool) -> Any:
        """Its process with N = 50 steps; if asked, with the exact transitions of the grid."""
        made = code.process(MODEL, count)
        if exact:
            for t, s in pairwise(grid.knots):
                index = int(float(t.t) * (count - 1))
                made.discrete_betas[index] = SDE.transition(s, t)[1] ** 2
            made.alphas = 1 - made.discrete_betas
        return made

    def stepwise(made: Any, predictor: str, corrector: str, x: Tensor) -> Tensor:
        """Its predictor and corrector along a grid of steps of 1/N, which its sampler misses."""
        net, y = Net(MODEL, x.shape), x[:, :, None, None]
        move, correct = (
            code.sampling.get_predictor(predictor),
            code.sampling.get_corrector(corrector),
        )
        for knot in grid.knots[:-1]:
            t = torch.full(x.shape[:1], float(knot.t), dtype=torch.float64)
            y, _ = code.sampling.shared_corrector_update_fn(y, t, made, net, correct, True, 0.16, 1)
            y, _ = code.sampling.shared_predictor_update_fn(y, t, made, net, move, False, True)
        return y.reshape(x.shape)

    def predictor(preset: Solver, name: str, exact: bool, reason: str, differs: bool) -> Pair:
        def run() -> tuple[Tensor, Tensor]:
            with seeded() as drawn, double():
                y = stepwise(process(exact), name, "none", START)
            return ours(preset, grid, drawn), y

        return Pair(label(preset), name, run, 1e-10, reason, differs)

    def corrected(corrector: Corrector, theirs: str, flat: bool, reason: str) -> Pair:
        preset = PredictorCorrector(EulerMaruyama(), corrector)

        def run() -> tuple[Tensor, Tensor]:
            made, x = process(False), START[:1]
            if flat:
                made.alphas = torch.ones(count)
            with seeded():
                drawn = tuple(torch.randn_like(x) for _ in range(2 * count))
            with seeded(), double():
                y = stepwise(made, "euler_maruyama", theirs, x)
            return ours(preset, grid, drawn, x=x), y

        name = f"euler_maruyama + {theirs}, one sample"
        return Pair(label(preset), name, run, 1e-6, reason, not flat)

    def flow() -> Pair:
        preset = ProbabilityFlow(SciPy(rtol=1e-6, atol=1e-6), clock="t")

        def run() -> tuple[Tensor, Tensor]:
            x = START[:, :, None, None]
            theirs = code.sampling.get_ode_sampler(
                code.process(MODEL, 1000), x.shape, lambda y: y, rtol=1e-6, atol=1e-6,
                eps=SDE.t_min, device="cpu",
            )  # fmt: skip
            y, _ = theirs(Net(MODEL, START.shape), x)
            ends = from_times(SDE, [1.0, SDE.t_min], clean=False)
            return ours(preset, ends), y.double().reshape(START.shape)

        reason = "its state is float32, and each adapts its own steps"
        return Pair(label(preset), "get_ode_sampler", run, 1e-3, reason)

    def likelihoods() -> Pair:
        def run() -> tuple[Tensor, Tensor]:
            low = VPSDE(t_min=1e-5)
            model = ring8(low, seed=4)
            x = model.sample(16, 1e-5, seed=2)
            mine, _ = score_sde_log_likelihood(model, x, seed=3)
            generator = torch.Generator().manual_seed(3)
            signs = torch.randint(0, 2, x.shape, generator=generator)[:, :, None, None]
            fixed = replaced(likelihood, "torch", randint_like=lambda *_, **__: signs)
            with fixed, torch.no_grad():
                run = likelihood.get_likelihood_fn(code.process(model, 1000), lambda y: y)
                bpd, _, _ = run(Net(model, x.shape), x[:, :, None, None].float())
            # Its offset is 7 - inverse_scaler(-1) = 8 bits.
            return mine, -(bpd.double() - 8) * math.log(2) * 2

        reason = "its state is float32, and each adapts its own steps"
        return Pair("benchmarks' score_sde_log_likelihood", "get_likelihood_fn", run, 1e-3, reason)

    beta = "it takes beta(t)/N for the transition of a step, ours is exact"
    flat = "its factor 1 - beta/N set to 1"
    given = "its beta(t)/N replaced by the exact transition"
    pairs = [predictor(EulerMaruyama(), "euler_maruyama", False, "", False)]
    for preset, name in (
        (Ancestral("forward"), "ancestral_sampling"), (ReverseDiffusion(), "reverse_diffusion")
    ):  # fmt: skip
        pairs.append(predictor(preset, name, True, given, False))
        pairs.append(predictor(preset, name, False, beta, True))
    pairs += [
        corrected(Langevin(0.16), "langevin", True, f"{flat}; its long steps magnify round-off"),
        corrected(AnnealedLangevin(0.16), "ald", True, flat),
        corrected(Langevin(0.16), "langevin", False, "its factor 1 - beta/N belongs to the grid"),
        flow(),
        likelihoods(),
    ]
    return Group("score_sde_pytorch", commit, pairs)
