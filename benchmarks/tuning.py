"""Tuned grids and solvers beside the default and the best of the peers, at equal cost.

Exact networks (Gaussian mixtures) on DDPM's linear table of 1000, and the shipped MNIST network.
The error of a sample is the root mean square over coordinates of its distance to where the exact
probability flow (for MNIST: a solve of 100 evaluations) leads from the same start. Problems are
instances on which nothing was chosen; starts are others than those that were tuned on. The best
peer is the best of all deterministic ones for that number alone: those that do best on an eighth of
the starts are run on all. Ratios have a paired bootstrap interval. lowrank3072 is tuned whole, and
measured in the span of its means and factors, where distances are the same.

    python -m benchmarks.tuning --out benchmarks/results/tuning --figure docs/assets/tuned_grids.png

What is in OUT.json already is not computed again. `benchmarks.peers` says how peers are found.
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
    names,
    problems,
    recommended,
    sample,
)
from scoresde.coordinate import Focus
from scoresde.data import dequantize, heldout_digits
from scoresde.features import digit_features
from scoresde.grid import focused
from scoresde.metrics import FrechetDistance, difference, endpoint_errors, error_ratio
from scoresde.model import Predictor
from scoresde.solvers.exponential import ExponentialMultistep
from scoresde.tune import tune
from scoresde.tune.span import in_its_span

TABLE = DiscreteVPSDE.from_betas(linear_betas(1000))
PROBLEMS = {  # seed, held-out starts, budgets
    "ring8": (74, 2048, (5, 10, 20, 50)),
    "digits64": (74, 2048, (5, 10, 20, 50)),
    "lowrank3072": (74, 512, (5, 10, 20, 50)),
    "mnist": (73, 96, (10, 5, 8)),
}
Sampler = Callable[[Tensor], Tensor]

_SEMIFINALISTS, _PICTURED = 4, 3  # peers that are run on all starts, and on images too
_ALWAYS = "diffusers UniPC-3"  # in the table of Frechet distances, however it does
_STATISTICS = ("rms", "median")


class Case(NamedTuple):
    """What is tuned to, what is measured on, held-out starts and their true endpoints.

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
    """The instance that is reported."""
    seed, count, _ = PROBLEMS[problem]
    generator = torch.Generator().manual_seed(seed)
    if problem == "mnist":
        model: Predictor = load_pretrained("mnist")
        x = torch.randn((count, 1, 28, 28), generator=generator)
        x = float(model.sde.at(model.sde.t_max).sigma) * x
        parts = [sample(model, nfe=100, x=part).x for part in torch.split(x, 64)]
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
    tuned = tune(case.whole, "recommended", nfe, shape=shape, dtype=case.x.dtype)
    seconds = time.perf_counter() - began
    best = sample(case.model, tuned.solver, tuned.grid, x=case.x).x
    stock = sample(case.model, *recommended(case.model.sde, nfe), x=case.x).x
    found: dict[str, Any] = {
        "seed": PROBLEMS[problem][0],
        "solver": names.describe(tuned.solver),
        "rho": [float(knot.rho) for knot in tuned.grid.knots[:-1]],
        "source": tuned.source,
        "evaluations": tuned.cost,
        "seconds": round(seconds),
        "tuned": case.both(best),
        "default": case.both(stock),
    }
    rivals, ends = best_peers(case, nfe)
    for place, statistic in enumerate(_STATISTICS):
        name, end = min(ends.items(), key=lambda item: case.both(item[1])[place])
        found[f"peer, {statistic}"] = [name, case.both(end)[place]]
        for key, other in (("ratio", end), ("to default", stock)):
            ratio = error_ratio(best, other, case.truth, statistic=statistic)
            found[f"{key}, {statistic}"] = [ratio.value, ratio.low, ratio.high]
    if images:
        samplers: dict[str, Sampler] = {
            "tuned": lambda x: sample(case.model, tuned.solver, tuned.grid, x=x).x,
            "default": lambda x: sample(case.model, nfe=nfe, x=x).x,
        }
        ahead = sorted(rivals, key=lambda peer: case.both(ends[peer.name]))[:_PICTURED]
        for peer in [*ahead, *(peer for peer in rivals if peer.name == _ALWAYS)]:
            samplers[peer.name] = lambda x, peer=peer: peer.run(case.model, nfe, x)[0]
        found["frechet"] = frechet(case, samplers, images)
    return found


def frechet(case: Case, samplers: dict[str, Sampler], count: int) -> dict[str, list[list[float]]]:
    """Frechet distance of the same starts' samples to held-out digits, in the features of the
    digit classifier, with its interval; and how far it is above that of the first sampler, paired.
    """
    generator = torch.Generator().manual_seed(PROBLEMS["mnist"][0] + 1)
    digits = dequantize(heldout_digits()[0], generator)
    distance = FrechetDistance(digits, digit_features())
    x = torch.randn((count, *case.x.shape[1:]), generator=generator)
    x = float(case.model.sde.at(case.model.sde.t_max).sigma) * x
    found = {
        name: distance(torch.cat([run(part) for part in torch.split(x, 100)]).float())
        for name, run in samplers.items()
    }
    first = next(iter(found.values()))
    paired = {name: difference(one, first) for name, one in found.items()}
    return {name: [[*one[:3]], [*(paired[name] or [])][:3]] for name, one in found.items()}


