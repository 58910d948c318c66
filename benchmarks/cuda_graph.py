"""Overhead of a solver over the network alone, with a whole trajectory as one CUDA graph.

The state is (16, 3, 32, 32) in float32. The network is a stack of convolutions, deep enough that
one evaluation takes about 0.5 or 5 ms. The trajectory is compared with its network evaluations
alone, also captured as one graph. `iterate` makes its checks when it is called, so the loop itself
can be captured. The aim is an overhead under 10% at 0.5 ms, and under 2% at 5 ms. It needs a CUDA
device.

    python benchmarks/cuda_graph.py --out benchmarks/results/cuda_graph
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from scoresde import DDIM, VPSDE, ScoreModel, iterate, recommended, uniform_lambda
from scoresde.solvers import DPMSolverPP, Heun, UniPC, evaluations

SHAPE, STEPS, MILLISECONDS = (16, 3, 32, 32), 20, (0.5, 5.0)
SDE = VPSDE()
RUNS = {
    "DDIM": (DDIM(), uniform_lambda(SDE, STEPS)),
    "Heun": (Heun(), uniform_lambda(SDE, STEPS)),
    "DPM-Solver++(2M)": (DPMSolverPP(2), uniform_lambda(SDE, STEPS)),
    "UniPC-3": (UniPC(3), uniform_lambda(SDE, STEPS)),
    "recommended": recommended(SDE, STEPS),
}


class Stack(nn.Module):
    """Convolutions that keep the shape."""

    def __init__(self, depth: int, width: int = 64) -> None:
        super().__init__()
        inner = (
            layer
            for _ in range(depth)
            for layer in (nn.Conv2d(width, width, 3, padding=1), nn.SiLU())
        )
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), *inner, nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """An output of x's shape that depends on the time."""
        out: Tensor = self.layers(x) * time[:, None, None, None]
        return out


def captured(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """`run` captured as a CUDA graph; it must have been warmed up."""
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        run()
    return graph


def milliseconds(graph: torch.cuda.CUDAGraph, rounds: int = 30) -> float:
    """Median time of a replay."""
    times = []
    for _ in range(rounds):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times[5:])


def bare(net: Stack, x: Tensor, count: int) -> float:
    """Milliseconds of this number of evaluations, one after another."""
    time = torch.full(SHAPE[:1], 0.5, device=x.device)

    def run() -> None:
        for _ in range(count):
            net(x, time)

    warm_up(run)
    return milliseconds(captured(run))


def warm_up(run: Callable[[], object]) -> None:
    """Run once on a side stream, which capture requires."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)


def measure(target: float) -> list[dict[str, float | str]]:
    """Overhead of every run over a network of about this many milliseconds."""
    x = torch.randn(SHAPE, device="cuda")
    deep = Stack(16).cuda()
    net = Stack(max(1, round(16 * target / bare(deep, x, 1)))).cuda().requires_grad_(False)
    model = ScoreModel(net, SDE, predicts="v", time="t")
    rows: list[dict[str, float | str]] = []
    for name, (solver, grid) in RUNS.items():
        # Each is checked here, and followed where the list is made.
        warm_up(lambda: list(iterate(model, solver, grid, x=x)))  # noqa: B023 - called at once
        run = iterate(model, solver, grid, x=x)
        whole = milliseconds(captured(lambda: list(run)))  # noqa: B023
        nfe = evaluations(solver, grid) or 0
        alone = bare(net, x, nfe)
        overhead = whole / alone - 1
        rows.append({"run": name, "nfe": nfe, "network_ms": alone / nfe, "overhead": overhead})
    return rows


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        raise SystemExit("cuda_graph.py needs a CUDA device, and there is none: nothing measured")
    rows = [row for target in MILLISECONDS for row in measure(target)]
    lines = [
        "# A trajectory as one CUDA graph",
        "",
        f"{torch.cuda.get_device_name()}, state {SHAPE}, float32.",
        "",
        "| run | evaluations | network, ms | overhead |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {r['run']} | {r['nfe']} | {r['network_ms']:.2f} | {100 * float(r['overhead']):.1f}% |"
        for r in rows
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        out.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
