"""Compare errors of deterministic samplers with other libraries' own code, at equal evaluations.

The networks are exact (Gaussian mixtures), on VP with beta from 0.1 to 20. The error of a sample is
the root mean square, over coordinates, of its distance to the endpoint of the exact probability
flow from the same start. No setting was chosen on these instances of the problems.

Peers are the installed ones of `benchmarks.peers`. Each ends at t = 1e-3 and at 1e-4. All peers run
on a few starts. Those whose RMS or median is within a factor 2 of the best then run on all starts.

    python -m benchmarks.sampling --out benchmarks/results/sampling
    python -m benchmarks.sampling --seeds 61 62 63 --scale 4    # other instances, more starts
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

from scoresde import DDIM, EDMSDE, SDE, VPSDE, Grid, sample
from scoresde.axis import Focus
from scoresde.exact import problems
from scoresde.exact.mixtures import GaussianMixture
from scoresde.grid import focused, karras, power, uniform_lambda
from scoresde.sampling import recommended
from scoresde.solvers import Heun
from scoresde.solvers.exponential import (
    DEIS,
    IPNDM,
    DPMSolverPP,
    ExponentialAB,
    ExponentialMultistep,
    UniPC,
)
from scoresde.solvers.solver import Solver
from scoresde.tune.low_rank import reduced

from .peers import Peer, absent, available

NFE = (5, 10, 20, 50, 100)
STARTS = {"ring8": 4096, "digits64": 512, "lowrank3072": 1024}
SCREENED = 32  # starts on which all peers run
ENDS = (1e-3, 1e-4)
VP = VPSDE()
Run = Callable[[GaussianMixture, Tensor, int], Tensor]


@dataclass(frozen=True)
class Ours:
    """A solver of this library on one of its grids."""

    solver: Solver
    grid: Callable[..., Grid]

    def __call__(self, model: GaussianMixture, x: Tensor, nfe: int) -> Tensor:
        """Samples of the longest grid that the budget allows."""
        grids = (self.grid(model.sde, n) for n in range(nfe, 0, -1))
        grid = next(g for g in grids if (self.solver.evals(g) or 0) <= nfe)
        return sample(model, self.solver, grid, x=x).x


def best(model: GaussianMixture, x: Tensor, nfe: int) -> Tensor:
    """The recommended solver and grid."""
    solver, grid = recommended(model, nfe, start="end")
    assert solver.evals(grid) == nfe
    return sample(model, solver, grid, x=x).x


@dataclass(frozen=True)
class Theirs:
    """A peer's sampler, which ends at t_min with its own last step."""

    peer: Peer
    t_min: float

    def __call__(self, model: GaussianMixture, x: Tensor, nfe: int) -> Tensor:
        """Samples; NaN where it fails."""
        try:
            out, used = self.peer.run(model, nfe, x, t_min=self.t_min)
        except Exception:
            return torch.full_like(x, math.nan)
        return out if used <= nfe else torch.full_like(x, math.nan)


STRETCHED = Focus()
OURS: dict[str, Run] = {
    "recommended": best,
    "DDIM, uniform lambda": Ours(DDIM(), uniform_lambda),
    "Heun, karras": Ours(Heun(), karras),
    "DPM-Solver++(2M), uniform lambda": Ours(DPMSolverPP(2), uniform_lambda),
    "DPM-Solver++(3M), uniform lambda": Ours(DPMSolverPP(3), uniform_lambda),
    "UniPC-3, uniform lambda": Ours(UniPC(3), uniform_lambda),
    "DEIS tAB4, quadratic": Ours(DEIS(4), power),
    "iPNDM4, quadratic": Ours(IPNDM(4), power),
    "exponential AB4 v, quadratic": Ours(ExponentialAB(4, "v"), power),
}
THEIRS: dict[str, Theirs] = {
    f"{peer.name}, to {end:g}": Theirs(peer, end)
    for peer in available("deterministic")
    for end in ENDS
}


