"""k-diffusion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from benchmarks.peers.denoiser import Denoiser
from benchmarks.peers.source import double, part
from scoresde import DDIM
from scoresde.solvers import DPMSolverPP2SAncestral, DPMSolverPPSDE, Heun
from scoresde.solvers.exponential import DPM2, LMS, DPMSolverPP, ExponentialMultistep
from scoresde.solvers.exponential.forms import form
from scoresde.solvers.solver import Solver

from . import (
    DRAWS,
    MODEL,
    RHOS,
    SDE,
    START,
    Group,
    Pair,
    churned,
    in_order,
    label,
    ours,
    scaled,
    seeded,
)


def k_diffusion() -> Group:
    sampling, version = part("k_diffusion", "sampling", "k-diffusion")

    def pair(solver: Solver, function: str, *, tolerance: float = 1e-11, reason: str = "",
             differs: bool = False, noise: Callable[..., Tensor] | None = None,
             **options: Any) -> Pair:  # fmt: skip
        def run() -> tuple[Tensor, Tensor]:
            net, extra = Denoiser(MODEL), dict(options)
            if solver.stochastic and function != "sample_heun":
                extra["noise_sampler"] = noise or in_order()
            with seeded() as drawn, double():
                y = getattr(sampling, function)(net, net.start(START), RHOS, disable=True, **extra)
            draws = churned(drawn) if function == "sample_heun" else DRAWS
            return scaled(ours(solver, draws=draws)), y

        tag = ", ".join(f"{k}={v}" for k, v in options.items())
        return Pair(label(solver), f"{function}({tag})", run, tolerance, reason, differs)

    def together() -> Callable[..., Tensor]:
        """The noise at both stages of a step, as one realisation and its continuation."""
        waiting, state = iter(DRAWS), dict[str, Any]()
        x0 = form("x0")

        def draw(high: Tensor, low: Tensor) -> Tensor:
            t, s = (SDE.at_lambda(-math.log(float(rho))) for rho in (high, low))
            if "at" not in state:
                n = next(waiting) * x0.spread(t, s, 1.0)
                state.update(at=s, noise=n)
            else:
                n = state["noise"] * x0.decay(state["at"], s, 1.0)
                n = n + next(waiting) * x0.spread(state["at"], s, 1.0)
                state.clear()
            return n / x0.spread(t, s, 1.0)

        return draw

    lms = "its weights are integrals by quadrature, to 1e-4 as it asks"
    two = "it draws both noises of a step as increments of equal weight"
    half = math.sqrt(0.5)
    pairs = [
        pair(DDIM(), "sample_euler"),
        pair(DDIM(1.0), "sample_euler_ancestral"),
        pair(DDIM(0.5), "sample_euler_ancestral", eta=0.5),
        pair(Heun(), "sample_heun"),
        pair(Heun(5.0, 0.05, 50.0, 1.003), "sample_heun", s_churn=5.0, s_tmin=0.05, s_tmax=50.0,
             s_noise=1.003),
        pair(DPM2(), "sample_dpm_2"),
        pair(LMS(4), "sample_lms", tolerance=1e-6, reason=lms),
        pair(DPMSolverPP(2), "sample_dpmpp_2m"),
        pair(DPMSolverPP(2, tau=1.0), "sample_dpmpp_2m_sde"),
        pair(DPMSolverPP(2, tau=half), "sample_dpmpp_2m_sde", eta=0.5),
        pair(ExponentialMultistep(2, "x0", "lambda", tau=1.0), "sample_dpmpp_2m_sde",
             solver_type="heun"),
        pair(DPMSolverPP(3, tau=1.0), "sample_dpmpp_3m_sde"),
        pair(DPMSolverPP2SAncestral(), "sample_dpmpp_2s_ancestral"),
        pair(DPMSolverPP2SAncestral(0.5), "sample_dpmpp_2s_ancestral", eta=0.5),
        pair(DPMSolverPPSDE(), "sample_dpmpp_sde", noise=together(),
             reason="both noises of a step given as one realisation and its continuation"),
        pair(DPMSolverPPSDE(), "sample_dpmpp_sde", reason=two, differs=True),
    ]  # fmt: skip
    return Group("k-diffusion", version, pairs)
