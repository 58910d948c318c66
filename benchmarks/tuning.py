"""Compare tuned grids and solvers with the default and with the best peers, at equal cost.

The networks are exact (Gaussian mixtures, on DDPM's linear table of 1000), and the shipped MNIST
network. The error of a sample is the root mean square, over coordinates, of its distance to the
endpoint of the exact probability flow from the same start (for MNIST, of a solve with 100
evaluations). No setting was chosen on these instances of the problems, and no solver was tuned on
these starts.

The best peer is chosen separately for each number of the table, among all deterministic peers: the
best on an eighth of the starts run on all starts. Ratios have a paired bootstrap interval.
lowrank3072 is tuned as a whole. It is measured in the span of its means and factors, where
distances are the same.

On MNIST, a solver is also tuned to the Frechet distance in the features of the digit classifier. It
is tuned to one half of the held-out digits and measured against the other half. It is compared with
the peers that have the smallest distance to that other half on a few starts.

    python -m benchmarks.tuning --out benchmarks/results/tuning --figure docs/assets/tuned_grids.png

Rows that are already in OUT.json are not computed again, so several processes with different
--problems and --nfe can share the file. `benchmarks.peers` says how peers are found.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks import peers
from scoresde import (
    EDMSDE,
    DiscreteVPSDE,
    linear_betas,
    load_pretrained,
    recommended,
    sample,
)
from scoresde._internal.specs import describe
from scoresde.axis import Focus
from scoresde.exact import problems
from scoresde.grid import focused
from scoresde.metrics import FrechetDistance, difference, endpoint_errors, error_ratio
from scoresde.metrics.features import digit_features
from scoresde.model import Predictor
from scoresde.sampling.jobs import write_atomic
from scoresde.solvers.exponential import ExponentialMultistep
from scoresde.training.data import dequantize, heldout_digits
from scoresde.tune import Tuned, tune
from scoresde.tune.low_rank import in_its_span

TABLE = DiscreteVPSDE.from_betas(linear_betas(1000))
PROBLEMS = {  # seed, held-out starts, budgets
    "ring8": (74, 2048, (5, 10, 20, 50)),
    "digits64": (74, 2048, (5, 10, 20, 50)),
    "lowrank3072": (74, 512, (5, 10, 20, 50)),
    "mnist": (73, 96, (10, 5, 8)),
}
Sampler = Callable[[Tensor], Tensor]

_SEMIFINALISTS, _PICTURED = 4, 4  # peers that are run on all starts, and on all images
_SCREENED = 128  # images by which peers are picked
_STATISTICS = ("rms", "median")


class Case(NamedTuple):
    """The model to tune to, the model to measure on, and starts with their true endpoints.

    Attributes:
        whole: the model that is tuned to.
        model: the same, or its part that matters.
        x: starts for `model`.
        truth: where they lead.
        scale: RMS over the coordinates of `whole` over that of `model`.
    """

    whole: Predictor
    model: Predictor
    x: Tensor
    truth: Tensor
    scale: float

    def both(self, x: Tensor) -> list[float]:
        """RMS and median of endpoint errors."""
        found = self.scale * endpoint_errors(x, self.truth[: len(x)]).numpy()
        return [float(np.sqrt(np.mean(found**2))), float(np.median(found))]


def case(problem: str) -> Case:
    """The instance of a problem that is reported."""
    seed, count, _ = PROBLEMS[problem]
    generator = torch.Generator().manual_seed(seed)
    if problem == "mnist":
        model: Predictor = load_pretrained("mnist")
        x = torch.randn((count, 1, 28, 28), generator=generator)
        x = float(model.sde.at(model.sde.t_max).sigma) * x
        plan = recommended(model, 100, start="end")
        parts = [sample(model, *plan, x=part).x for part in torch.split(x, 64)]
        return Case(model, model, x, torch.cat(parts), 1.0)
    # The flow of y = x / alpha against rho is that of every process; here it goes on to rho = 1e-4.
    top = TABLE.at(TABLE.t_max)
    sde = EDMSDE(t_min=1e-4, t_max=float(top.rho))
    whole, same = (getattr(problems, problem)(process, seed=seed) for process in (TABLE, sde))
    z = torch.randn((count, *whole.event_shape), generator=generator, dtype=torch.float64)
    model, x = in_its_span(whole, float(top.sigma) * z)
    same, y = in_its_span(same, float(top.rho) * z)
    solver = ExponentialMultistep(5, "v", Focus(), corrector=5, start="krogstad4")
    end = sample(same, solver, focused(sde, 400, Focus()), x=y).x
    return Case(whole, model, x, end, math.sqrt(x[0].numel() / z[0].numel()))


def errors(problem: str, case: Case, nfe: int, images: int) -> dict[str, Any]:
    """Tuned, default and the best peers at one budget, with `images` for a Frechet distance."""
    began = time.perf_counter()
    shape = getattr(case.whole, "event_shape", case.x.shape[1:])
    tuned = tune(case.whole, "recommended", nfe, event_shape=shape, dtype=case.x.dtype)
    seconds = time.perf_counter() - began
    best = sample(case.model, tuned.solver, tuned.grid, x=case.x).x
    stock = sample(case.model, *recommended(case.model, nfe, start="end"), x=case.x).x
    found: dict[str, Any] = {
        "seed": PROBLEMS[problem][0],
        "solver": describe(tuned.solver),
        "rho": [float(knot.rho) for knot in tuned.grid.knots[:-1]],
        "source": tuned.source,
        "evaluations": tuned.cost,
        "seconds": round(seconds),
        "tuned": case.both(best),
        "default": case.both(stock),
    }
    ends = best_peers(case, nfe)
    for place, statistic in enumerate(_STATISTICS):
        name, end = min(ends.items(), key=lambda item: case.both(item[1])[place])
        found[f"peer, {statistic}"] = [name, case.both(end)[place]]
        for key, other in (("ratio", end), ("to default", stock)):
            ratio = error_ratio(best, other, case.truth, statistic=statistic)
            found[f"{key}, {statistic}"] = [ratio.value, ratio.low, ratio.high]
    if images:
        found |= by_distance(case, nfe, tuned, images)
    return found


def by_distance(case: Case, nfe: int, tuned: Tuned, count: int) -> dict[str, Any]:
    """A solver tuned to the Frechet distance in the features of the digit classifier.

    Returns the distances of `count` samples of all competitors, each with its interval, and with
    its paired difference from the distance of the first.
    """
    generator = torch.Generator().manual_seed(PROBLEMS["mnist"][0] + 1)
    digits = dequantize(heldout_digits()[0], generator)
    half = len(digits) // 2
    known, other = (
        FrechetDistance(part, digit_features()) for part in (digits[:half], digits[half:])
    )
    began = time.perf_counter()
    closest = tune(case.whole, "recommended", nfe, event_shape=(1, 28, 28), metric=known)
    seconds = time.perf_counter() - began
    samplers: dict[str, Sampler] = {
        "tuned to it": lambda x: sample(case.model, closest.solver, closest.grid, x=x).x,
        "tuned": lambda x: sample(case.model, tuned.solver, tuned.grid, x=x).x,
        "default": lambda x: sample(case.model, *recommended(case.model, nfe, start="end"), x=x).x,
    }
    x = torch.randn((count, *case.x.shape[1:]), generator=generator)
    x = float(case.model.sde.at(case.model.sde.t_max).sigma) * x
    for peer in closest_peers(case.model, nfe, x[:_SCREENED], other):
        samplers[peer.name] = lambda x, peer=peer: peer.run(case.model, nfe, x)[0]
    found = {
        name: other(torch.cat([run(part) for part in torch.split(x, 100)]).float())
        for name, run in samplers.items()
    }
    first = next(iter(found.values()))
    paired = {name: difference(one, first) for name, one in found.items()}
    return {
        "tuned to it": {
            "solver": describe(closest.solver),
            "rho": [float(knot.rho) for knot in closest.grid.knots[:-1]],
            "source": closest.source,
            "evaluations": closest.cost,
            "seconds": round(seconds),
        },
        "images": count,
        "frechet": {name: [[*one[:3]], [*(paired[name] or [])][:3]] for name, one in found.items()},
    }


def closest_peers(
    model: Predictor, nfe: int, x: Tensor, distance: FrechetDistance
) -> list[peers.Peer]:
    """The peers with the smallest distance on a few starts."""
    rated: list[tuple[float, peers.Peer]] = []
    for peer in peers.available():
        try:
            end, used = peer.run(model, nfe, x)
            if used <= nfe:
                rated.append((distance(end.float()).value, peer))
        except Exception as error:  # a peer that fails is no competitor; say why and go on
            print(f"{peer.name} failed at {nfe}: {error!r}"[:200], flush=True)
    return [peer for _, peer in sorted(rated, key=lambda pair: pair[0])[:_PICTURED]]


def best_peers(case: Case, nfe: int) -> dict[str, Tensor]:
    """Samples from all starts, of the peers with the smallest errors on a few starts."""
    few = len(case.x) // 8
    rated: list[tuple[list[float], peers.Peer]] = []
    for peer in peers.available():
        try:
            end, used = peer.run(case.model, nfe, case.x[:few])
        except Exception as error:  # see `closest_peers`
            print(f"{peer.name} failed at {nfe}: {error!r}"[:200], flush=True)
            continue
        if used <= nfe and bool(torch.isfinite(end).all()):
            rated.append((case.both(end), peer))
    good = dict.fromkeys(
        peer
        for place in range(2)
        for _, peer in sorted(rated, key=lambda item: item[0][place])[:_SEMIFINALISTS]
    )
    return {peer.name: peer.run(case.model, nfe, case.x)[0] for peer in good}


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Tuned grids", "", *"\n\n".join((__doc__ or "").split("\n\n")[1:3]).split("\n")]
    for problem, cells in results.items():
        count = PROBLEMS[problem][1]
        seeds = ", ".join(sorted({str(cell.get("seed", "unknown")) for cell in cells.values()}))
        lines += [
            "",
            f"## {problem}",
            "",
            f"{count} held-out starts, seed {seeds}. RMS (median).",
            "",
            "| NFE | tuned | default | best peer, RMS | best peer, median | tuned / peer, RMS "
            "| tuned / peer, median | tuned / default, RMS |",
            "|---" * 8 + "|",
        ]
        for nfe, cell in cells.items():
            own, stock = (f"{cell[k][0]:.1e} ({cell[k][1]:.1e})" for k in ("tuned", "default"))
            top = [f"{cell[f'peer, {k}'][1]:.1e}: {cell[f'peer, {k}'][0]}" for k in _STATISTICS]
            keys = ("ratio, rms", "ratio, median", "to default, rms")
            ratios = [_interval(cell[key]) for key in keys]
            lines.append("| " + " | ".join([nfe, own, stock, *top, *ratios]) + " |")
        lines += [
            "",
            "| NFE | tuned solver | found from | evaluations | seconds |",
            "|---" * 5 + "|",
        ]
        for nfe, cell in cells.items():
            shown = [nfe, f"`{_short(cell['solver'])}`", cell["source"]]
            shown += [f"{cell['evaluations']:,}", str(cell["seconds"])]
            lines.append("| " + " | ".join(shown) + " |")
        if any("frechet" in cell for cell in cells.values()):
            counts = {str(cell["images"]) for cell in cells.values() if "images" in cell}
            images = ", ".join(sorted(counts))
            lines += ["", f"Frechet distance, {images} images:", ""]
        for nfe, cell in cells.items():
            for name, found in sorted(cell.get("frechet", {}).items(), key=lambda row: row[1]):
                above = f"; above `tuned to it` by {_interval(found[1])}"
                above = "" if name == "tuned to it" else above
                lines.append(f"- {nfe} NFE, {name}: {_interval(found[0])}{above}")
            if "tuned to it" in cell:
                own = cell["tuned to it"]
                lines.append(
                    f"- {nfe} NFE, the solver tuned to it: `{_short(own['solver'])}`, "
                    f"{own['evaluations']:,} evaluations, {own['seconds']} seconds"
                )
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any], path: Path) -> None:
    """Draw the knots of tuned and default grids, for budgets up to 20."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [(p, n) for p, cells in results.items() for n in cells if int(n) <= 20]
    drawing, axes = plt.subplots(figsize=(7.5, 0.6 + 0.42 * len(rows)), layout="constrained")
    for place, (problem, nfe) in enumerate(rows):
        sde = load_pretrained("mnist").sde if problem == "mnist" else TABLE
        stock = [float(knot.rho) for knot in recommended(sde, int(nfe), floor=0.0)[1].knots[:-1]]
        tuned = results[problem][nfe]["rho"]
        axes.plot(stock, [place + 0.15] * len(stock), "o", color="0.6", ms=4, label="default")
        axes.plot(tuned, [place - 0.15] * len(tuned), "o", color="C0", ms=4, label="tuned")
    axes.set_yticks(range(len(rows)), [f"{problem}, {nfe} NFE" for problem, nfe in rows])
    axes.set(xscale="log", xlabel="rho = sigma / alpha")
    axes.invert_xaxis()
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    drawing.legend(handles[:2], labels[:2], loc="outside upper right", ncols=2)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"