@dataclass(frozen=True)
class Instance:
    """One instance of a problem, with starts and their exact endpoints.

    lowrank3072 is solved in the span of its means and factors. One more coordinate represents all
    directions orthogonal to the span: there every component is the same Gaussian, so the flow is
    linear. This is exact, and the cost is a fifteenth.

    Attributes:
        model: the model, on the VP process.
        x: starts, states at t_max.
        exact: the exact endpoints.
        gap: median distance from these to the endpoints of a coarser solve of lower order.
        share: weight of each coordinate in the error.
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
        """Errors of the samples of a method, shape (B,)."""
        return self.distances(run(self.model, self.x, nfe), self.exact)


def instance(problem: str, seed: int, count: int) -> Instance:
    """An instance with `count` starts.

    The exact endpoints are computed for y = x / alpha down to rho = 1e-4; as a function of rho, its
    flow is the same for every process.
    """
    top = VP.at(VP.t_max)
    sde = EDMSDE(t_min=1e-4, t_max=float(top.rho))
    model, same = (getattr(problems, problem)(p, seed=seed) for p in (VP, sde))
    share = torch.ones(math.prod(model.event_shape), dtype=torch.float64)
    if problem == "lowrank3072":
        (model, basis), (same, _) = reduced(model), reduced(same)
        share = torch.ones(basis.shape[1] + 1, dtype=torch.float64)
        share[-1] = len(basis) - basis.shape[1]
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


Cell = tuple[str, int]  # a method and a budget


def measure(
    names: list[str], seeds: list[int], budgets: tuple[int, ...], scale: float
) -> dict[str, object]:
    """Errors of all methods on all instances, pooled over the instances of a problem."""
    results: dict[str, object] = {
        "nfe": list(budgets), "seeds": seeds, "absent": absent(), "peers": len(THEIRS) // len(ENDS),
        "errors": {}, "packages": {}, "reference": {}, "ratios": {},
    }  # fmt: skip
    for problem in names:
        count = max(SCREENED, int(STARTS[problem] * scale))
        found = [instance(problem, seed, count) for seed in seeds]
        errors: dict[Cell, Tensor] = {}
        for nfe in budgets:
            methods = OURS | {name: THEIRS[name] for name in near_the_best(found[0], nfe)}
            for name, run in methods.items():
                errors[name, nfe] = torch.cat([each.errors(run, nfe) for each in found])
            print(problem, nfe, len(methods), flush=True)
        results["reference"][problem] = {
            "samples": count, "median_gap": max(each.gap for each in found)
        }  # fmt: skip
        table: dict[str, dict[int, list[float]]] = {}
        for (name, nfe), e in errors.items():
            table.setdefault(name, {})[nfe] = [float(rms(e)), float(e.median())]
        results["errors"][problem] = table
        results["packages"][problem] = by_package(table, budgets)
        results["ratios"][problem] = [
            against_peers({name: e for (name, n), e in errors.items() if n == nfe})
            for nfe in budgets
        ]
    return results


def near_the_best(found: Instance, nfe: int) -> list[str]:
    """Peers that come within a factor 2 of the best on few starts, by the RMS or by the median."""
    few = replace(found, x=found.x[:SCREENED], exact=found.exact[:SCREENED])
    errors = {name: few.errors(run, nfe).nan_to_num(1e9) for name, run in THEIRS.items()}
    near: dict[str, None] = {}
    for number in (rms, median):
        least = min(float(number(e)) for e in errors.values())
        near |= {name: None for name, e in errors.items() if float(number(e)) <= 2 * least}
    return list(near)


def by_package(
    table: dict[str, dict[int, list[float]]], budgets: tuple[int, ...]
) -> dict[str, list[list[float] | None]]:
    """The smallest RMS and the smallest median of a package's samplers, by budget."""
    packages: dict[str, list[list[float] | None]] = {}
    for package in dict.fromkeys(run.peer.package for run in THEIRS.values()):
        row: list[list[float] | None] = []
        for nfe in budgets:
            cells = [
                cell[nfe]
                for name, cell in table.items()
                if name in THEIRS and THEIRS[name].peer.package == package and nfe in cell
            ]
            row.append([min(column) for column in zip(*cells, strict=True)] or None)
        packages[package] = row
    return packages


def rms(errors: Tensor) -> Tensor:
    """Over the last axis."""
    return errors.square().mean(-1).sqrt()


def median(errors: Tensor) -> Tensor:
    """Over the last axis."""
    return errors.median(-1).values


