"""EDM and diff-sampler."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from benchmarks.peers.denoiser import Denoiser
from benchmarks.peers.edm import load
from benchmarks.peers.source import clone, double
from scoresde import Grid, sde
from scoresde.exact.problems import ring8
from scoresde.scalar import Scalar, log1mexp
from scoresde.solvers import Heun
from scoresde.solvers.exponential import DEIS, IPNDM
from scoresde.solvers.solver import Solver

from . import (
    DRAWS,
    KARRAS,
    MODEL,
    RHOS,
    START,
    STEPS,
    Group,
    Pair,
    churned,
    in_order,
    label,
    ours,
    scaled,
)


def edm() -> Group:
    generate, commit = load()
    first = KARRAS.knots

    def pair(churn: float) -> Pair:
        preset = Heun(churn, 0.05, 50.0, 1.003)

        def run() -> tuple[Tensor, Tensor]:
            """Its last step goes from the last knot to 0; ours stops there, and takes x0."""
            net = Denoiser(MODEL)
            drawn = in_order()
            y = generate.edm_sampler(
                net, net.start(START) / net.sigma_max, num_steps=STEPS + 1,
                sigma_min=net.sigma_min, sigma_max=net.sigma_max, randn_like=lambda _: drawn(),
                S_churn=churn * (STEPS + 1) / STEPS, S_min=0.05, S_max=50.0, S_noise=1.003,
            )  # fmt: skip
            return MODEL(ours(preset, draws=churned(DRAWS)), first[-1]).x0, y

        return Pair(label(preset), f"edm_sampler(S_churn={churn:g})", run)

    return Group("edm", commit, [pair(0.0), pair(4.0), pair(40.0)])


@dataclass(frozen=True)
class DiffSamplerVP(sde.SDE):
    """The VP process whose t diff-sampler's tAB is a polynomial in, whatever the network's."""

    low: float = 0.0
    high: float = 0.0

    def log_alpha(self, t: Scalar) -> Scalar:
        return -t * (0.25 * t * (self.high - self.low) + 0.5 * self.low)

    def log_sigma(self, t: Scalar) -> Scalar:
        return 0.5 * log1mexp(2.0 * self.log_alpha(t))


def diff_sampler() -> Group:
    (solvers, utils), commit = clone(
        "diff-sampler/diff-solvers-main", "zju-pi/diff-sampler", "solvers", "solver_utils"
    )
    _, low, high = utils.edm2t(RHOS)
    theirs_sde = DiffSamplerVP(float(low), float(high), t_max=1.5)

    def pair(preset: Solver, function: str, order: int, mode: str = "", tolerance: float = 1e-11,
             reason: str = "", differs: bool = False) -> Pair:  # fmt: skip
        def run() -> tuple[Tensor, Tensor]:
            net = Denoiser(MODEL)
            with double():
                weights = utils.get_deis_coeff_list(RHOS, order, deis_mode=mode) if mode else None
                y = getattr(solvers, function)(
                    net, net.start(START) / RHOS[0], num_steps=STEPS + 1, t_steps=RHOS,
                    max_order=order, coeff_list=weights,
                )  # fmt: skip
            model = ring8(theirs_sde, seed=4)
            knots = tuple(theirs_sde.at_lambda(-math.log(float(rho))) for rho in RHOS)
            x = net.start(START) * float(knots[0].alpha)
            mine = ours(preset, Grid(theirs_sde, knots), x=x, model=model)
            return scaled(mine, knots[-1]), y

        return Pair(label(preset), f"{function} {order} {mode}".rstrip(), run, tolerance, reason,
                    differs)  # fmt: skip

    riemann = "its integrals are sums over 10,000 points"
    stale = "from the fifth step on it goes on with the weights of the fourth"
    pairs = [
        *(pair(IPNDM(k), "ipndm_sampler", k) for k in (2, 3, 4)),
        *(pair(DEIS(k), "deis_sampler", k, "tab", 2e-3, riemann) for k in (2, 3, 4)),
        pair(DEIS(4, "rho"), "deis_sampler", 4, "rhoab", reason=stale, differs=True),
    ]
    return Group("diff-sampler", commit, pairs)
