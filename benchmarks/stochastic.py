"""Errors of stochastic solvers, measured by the gap of the exact NLL.

The gap is the mean of -log p(x) over samples, with the mixture's exact density, minus the entropy.
It is in nats per dimension, with a 95 % interval, for each problem, solver and number of network
evaluations. 0 is ideal; below 0, samples are too concentrated. All solvers follow the whole reverse
SDE (tau = 1) from t_max to sigma = 0. The recommended solver runs on every instance. Other solvers
of the library and samplers of other packages (`benchmarks/peers`) run on the first instances of
three problems, with a twentieth of the samples. No setting was chosen on any of these instances.

    python -m benchmarks.stochastic --out benchmarks/results/stochastic
    python -m benchmarks.stochastic "digits64(components=40, seed=5)" --no-others

Rows that are already in OUT.json are not computed again. It takes about 12 minutes on one core.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.peers import Peer, absent, available
from scoresde import SDE, Grid, sample, uniform_lambda
from scoresde.bench import environment
from scoresde.cli.models import load
from scoresde.exact.mixtures import Covariance, Gaussian, GaussianMixture
from scoresde.sampling import recommended
from scoresde.solvers import (
    ERSDE,
    SEEDS2,
    SEEDS3,
    Ancestral,
    DPMSolverPP,
    DPMSolverPP2SAncestral,
    DPMSolverPPSDE,
    SASolver,
    StochasticHeun,
)
from scoresde.solvers.legs import evaluations
from scoresde.solvers.solver import Solver
from scoresde.tune.low_rank import reduced

NFE = (20, 50, 100)
BOUNDS = {20: 0.03, 50: 0.01, 100: 0.005}
INSTANCES = (
    *(f"ring8(seed={seed})" for seed in (201, 202, 203)),
    "ring8(deviation=0.03, seed=204)",
    "spiral(seed=205)",
    *(f"lowrank3072(seed={seed})" for seed in (201, 202, 203)),
    "lowrank3072(components=20, rank=8, seed=204)",
    *(f"digits64(seed={seed})" for seed in (201, 202, 203)),
    "digits64(components=10, seed=204)",
)
PEERS = (
    "diffusers DDPM",
    "diffusers DPM++2M SDE uniform lambda",
    "diffusers SA-Solver P3C4 tau 1",
    "k-diffusion Euler ancestral exponential",
    "k-diffusion DPM++2S ancestral exponential",
    "k-diffusion DPM++2M SDE exponential",
    "k-diffusion DPM++3M SDE exponential",
    "azula DDPM uniform lambda",
    "SA-Solver P2C2 tau 1 uniform lambda",
    "SA-Solver P3C4 tau 1 uniform lambda",
    "ER-SDE-2 SDE uniform lambda",
    "ER-SDE-3 SDE_5 uniform lambda",
    "SEEDS-2 uniform lambda",
    "SEEDS-3 uniform lambda",
    "score_sde ancestral uniform t",
    "EDM Heun churn 40",
    "torchsde heun uniform t",
)
"""The grid of each method: the better one on these problems."""


class Part(NamedTuple):
    """A factor of a problem's density.

    Attributes:
        model: the model of the factor.
        copies: number of independent factors with the same distribution.
        samples: number of samples of one of them at 100 evaluations or more; proportionally fewer
            at fewer evaluations, where the bounds are wider.
        batch: number of samples in one batch.
    """

    model: GaussianMixture
    copies: int
    samples: int
    batch: int


def parts(model: GaussianMixture) -> list[Part]:
    """The independent factors of a mixture, each with its number of samples.

    Outside the span of its means and factors, all components of a low-rank mixture have the same
    variance in every direction. There the density is a product of equal Gaussians. The same holds
    for the samples of a solver that treats all coordinates alike, since its steps are linear in the
    state and the prediction. So only one of these Gaussians is measured.
    """
    if len(model.event_shape) == 1:
        if model.event_shape == (2,):
            return [Part(model, 1, 400_000 if len(model.weights) < 20 else 120_000, 4_000)]
        return [Part(model, 1, 40_000, 400)]
    smaller, basis = reduced(model)
    outside = Gaussian(
        model.sde, torch.zeros(1), Covariance.isotropic(float(model.covariance.ridge[0]))
    )
    # One of the coordinates outside is in `smaller` already.
    copies = len(basis) - basis.shape[1] - 1
    return [Part(smaller, 1, 12_000, 400), Part(outside, copies, 1_200_000, 20_000)]


def nll(model: GaussianMixture, x: Tensor) -> Tensor:
    """-log p(x) of the clean data, shape (B,), float64."""
    return -model.log_prob(x.double(), model.sde.clean)


class Mean(NamedTuple):
    """A mean of independent values with its squared standard error."""

    value: float
    variance: float


def mean(batches: Iterator[Tensor]) -> Mean:
    """Mean of all values."""
    values = torch.cat(list(batches))
    return Mean(float(values.mean()), float(values.var()) / len(values))


def entropy(part: Part) -> Mean:
    """Mean of -log p over exact samples, five times as many as of a solver."""
    count = 5 * part.samples // part.batch
    return mean(nll(part.model, part.model.sample(part.batch, seed=k)) for k in range(count))


Save = Callable[[], None]
Sampler = Callable[[GaussianMixture, int, int, int], tuple[Tensor, int]]
"""(model, count, budget, seed) -> samples, evaluations a sample."""


def gap(
    whole: list[Part], exact: list[Mean], run: Sampler, nfe: int, fraction: float
) -> dict[str, Any]:
    """The gap a dimension, half of its 95 % interval, and the evaluations a sample."""
    value = variance = 0.0
    used = 0
    dimension = sum(part.copies * math.prod(part.model.event_shape) for part in whole)
    samples = [int(fraction * min(1.0, nfe / 100) * part.samples) for part in whole]
    for part, truth, total in zip(whole, exact, samples, strict=True):
        batch = min(part.batch, total)
        count = total // batch
        found = []
        for seed in range(count):
            x, used = run(part.model, batch, nfe, seed)
            found.append(nll(part.model, x))
        got = mean(iter(found))
        value += part.copies * (got.value - truth.value) / dimension
        variance += (part.copies / dimension) ** 2 * (got.variance + truth.variance)
    return {
        "nfe": used, "gap": value, "half_interval": 1.96 * math.sqrt(variance), "samples": samples
    }  # fmt: skip


def best(model: GaussianMixture, count: int, nfe: int, seed: int) -> tuple[Tensor, int]:
    """The recommended stochastic solver and grid."""
    solver, grid = recommended(model, nfe, stochastic=True, start="end")
    return _sampled(model, solver, grid, count, seed)


def longest(solver: Solver, make: Callable[[SDE, int], Grid]) -> Sampler:
    """A solver with its longest grid of at most this number of evaluations."""

    def run(model: GaussianMixture, count: int, nfe: int, seed: int) -> tuple[Tensor, int]:
        grids = (make(model.sde, n) for n in range(nfe, 0, -1))
        grid = next(g for g in grids if (evaluations(solver, g) or 0) <= nfe)
        return _sampled(model, solver, grid, count, seed)

    return run


def _sampled(
    model: GaussianMixture, solver: Solver, grid: Grid, count: int, seed: int
) -> tuple[Tensor, int]:
    out = sample(model, solver, grid, shape=(count, *model.event_shape), seeds=seed)
    return out.x, evaluations(solver, grid) or 0


def theirs(peer: Peer) -> Sampler:
    """A sampler of another package, from a start of its own."""

    def run(model: GaussianMixture, count: int, nfe: int, seed: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(2**20 + seed)
        shape = (count, *model.event_shape)
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        return peer.run(model, nfe, float(model.sde.at(model.sde.t_max).sigma) * z, seed)

    return run


def others() -> dict[str, Sampler]:
    """The library's other solvers, and the samplers of other packages that are here."""
    even = partial(longest, make=uniform_lambda)
    own = {
        "Ancestral (DDPM)": even(Ancestral()),
        "DPMSolverPP(2, tau=1)": even(DPMSolverPP(2, tau=1.0)),
        "SASolver(3, 4)": even(SASolver(3, 4, tau=1.0, tau_min=0.0, tau_max=math.inf)),
        "ERSDE(3, 'sde')": even(ERSDE(3, "sde")),
        "DPMSolverPPSDE": even(DPMSolverPPSDE()),
        "DPMSolverPP2SAncestral": even(DPMSolverPP2SAncestral()),
        "SEEDS2": even(SEEDS2()),
        "SEEDS3": even(SEEDS3()),
        "StochasticHeun": even(StochasticHeun()),
    }
    here = {peer.name: peer for peer in available("stochastic")}
    return own | {f"peer: {name}": theirs(here[name]) for name in PEERS if name in here}


