"""Error of deterministic samplers against network evaluations, beside diffusers' schedulers.

Exact networks (Gaussian mixtures) on DDPM's linear table of 1000; the error of a sample is the root
mean square over coordinates of its distance to where the exact probability flow leads from the same
start. Problems are instances on which nothing was chosen.

    python benchmarks/sampling.py --out benchmarks/results/sampling
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scoresde import DDIM, EDMSDE, DiscreteVPSDE, Grid, linear_betas, problems, sample
from scoresde.analytic import GaussianMixture
from scoresde.coordinate import Focus
from scoresde.grid import focused, karras, power, uniform_lambda, uniform_t
from scoresde.recommended import recommended
from scoresde.solvers import Heun
from scoresde.solvers.base import Solver
from scoresde.solvers.exponential import (
    DEIS,
    DPM2,
    IPNDM,
    PNDM,
    DPMSolver,
    DPMSolverPP,
    ExponentialAB,
    ExponentialMultistep,
    UniPC,
)

NFE = (5, 10, 20, 50, 100)
PROBLEMS = {"ring8": (12, 2048), "digits64": (5, 128), "lowrank3072": (5, 64)}
TABLE = DiscreteVPSDE.from_betas(linear_betas(1000))
Run = Callable[[GaussianMixture, Tensor, int], Tensor]


@dataclass(frozen=True)
class Ours:
    """A solver of this library on one of its grids."""

    solver: Solver
    grid: Callable[..., Grid]
    last: str = "solver"

    def __call__(self, model: GaussianMixture, x: Tensor, nfe: int) -> Tensor:
        """Samples of the longest grid that the budget allows."""
        grids = (self.grid(model.sde, n) for n in range(nfe, 0, -1))
        grid = next(g for g in grids if (self.solver.evals(g) or 0) <= nfe)
        return sample(model, self.solver, grid, x=x, final=self.last).x


def best(model: GaussianMixture, x: Tensor, nfe: int) -> Tensor:
    """What `recommended` says."""
    solver, grid = recommended(model.sde, nfe)
    assert solver.evals(grid) == nfe
    return sample(model, solver, grid, x=x).x


@dataclass(frozen=True)
class Diffusers:
    """A scheduler of diffusers, driven by the exact noise at the time that it asks for."""

    kind: str
    config: tuple[tuple[str, object], ...] = ()
    scaled: bool = False  # its state is x / alpha
    per_step: int = 1

    def __call__(self, model: GaussianMixture, x: Tensor, nfe: int) -> Tensor:
        """Samples after `nfe` evaluations, or one less."""
        import diffusers

        scheduler = getattr(diffusers, self.kind)(
            num_train_timesteps=1000, beta_schedule="linear", beta_start=1e-4, beta_end=0.02,
            **dict(self.config),
        )  # fmt: skip
        scheduler.set_timesteps((nfe + 1) // self.per_step)
        if self.scaled:
            x = x / float(model.sde.at(999.0).alpha)
        for t in scheduler.timesteps:
            knot = model.sde.at(float(t))
            inner = x * float(knot.alpha) if self.scaled else x
            x = scheduler.step(model(inner, knot).eps, t, x).prev_sample
        return x.double()


def _set(**config: object) -> tuple[tuple[str, object], ...]:
    return tuple(config.items())


STRETCHED = Focus()

METHODS: dict[str, Run] = {
    "recommended": best,
    "v order 4 + 4, focused": Ours(
        ExponentialMultistep(4, "v", STRETCHED, corrector=4), lambda s, n: focused(s, n, STRETCHED)
    ),
    "DDIM, uniform lambda": Ours(DDIM(), uniform_lambda),
    "Heun, karras": Ours(Heun(), karras),
    "DPM2, karras": Ours(DPM2(), karras),
    "DPM-Solver-3, uniform lambda": Ours(DPMSolver(3), uniform_lambda),
    "DPM-Solver++(2M), uniform lambda": Ours(DPMSolverPP(2), uniform_lambda),
    "DPM-Solver++(3M), uniform lambda": Ours(DPMSolverPP(3), uniform_lambda),
    "UniPC-3, uniform lambda": Ours(UniPC(3), uniform_lambda),
    "DEIS tAB4, quadratic": Ours(DEIS(4), power),
    "iPNDM4, uniform t": Ours(IPNDM(4), uniform_t),
    "PNDM, uniform t": Ours(PNDM(), uniform_t),
    "exponential AB4 v, uniform lambda": Ours(ExponentialAB(4, "v"), uniform_lambda),
    # Peers' rules and grids with their own last step, of first order.
    "peer: iPNDM4, uniform t": Ours(IPNDM(4), uniform_t, "denoise"),
    "peer: iPNDM4, quadratic": Ours(IPNDM(4), power, "denoise"),
    "peer: DEIS tAB4, uniform t": Ours(DEIS(4), uniform_t, "denoise"),
    "peer: DEIS tAB4, quadratic": Ours(DEIS(4), power, "denoise"),
    "peer: exponential AB3 x0, uniform t": Ours(ExponentialAB(3, "x0"), uniform_t, "denoise"),
    "peer: exponential AB3 eps, uniform t": Ours(ExponentialAB(3, "eps"), uniform_t, "denoise"),
    "peer: exponential AB3 v, uniform t": Ours(ExponentialAB(3, "v"), uniform_t, "denoise"),
    "peer: exponential AB4 v, quadratic": Ours(ExponentialAB(4, "v"), power, "denoise"),
    "peer: UniPC-4 bh2, uniform lambda": Ours(UniPC(4), uniform_lambda, "denoise"),
    "diffusers DDIM": Diffusers("DDIMScheduler", _set(clip_sample=False)),
    "diffusers DPM++2M": Diffusers("DPMSolverMultistepScheduler", _set(solver_order=2)),
    "diffusers DPM++2M karras": Diffusers(
        "DPMSolverMultistepScheduler", _set(solver_order=2, use_karras_sigmas=True)
    ),
    "diffusers DPM++3M lu": Diffusers(
        "DPMSolverMultistepScheduler", _set(solver_order=3, use_lu_lambdas=True)
    ),
    "diffusers UniPC-3": Diffusers("UniPCMultistepScheduler", _set(solver_order=3)),
    "diffusers UniPC-3 karras": Diffusers(
        "UniPCMultistepScheduler", _set(solver_order=3, use_karras_sigmas=True)
    ),
    "diffusers DEIS-3": Diffusers("DEISMultistepScheduler", _set(solver_order=3)),
    "diffusers PNDM": Diffusers("PNDMScheduler", _set(skip_prk_steps=True)),
    "diffusers Heun karras": Diffusers(
        "HeunDiscreteScheduler", _set(use_karras_sigmas=True), scaled=True, per_step=2
    ),
    "diffusers LMS karras": Diffusers(
        "LMSDiscreteScheduler", _set(use_karras_sigmas=True), scaled=True
    ),
}


def truth(
    problem: str, seed: int, x: Tensor, steps: tuple[int, int] = (900, 600)
) -> tuple[Tensor, float]:
    """Where the flow leads, and the median distance to a coarser solve of lower order.

    Taken for y = x / alpha, whose flow against rho is the same for every process, down to
    rho = 1e-4.
    """
    top = TABLE.at(TABLE.t_max)
    sde = EDMSDE(t_min=1e-4, t_max=float(top.rho))
    model = getattr(problems, problem)(sde, seed=seed)
    solves = []
    for count, order in zip(steps, (5, 4), strict=True):
        solver = ExponentialMultistep(order, "v", STRETCHED, corrector=order, start="krogstad4")
        grid = focused(sde, count, STRETCHED)
        solves.append(sample(model, solver, grid, x=x / float(top.alpha)).x)
    gap = (solves[0] - solves[1]).flatten(1).square().mean(1).sqrt()
    return solves[0], float(gap.median())


def measure(names: list[str], budgets: tuple[int, ...], scale: float) -> dict[str, object]:
    """Errors of all methods on all problems."""
    results: dict[str, object] = {"nfe": list(budgets), "errors": {}, "reference": {}}
    for problem in names:
        seed, count = PROBLEMS[problem]
        count = max(8, int(count * scale))
        model = getattr(problems, problem)(TABLE, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        shape = (count, *model.event_shape)
        start = TABLE.at(TABLE.t_max)
        x = float(start.sigma) * torch.randn(shape, generator=generator, dtype=torch.float64)
        exact, doubt = truth(problem, seed, x)
        results["reference"][problem] = {"seed": seed, "samples": count, "median_gap": doubt}
        rows = results["errors"].setdefault(problem, {})
        for name, run in METHODS.items():
            row = []
            for nfe in budgets:
                error = (run(model, x, nfe) - exact).flatten(1).square().mean(1)
                row.append([float(error.mean().sqrt()), float(error.sqrt().median())])
            rows[name] = row
            print(problem, name, " ".join(f"{a:.1e} ({b:.1e})" for a, b in row), flush=True)
    return results


def markdown(results: dict[str, object]) -> str:
    """The tables: RMS over samples, and the median in brackets."""
    lines = ["# Error against network evaluations", "", (__doc__ or "").split("\n\n")[1], ""]
    budgets = results["nfe"]
    for problem, rows in results["errors"].items():
        info = results["reference"][problem]
        lines += [
            f"## {problem}",
            "",
            f"Seed {info['seed']}, {info['samples']} starts. RMS over samples (median). The "
            f"reference agrees with a coarser one to {info['median_gap']:.0e} in the median.",
            "",
            "| method | " + " | ".join(f"{n} NFE" for n in budgets) + " |",
            "|---" * (len(budgets) + 1) + "|",
        ]
        for name, row in rows.items():
            cells = " | ".join(f"{a:.1e} ({b:.1e})" for a, b in row)
            lines.append(f"| {name} | {cells} |")
        lines.append("")
    lines += ["## recommended, relative to the best peer of each column", ""]
    lines += ["Each number is compared with the best peer for that number alone.", ""]
    lines += ["| problem | " + " | ".join(f"{n} NFE" for n in budgets) + " |"]
    lines += ["|---" * (len(budgets) + 1) + "|"]
    for problem, rows in results["errors"].items():
        peers = [row for name, row in rows.items() if name.startswith(("peer", "diffusers"))]
        cells = []
        for k in range(len(budgets)):
            own = rows["recommended"][k]
            ratios = [own[i] / min(row[k][i] for row in peers) for i in (0, 1)]
            cells.append(f"{ratios[0]:.2f} ({ratios[1]:.2f})")
        lines.append(f"| {problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of starts")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    began = time.perf_counter()
    results = measure(arguments.problems, tuple(arguments.nfe), arguments.scale)
    results["seconds"] = round(time.perf_counter() - began, 1)
    print(markdown(results))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
