"""Error of deterministic samplers against network evaluations, beside diffusers' schedulers.

Exact networks (Gaussian mixtures) on DDPM's linear table of 1000; the error of a sample is the root
mean square over coordinates of its distance to where the exact probability flow leads from the same
start. Problems are instances on which nothing was chosen.

    python benchmarks/sampling.py --out benchmarks/results/sampling
    python benchmarks/sampling.py --seeds 14 15 16 --scale 4    # other instances, more starts
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from scoresde import DDIM, EDMSDE, SDE, DiscreteVPSDE, Grid, linear_betas, problems, sample
from scoresde.analytic import GaussianMixture, low_rank
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
STARTS = {"ring8": 2048, "digits64": 128, "lowrank3072": 256}
TABLE = DiscreteVPSDE.from_betas(linear_betas(1000))
PEERS = ("peer", "diffusers")
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


@dataclass(frozen=True)
class Instance:
    """One instance of a problem, with starts and where the exact flow leads from them.

    lowrank3072 is solved in the span of its means and factors, with one coordinate more for all
    that are orthogonal to it: there every component is the same Gaussian, so that the flow is one
    linear map. Nothing is approximated, and a run costs a fifteenth.

    Attributes:
        model: on the table of 1000.
        x: starts, the state at t_max.
        exact: the samples.
        gap: median distance from them to those of a coarser solve of lower order.
        share: what each coordinate counts for in the error.
    """

    model: GaussianMixture
    x: Tensor
    exact: Tensor
    gap: float
    share: Tensor

    def distances(self, x: Tensor, other: Tensor) -> Tensor:
        """Root mean square over coordinates, shape (B,)."""
        return ((x - other).square() @ self.share).sqrt()

    def errors(self, run: Run, nfe: int) -> Tensor:
        """Of the samples of a method, shape (B,)."""
        return self.distances(run(self.model, self.x, nfe), self.exact)


def instance(problem: str, seed: int, count: int) -> Instance:
    """With `count` starts. The truth is found for y = x / alpha, whose flow against rho is the same
    for every process, down to rho = 1e-4.
    """
    top = TABLE.at(TABLE.t_max)
    sde = EDMSDE(t_min=1e-4, t_max=float(top.rho))
    model, same = (getattr(problems, problem)(p, seed=seed) for p in (TABLE, sde))
    share = torch.ones(math.prod(model.event_shape), dtype=torch.float64)
    if problem == "lowrank3072":
        model, share = in_its_span(model)
        same, _ = in_its_span(same)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((count, len(share)), generator=generator, dtype=torch.float64)
    z[:, share > 1] = 1.0  # stands for many: at its root mean square
    solves = []
    for steps, order in ((600, 5), (400, 4)):
        solver = ExponentialMultistep(order, "v", STRETCHED, corrector=order, start="krogstad4")
        grid = focused(sde, steps, STRETCHED)
        solves.append(sample(same, solver, grid, x=z * float(top.rho)).x)
    built = Instance(model, float(top.sigma) * z, solves[0], 0.0, share / share.sum())
    return replace(built, gap=float(built.distances(*solves).median()))


def in_its_span(model: GaussianMixture) -> tuple[GaussianMixture, Tensor]:
    """A mixture of low rank in the coordinates that matter, and what each of them stands for."""
    family = model._family
    factors = family.u * family.e.sqrt()[:, None]
    basis = torch.linalg.qr(torch.cat([family.means.T, *factors], 1))[0]
    outside = torch.zeros(len(factors), 1, factors.shape[2], dtype=torch.float64)
    means = torch.nn.functional.pad(family.means @ basis, (0, 1))
    inside = torch.cat([basis.T @ factors, outside], 1)
    share = torch.ones(basis.shape[1] + 1, dtype=torch.float64)
    share[-1] = len(basis) - basis.shape[1]
    covariance = low_rank(inside, family.ridge)
    return GaussianMixture(model.sde, means, covariance, model.weights), share


def measure(
    names: list[str], seeds: list[int], budgets: tuple[int, ...], scale: float
) -> dict[str, object]:
    """Errors of all methods on all instances, pooled over the instances of a problem."""
    results: dict[str, object] = {
        "nfe": list(budgets), "seeds": seeds, "errors": {}, "reference": {}, "ratios": {},
    }  # fmt: skip
    for problem in names:
        count = max(8, int(STARTS[problem] * scale))
        pooled: dict[str, list[list[Tensor]]] = {name: [[] for _ in budgets] for name in METHODS}
        gaps = []
        for seed in seeds:
            found = instance(problem, seed, count)
            gaps.append(found.gap)
            for name, run in METHODS.items():
                for k, nfe in enumerate(budgets):
                    pooled[name][k].append(found.errors(run, nfe))
                print(problem, seed, name, flush=True)
        errors = {name: [torch.cat(cell) for cell in row] for name, row in pooled.items()}
        results["reference"][problem] = {"samples": count, "median_gap": max(gaps)}
        results["errors"][problem] = {
            name: [[float(rms(e)), float(e.median())] for e in row] for name, row in errors.items()
        }
        results["ratios"][problem] = [
            against_peers({name: row[k] for name, row in errors.items()})
            for k in range(len(budgets))
        ]
    return results


def rms(errors: Tensor) -> Tensor:
    """Over the last axis."""
    return errors.square().mean(-1).sqrt()


def median(errors: Tensor) -> Tensor:
    """Over the last axis."""
    return errors.median(-1).values


def against_peers(errors: dict[str, Tensor]) -> dict[str, object]:
    """The recommended solver's RMS and median over those of the best peer in each of the two, with
    a paired bootstrap interval over starts.
    """
    found: dict[str, object] = {}
    own = errors["recommended"]
    draws = torch.randint(len(own), (500, len(own)), generator=torch.Generator().manual_seed(0))
    for label, measure_of in (("rms", rms), ("median", median)):
        peers = {n: e.nan_to_num(1e9) for n, e in errors.items() if n.startswith(PEERS)}
        name = min(peers, key=lambda n: float(measure_of(peers[n])))
        ratio = measure_of(own[draws]) / measure_of(peers[name][draws])
        low, high = torch.quantile(ratio, torch.tensor([0.025, 0.975], dtype=ratio.dtype)).tolist()
        value = float(measure_of(own) / measure_of(peers[name]))
        found[label] = {"peer": name, "ratio": value, "low": low, "high": high}
    return found


def markdown(results: dict[str, object]) -> str:
    """The tables: ratios with their intervals, then RMS over samples and the median in brackets."""
    budgets, seeds = results["nfe"], ", ".join(map(str, results["seeds"]))
    head = ["| " + " | ".join(["", *(f"{n} NFE" for n in budgets)]) + " |"]
    head += ["|---" * (len(budgets) + 1) + "|"]
    lines = ["# Error against network evaluations", "", (__doc__ or "").split("\n\n")[1], ""]
    lines += [f"Instances (seeds) {seeds}, pooled. `{results['command']}`", ""]
    lines += ["## recommended, relative to the best peer of each column", ""]
    lines += [
        "Each number is compared with the best peer for that number alone; in square brackets"
    ]
    lines += ["the 95 % interval of a paired bootstrap over starts.", "", *head]
    for problem, cells in results["ratios"].items():
        for label in ("rms", "median"):
            row = [
                f"{c[label]['ratio']:.2g} [{c[label]['low']:.2g}, {c[label]['high']:.2g}]"
                for c in cells
            ]
            lines.append(f"| {problem}, {label} | " + " | ".join(row) + " |")
    for problem, rows in results["errors"].items():
        info = results["reference"][problem]
        lines += [
            "",
            f"## {problem}",
            "",
            f"{info['samples']} starts an instance. RMS over samples (median). The references "
            f"agree with coarser ones to {info['median_gap']:.0e} in the median.",
            "",
            *head,
        ]
        for name, row in rows.items():
            cells = " | ".join(f"{a:.1e} ({b:.1e})" for a, b in row)
            lines.append(f"| {name} | {cells} |")
    if orders := results.get("orders"):
        lines += ["", "## Observed order", "", " ".join((FAMILY.__doc__ or "").split()), ""]
        steps = orders["nfe"]
        lines += ["| | " + " | ".join(f"{n} NFE" for n in steps) + " | orders |"]
        lines += ["|---" * (len(steps) + 2) + "|"]
        for problem, row in orders["medians"].items():
            slopes = [
                math.log(a / b) / math.log(n / m)
                for (a, m), (b, n) in pairwise(zip(row, steps, strict=True))
            ]
            cells = " | ".join(f"{e:.1e}" for e in row)
            lines.append(f"| {problem} | {cells} | {', '.join(f'{s:.1f}' for s in slopes)} |")
    return "\n".join(lines) + "\n"


def FAMILY(sde: SDE, nfe: int) -> tuple[Solver, Grid]:  # noqa: N802
    """Median error of one solver on one family of grids: five values in the predictor, five in the
    corrector, v, `Focus()`, four Runge-Kutta steps first; knots down to t_min of a process that
    ends at rho = 1e-4, and the step to sigma = 0.
    """
    solver = ExponentialMultistep(5, "v", STRETCHED, corrector=5, start="krogstad4")
    grid = focused(sde, nfe, STRETCHED)
    return solver, focused(sde, 2 * nfe - (solver.evals(grid) or nfe), STRETCHED)


def orders(names: list[str], seed: int, scale: float) -> dict[str, object]:
    """Median errors of `FAMILY` from 50 to 400 evaluations."""
    steps = (50, 100, 200, 400)
    medians = {}
    for problem in names:
        count = max(8, int(STARTS[problem] * scale))
        found = instance(problem, seed, count)
        row = []
        for nfe in steps:
            solver, grid = FAMILY(TABLE, nfe)
            x = sample(found.model, solver, grid, x=found.x).x
            row.append(float(found.distances(x, found.exact).median()))
        medians[problem] = row
        print(problem, row, flush=True)
    return {"nfe": list(steps), "seed": seed, "medians": medians}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(STARTS), choices=list(STARTS))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the number of starts")
    parser.add_argument("--seeds", nargs="+", type=int, default=[12, 13], help="instances")
    parser.add_argument("--no-orders", action="store_true", help="leave the orders out")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    began = time.perf_counter()
    budgets = tuple(arguments.nfe)
    results = measure(arguments.problems, arguments.seeds, budgets, arguments.scale)
    results["command"] = " ".join(["python", "benchmarks/sampling.py", *sys.argv[1:]])
    if not arguments.no_orders:
        results["orders"] = orders(arguments.problems, arguments.seeds[0], arguments.scale)
    results["seconds"] = round(time.perf_counter() - began, 1)
    print(markdown(results))
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(markdown(results))


if __name__ == "__main__":
    main()