def verdict(row: dict[str, Any]) -> str:
    """Whether the interval is within the bound for its budget, outside, or undecided."""
    bound, low = BOUNDS.get(row["budget"]), abs(row["gap"]) - row["half_interval"]
    if bound is None:
        return ""
    if low + 2 * row["half_interval"] <= bound:
        return "within"
    return "outside" if low > bound else "undecided"


def plan(instances: list[str], with_others: bool) -> Iterator[tuple[str, str, Sampler, float]]:
    """Instance, name of a solver, the solver, and the fraction of the samples: the recommended
    solver on all instances first.
    """
    for spec in instances:
        yield spec, "recommended", best, 1.0
    table = others() if with_others else {}
    for family in ("ring8", "digits64", "lowrank3072"):
        first = next((spec for spec in instances if spec.startswith(family)), None)
        for name, run in table.items() if first else ():
            yield first, name, run, 0.05


def measure(results: dict[str, Any], instances: list[str], others: bool, save: Save) -> None:
    """Compute all rows that are not in `results`."""
    done = {(row["instance"], row["solver"], row["budget"]) for row in results["rows"]}
    prepared = functools.cache(partial(prepare, process=results["process"]))
    for spec, name, run, fraction in plan(instances, others):
        for budget in results["nfe"]:
            if (spec, name, budget) in done:
                continue
            row = {"instance": spec, "solver": name, "budget": budget}
            try:
                row |= gap(*prepared(spec), run, budget, fraction)
            except Exception as error:  # of a peer, at a budget that it cannot serve
                row |= {"failed": f"{type(error).__name__}: {error}"}
            results["rows"].append(row)
            print(spec, name, budget, _text(row), flush=True)
            save()


