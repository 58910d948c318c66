"""Errors on trained networks: endpoints of named solvers beside the network's own flow.

    python -m benchmarks.trained [--samples 64] [--out benchmarks/results/trained.md] [NAME ...]

All samplers start from the same state, where sampling of the network starts by default. The truth
is the network's own probability flow from there, by 250 evaluations of a multistep solver. Printed
are the RMS over samples of the endpoint error per coordinate and, in brackets, the median. Lower is
better. Each solver runs on its own default grid; DPM++(2M) also on Karras's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from scoresde import karras, sample, uniform_lambda
from scoresde.grid import Grid
from scoresde.model import Predictor
from scoresde.sampling import default_grid, grid_for, recommended
from scoresde.sampling.start import Start, start_of
from scoresde.solvers import (
    DDIM,
    DEIS,
    IPNDM,
    DPMSolverPP,
    ExponentialMultistep,
    Heun,
    Solver,
    UniPC,
)

from . import zoo

BUDGETS = (5, 8, 10, 20, 50)
Plan = Callable[[Predictor, int, Start], tuple[Solver, Grid]]


def named(solver: Solver, maker: Callable[..., Grid] | None = None) -> Plan:
    """A solver on its default grid, or on one that is given, from the common start."""

    def plan(model: Predictor, nfe: int, start: Start) -> tuple[Solver, Grid]:
        made = partial(maker or default_grid(solver), t_max=start.t)
        return solver, grid_for(solver, made, model.sde, nfe)

    return plan


PLANS: dict[str, Plan] = {
    "recommended": lambda model, nfe, start: recommended(model, nfe),
    "recommended, floor=0": lambda model, nfe, start: recommended(model, nfe, floor=0.0),
    "DPM++(2M) Karras": named(DPMSolverPP(2), karras),
    "DPM++(2M)": named(DPMSolverPP(2)),
    "DPM++(3M)": named(DPMSolverPP(3)),
    "UniPC-3": named(UniPC(3)),
    "DEIS": named(DEIS(3)),
    "iPNDM": named(IPNDM(4)),
    "DDIM": named(DDIM()),
    "Heun": named(Heun()),
}


def errors(x: Tensor, truth: Tensor) -> str:
    """RMS over samples, and the median."""
    each = (x.double() - truth).flatten(1).square().mean(1).sqrt()
    return f"{float(each.square().mean().sqrt()):.3f} ({float(each.median()):.3f})"


def measure(name: str, count: int) -> list[str]:
    """The lines of one network."""
    model: Predictor = zoo.load(name)
    event = {"mnist": (1, 28, 28), "cifar": (3, 32, 32)}.get(name.partition("_")[0], (2,))
    if "class" in name:
        model = zoo.load(name).bind(y=torch.arange(count) % 10)
    start = start_of(model)
    fine = uniform_lambda(model.sde, 250, t_max=start.t)
    truth = sample(model, ExponentialMultistep(3, "v", "lambda"), fine, shape=(count, *event))
    lines = [f"| {name}, from {start.rho:.3g} |" + " |" * len(BUDGETS)]
    for title, plan in PLANS.items():
        cells = []
        for nfe in BUDGETS:
            solver, grid = plan(model, nfe, start)
            x = sample(model, solver, grid, shape=(count, *event)).x
            cells.append(errors(x, truth.x.double()))
        lines.append(f"| {title} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="networks of the zoo; all by default")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    head = "| RMS (median), lower is better | " + " | ".join(map(str, BUDGETS)) + " |"
    lines = [head, "|---" * (len(BUDGETS) + 1) + "|"]
    for name in given.names or zoo.names():
        lines += measure(name, given.samples)
        if given.out is not None:
            given.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