def against_peers(errors: dict[str, Tensor]) -> dict[str, object]:
    """Errors of the recommended solver divided by those of the best peer, for RMS and median.

    The best peer is chosen separately for each of the two. The ratios have a paired bootstrap
    interval over starts.
    """
    found: dict[str, object] = {}
    own = errors["recommended"]
    draws = torch.randint(len(own), (500, len(own)), generator=torch.Generator().manual_seed(0))
    for label, measure_of in (("rms", rms), ("median", median)):
        peers = {n: e.nan_to_num(1e9) for n, e in errors.items() if n in THEIRS}
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
    lines = ["# Error against network evaluations", ""]
    lines += ["\n\n".join((__doc__ or "").split("\n\n")[1:3]), ""]
    lines += [f"Instances (seeds) {seeds}, pooled. `{results['command']}`", ""]
    lines += [f"{results['peers']} samplers of other libraries ran. Absent packages:"]
    lines += [", ".join(results["absent"]) or "none.", ""]
    lines += ["## recommended, relative to the best peer of each column", ""]
    lines += ["Each number is compared with the best peer for that number alone; in square"]
    lines += ["brackets the 95 % interval of a paired bootstrap over starts.", "", *head]
    for problem, cells in results["ratios"].items():
        for label in ("rms", "median"):
            row = [
                f"{c[label]['ratio']:.2g} [{c[label]['low']:.2g}, {c[label]['high']:.2g}]"
                for c in cells
            ]
            lines.append(f"| {problem}, {label} | " + " | ".join(row) + " |")
    lines += ["", "The best peers:", "", *head]
    for problem, cells in results["ratios"].items():
        for label in ("rms", "median"):
            row = [c[label]["peer"] for c in cells]
            lines.append(f"| {problem}, {label} | " + " | ".join(row) + " |")
    for problem, rows in results["errors"].items():
        info = results["reference"][problem]
        lines += [
            "",
            f"## {problem}",
            "",
            f"{info['samples']} starts an instance. RMS over samples (median). The references "
            f"agree with coarser ones to {info['median_gap']:.0e} in the median. A peer's row has "
            "the least of all samplers of that package, for each number by itself; - where none "
            "came near the best.",
            "",
            *head,
        ]
        own = {
            name: [cells[nfe] for nfe in budgets] for name, cells in rows.items() if name in OURS
        }
        for name, row in {**own, **_titled(results["packages"][problem])}.items():
            cells = " | ".join(f"{c[0]:.1e} ({c[1]:.1e})" if c else "-" for c in row)
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


def _titled(packages: dict[str, object]) -> dict[str, object]:
    return {f"best of {name}": row for name, row in packages.items() if any(row)}


def FAMILY(sde: SDE, nfe: int) -> tuple[Solver, Grid]:  # noqa: N802
    """One solver with one family of grids, whose order of convergence is measured.

    The solver has five values in the predictor, five in the corrector, predicts v in the coordinate
    of `Focus()`, and begins with four Runge-Kutta steps. The knots go down to t_min of a process
    that ends at rho = 1e-4; then comes the step to sigma = 0.
    """
    solver = ExponentialMultistep(5, "v", STRETCHED, corrector=5, start="krogstad4")
    grid = focused(sde, nfe, STRETCHED)
    return solver, focused(sde, 2 * nfe - (solver.evals(grid) or nfe), STRETCHED)


def orders(names: list[str], seed: int, scale: float) -> dict[str, object]:
    """Median errors of `FAMILY` from 50 to 400 evaluations."""
    steps = (50, 100, 200, 400)
    medians = {}
    for problem in names:
        count = max(8, int(STARTS[problem] * scale / 8))
        found = instance(problem, seed, count)
        row = []
        for nfe in steps:
            solver, grid = FAMILY(VP, nfe)
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
    parser.add_argument("--seeds", nargs="+", type=int, default=[51, 52], help="instances")
    parser.add_argument("--no-orders", action="store_true", help="leave the orders out")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    began = time.perf_counter()
    budgets = tuple(arguments.nfe)
    results = measure(arguments.problems, arguments.seeds, budgets, arguments.scale)
    results["command"] = " ".join(["python -m benchmarks.sampling", *sys.argv[1:]])
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