def _short(solver: str) -> str:
    """The text with rounded numbers; OUT.json has all digits."""
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2g}", solver)


def kept(file: Path | None) -> dict[str, Any]:
    """The rows in the file; other processes may have added some."""
    found: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--nfe", nargs="+", type=int, default=None)
    parser.add_argument("--images", type=int, default=3000, help="for Frechet distances; 0: none")
    parser.add_argument("--figure", type=Path, default=None, help="writes a picture of the grids")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    file = None if arguments.out is None else arguments.out.with_suffix(".json")
    results = kept(file)
    for problem in arguments.problems:
        current = None
        for nfe in arguments.nfe or PROBLEMS[problem][2]:
            if results.get(problem, {}).get(str(nfe), {}).get("seed") == PROBLEMS[problem][0]:
                continue
            current = current or case(problem)
            cell = errors(problem, current, nfe, arguments.images * (problem == "mnist"))
            print(problem, nfe, cell, flush=True)
            results = kept(file) or results
            cells = results.get(problem, {}) | {str(nfe): cell}
            results[problem] = dict(sorted(cells.items(), key=lambda item: int(item[0])))
            results = {name: results[name] for name in PROBLEMS if name in results}
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(file, (json.dumps(results, indent=1) + "\n").encode())
    print(markdown(results))
    if file is not None:
        file.with_suffix(".md").write_text(markdown(results))
    if arguments.figure is not None:
        figure(results, arguments.figure)


if __name__ == "__main__":
    main()