def prepare(spec: str, process: str) -> tuple[list[Part], list[Mean]]:
    """The parts of an instance, and their entropies."""
    model = load(spec, process=process).model
    if not isinstance(model, GaussianMixture):
        raise SystemExit(f"{spec} is no problem in closed form")
    whole = parts(model)
    return whole, [entropy(part) for part in whole]


def _text(row: dict[str, Any]) -> str:
    if "failed" in row:
        return "failed"
    if not math.isfinite(row["gap"]):
        return "not finite"
    digits = 4 if abs(row["gap"]) < 10 else 0
    text = f"{row['gap']:+.{digits}f} ± {row['half_interval']:.{digits}f}"
    return text if row["nfe"] == row["budget"] else f"{text} ({row['nfe']})"


def markdown(results: dict[str, Any]) -> str:
    """The rows as tables: the recommended solver on all instances, then all on the first ones."""
    budgets = results["nfe"]
    head = [
        "| | " + " | ".join(f"{n} NFE" for n in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    by_cell = {(r["instance"], r["solver"], r["budget"]): r for r in results["rows"]}
    instances = list(dict.fromkeys(r["instance"] for r in results["rows"]))

    def line(label: str, spec: str, solver: str, judged: bool) -> str:
        cells = []
        for budget in budgets:
            row = by_cell.get((spec, solver, budget))
            if row is None:
                cells.append("")
                continue
            said = verdict(row) if judged else ""
            cells.append(f"{_text(row)} {said}".strip())
        return f"| {label} | " + " | ".join(cells) + " |"

    bounds = ", ".join(f"{bound} at {n}" for n, bound in BOUNDS.items())
    text = [
        "# Samples of stochastic solvers against exact ones",
        "",
        "Mean -log p(x) over samples minus the entropy, nats a dimension, ± half of the 95 % "
        f"interval, on {results['process']}. "
        "In brackets the evaluations where they are not the budget.",
        "",
        f"    {results['command']}",
        "",
        "## The recommended solver",
        "",
        f"Judged against the bounds {bounds}: *within* where the whole interval is.",
        "",
        *head,
        *(line(f"`{spec}`", spec, "recommended", True) for spec in instances),
    ]
    for spec in instances:
        solvers = [s for i, s, n in by_cell if i == spec and n == budgets[0]]
        if len(solvers) > 1:
            text += ["", f"## All on `{spec}`", "", *head]
            text += [line(solver, spec, solver, False) for solver in solvers]
    if results["absent"]:
        text += ["", f"Absent, since not installed: {', '.join(results['absent'])}."]
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("instances", nargs="*", default=list(INSTANCES), help="of problems")
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument("--process", default="VPSDE(t_min=1e-3)")
    parser.add_argument("--no-others", action="store_true", help="the recommended solver alone")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.stochastic", *sys.argv[1:]]),
        "process": args.process,
        "nfe": args.nfe,
        "absent": {} if args.no_others else absent(),
        "environment": environment(),
        "rows": [],
    }
    if args.out is not None and args.out.with_suffix(".json").exists():
        kept = json.loads(args.out.with_suffix(".json").read_text())
        if kept["command"] == results["command"]:
            results["rows"] = kept["rows"]

    def save() -> None:
        if args.out is not None:
            args.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
            args.out.with_suffix(".md").write_text(markdown(results))

    measure(results, args.instances, not args.no_others, save)
    print(markdown(results))


if __name__ == "__main__":
    main()