def best_peers(case: Case, nfe: int) -> tuple[list[peers.Peer], dict[str, Tensor]]:
    """The peers with the smallest errors on few starts, and their samples of all."""
    few = len(case.x) // 8
    rated: list[tuple[list[float], peers.Peer]] = []
    for peer in peers.available():
        try:
            end, used = peer.run(case.model, nfe, case.x[:few])
        except Exception as error:  # a peer that fails is no competitor; say why and go on
            print(f"{peer.name} failed at {nfe}: {error!r}"[:200], flush=True)
            continue
        if used <= nfe and bool(torch.isfinite(end).all()):
            rated.append((case.both(end), peer))
    good = [
        peer
        for place in range(2)
        for _, peer in sorted(rated, key=lambda item: item[0][place])[:_SEMIFINALISTS]
    ]
    good += [peer for _, peer in rated if peer.name == _ALWAYS]
    good = list(dict.fromkeys(good))
    return good, {peer.name: peer.run(case.model, nfe, case.x)[0] for peer in good}


def markdown(results: dict[str, Any]) -> str:
    """The tables."""
    lines = ["# Tuned grids", "", *(__doc__ or "").split("\n\n")[1].split("\n")]
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
            lines += ["", "Frechet distance in the features of the digit classifier:", ""]
        for nfe, cell in cells.items():
            for name, found in sorted(cell.get("frechet", {}).items(), key=lambda row: row[1]):
                above = "" if name == "tuned" else f"; above tuned by {_interval(found[1])}"
                lines.append(f"- {nfe} NFE, {name}: {_interval(found[0])}{above}")
    return "\n".join(lines) + "\n"


def figure(results: dict[str, Any], path: Path) -> None:
    """Where tuned and default grids put their knots, for budgets up to 20, as a picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [(p, n) for p, cells in results.items() for n in cells if int(n) <= 20]
    drawing, axes = plt.subplots(figsize=(7.5, 0.6 + 0.42 * len(rows)), layout="constrained")
    for place, (problem, nfe) in enumerate(rows):
        sde = load_pretrained("mnist").sde if problem == "mnist" else TABLE
        stock = [float(knot.rho) for knot in recommended(sde, int(nfe))[1].knots[:-1]]
        tuned = results[problem][nfe]["rho"]
        axes.plot(stock, [place + 0.15] * len(stock), "o", color="0.6", ms=4, label="default")
        axes.plot(tuned, [place - 0.15] * len(tuned), "o", color="C0", ms=4, label="tuned")
    axes.set_yticks(range(len(rows)), [f"{problem}, {nfe} NFE" for problem, nfe in rows])
    axes.set(xscale="log", xlabel="rho = sigma / alpha")
    axes.invert_xaxis()
    axes.invert_yaxis()
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[:2], labels[:2], loc="lower left")
    drawing.savefig(path, dpi=110)
    plt.close(drawing)


def _interval(values: Sequence[float]) -> str:
    return f"{values[0]:.2f} [{values[1]:.2f}, {values[2]:.2f}]"


def _short(solver: str) -> str:
    """Without the digits that nobody reads; OUT.json has them."""
    return re.sub(r"\d+\.\d{3,}", lambda match: f"{float(match[0]):.2g}", solver)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--nfe", nargs="+", type=int, default=None)
    parser.add_argument("--images", type=int, default=1000, help="for Frechet distances; 0: none")
    parser.add_argument("--figure", type=Path, default=None, help="writes a picture of the grids")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    file = None if arguments.out is None else arguments.out.with_suffix(".json")
    results: dict[str, Any] = json.loads(file.read_text()) if file and file.exists() else {}
    for problem in arguments.problems:
        cells, current = results.setdefault(problem, {}), None
        for nfe in arguments.nfe or PROBLEMS[problem][2]:
            if cells.get(str(nfe), {}).get("seed") == PROBLEMS[problem][0]:
                continue
            current = current or case(problem)
            cells[str(nfe)] = errors(problem, current, nfe, arguments.images * (problem == "mnist"))
            results[problem] = dict(sorted(cells.items(), key=lambda item: int(item[0])))
            cells = results[problem]
            print(problem, nfe, cells[str(nfe)], flush=True)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(results, indent=1) + "\n")
                file.with_suffix(".md").write_text(markdown(results))
    print(markdown(results))
    if arguments.figure is not None:
        figure(results, arguments.figure)


if __name__ == "__main__":
    main()
