"""Overhead of solvers: microseconds of processor time per evaluation, without the network.

The state is (16, 3, 32, 32) in float32, on one thread. The network returns a fixed tensor. Every
round times each solver once, so that all run under the same load. The table shows the median and
the minimum over rounds, and the ratio to diffusers' DDIM in the same run. For solvers of this
library it also shows the number of tensor operations per evaluation, which does not depend on the
load. "mixed" networks predict another variable than the solver uses, which adds a conversion. Noise
comes from torch's generator; its time has its own row, and the last column subtracts it.

    python benchmarks/overhead.py --out benchmarks/results/overhead
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde import DDIM, SDE, VPSDE, EulerMaruyama, iterate, sample, uniform_t
from scoresde.prediction import Prediction, parametrization
from scoresde.sde.knot import Knot
from scoresde.solvers import SEEDS2, Ancestral, Heun
from scoresde.solvers.exponential import (
    DEIS,
    IPNDM,
    DPMSolver,
    DPMSolverPP,
    ExponentialAB,
    ExponentialMultistep,
    SASolver,
    UniPC,
)
from scoresde.solvers.solver import Solver

SHAPE, STEPS = (16, 3, 32, 32), 50
SOLVERS: dict[str, tuple[Solver, str]] = {
    "DDIM": (DDIM(), "eps"),
    "Heun": (Heun(), "eps"),
    "DPM-Solver++(2M)": (DPMSolverPP(2), "x0"),
    "DPM-Solver++(2M), mixed": (DPMSolverPP(2), "eps"),
    "DPM-Solver++(3M)": (DPMSolverPP(3), "x0"),
    "DEIS tAB4": (DEIS(4), "eps"),
    "iPNDM4": (IPNDM(4), "eps"),
    "exponential AB4 v": (ExponentialAB(4, "v"), "v"),
    "exponential AB4 v, mixed": (ExponentialAB(4, "v"), "eps"),
    "UniPC-2": (UniPC(2), "x0"),
    "UniPC-3": (UniPC(3), "x0"),
    "v 4 + 4": (ExponentialMultistep(4, "v", "angle", corrector=4), "v"),
    "DPM-Solver-3": (DPMSolver(3), "eps"),
    "Euler-Maruyama": (EulerMaruyama(), "eps"),
    "ancestral": (Ancestral(), "eps"),
    "DPM-Solver++(2M) SDE": (DPMSolverPP(2, tau=1.0), "x0"),
    "SA-Solver 3 + 4": (SASolver(3, 4, tau_min=0.0), "x0"),
    "SEEDS-2": (SEEDS2(), "eps"),
}


class Constant:
    """A model whose network costs nothing."""

    def __init__(self, sde: SDE, predicts: str) -> None:
        self.sde, self.predicts = sde, parametrization(predicts)
        self.raw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """A fixed output."""
        return Prediction(x, knot, self.raw, self.predicts)

    def rows(self, index: Tensor) -> Constant:
        """See `Predictor`."""
        return self


def own(solver: Solver, predicts: str) -> Callable[[], float]:
    """A run of one of our solvers, in microseconds per evaluation."""
    sde = VPSDE()
    model, grid = Constant(sde, predicts), uniform_t(sde, STEPS)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))

    def run() -> float:
        began = time.process_time()
        result = sample(model, solver, grid, x=x)
        return (time.process_time() - began) / result.mean_nfe * 1e6

    return run


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the tensor operations that reach torch."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count one operation."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(solver: Solver, predicts: str) -> float:
    """Tensor operations per evaluation in the middle of a long run; a draw of noise is one."""
    sde = VPSDE()
    run = iterate(Constant(sde, predicts), solver, uniform_t(sde, STEPS), shape=SHAPE)
    for before in run:
        if before.step == 10:
            break
    with Operations() as seen:
        for after in run:
            if after.step == 30:
                break
    return seen.count / (int(after.nfe[0]) - int(before.nfe[0]))


def theirs(kind: str, **config: object) -> Callable[[], float]:
    """A run of a scheduler of diffusers."""
    import diffusers

    scheduler = getattr(diffusers, kind)(**config)
    raw = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))

    def run() -> float:
        scheduler.set_timesteps(STEPS)
        state, began = x, time.process_time()
        for t in scheduler.timesteps:
            state = scheduler.step(raw, t, state).prev_sample
        return (time.process_time() - began) / STEPS * 1e6

    return run


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    runs = {name: own(*pair) for name, pair in SOLVERS.items()}
    runs["diffusers DDIM"] = theirs("DDIMScheduler", clip_sample=False)
    runs["diffusers DPM++2M"] = theirs("DPMSolverMultistepScheduler", solver_order=2)
    runs["diffusers UniPC-2"] = theirs("UniPCMultistepScheduler", solver_order=2)
    runs["drawing the noise"] = _noise
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(arguments.rounds + 2):
        for name, run in runs.items():
            times[name].append(run())
    rows = {
        name: {"median": statistics.median(values[2:]), "least": min(values[2:])}
        for name, values in times.items()
    }
    base = rows["diffusers DDIM"]
    lines = [
        "# Solver arithmetic per network evaluation",
        "",
        "Microseconds of processor time at state (16, 3, 32, 32), float32, one thread, no network.",
        "",
        "| solver | operations | median | least | relative to diffusers' DDIM | less the noise |",
        "|---|---|---|---|---|---|",
    ]
    noise = rows["drawing the noise"]["least"]
    for name, row in rows.items():
        ratio, own_work, count = row["least"] / base["least"], "", ""
        if name in SOLVERS:
            solver, predicts = SOLVERS[name]
            row["operations"] = operations(solver, predicts)
            count = f"{row['operations']:.1f}"
            if solver.stochastic:
                row["less the noise"] = row["least"] - noise
                own_work = f"{row['less the noise']:.0f}"
        lines.append(
            f"| {name} | {count} | {row['median']:.0f} | {row['least']:.0f} | {ratio:.2f} "
            f"| {own_work} |"
        )
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(text)


def _noise() -> float:
    generator = torch.Generator().manual_seed(0)
    began = time.process_time()
    for _ in range(STEPS):
        torch.randn(SHAPE, generator=generator)
    return (time.process_time() - began) / STEPS * 1e6


if __name__ == "__main__":
    main()
