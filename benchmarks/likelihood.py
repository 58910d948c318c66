"""Compare likelihoods with closed forms: errors, cost and error estimates; also of score_sde.

    python benchmarks/likelihood.py --out benchmarks/results    # likelihood.json and likelihood.md
    python benchmarks/likelihood.py --parts accuracy --problems ring8,digits64

Instances (`--seeds`), samples, pilots and the data for frames have different seeds. Integrators
were chosen on instances 3 and 4. Two settings were changed after a first run on instance 11: the
safety factor of grids (from 3 to 2), and the number of nodes in the test of probes (from 41 to 31).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers.score_sde_likelihood import score_sde_log_likelihood
from torch import Tensor

from scoresde import VPSDE, ScoreModel
from scoresde.exact.problems import digits64, lowrank3072, power_law, ring8
from scoresde.likelihood import (
    Exact,
    FixedGrid,
    Hutchinson,
    NoFrame,
    PerSample,
    TwoPhase,
    calibrated_grid,
    chosen_control,
    estimate_frame,
    log_likelihood,
)
from scoresde.ode import TorchDiffEq
from scoresde.training.losses import score_matching_loss

T_MIN = 1e-5
PROBLEMS = {
    "ring8": ring8,
    "digits64": digits64,
    "lowrank3072": lowrank3072,
    "power_law": power_law,
}
SAMPLES = {"ring8": 128, "digits64": 64, "lowrank3072": 8, "power_law": 4}
REPEATS = {"digits64": 200, "lowrank3072": 32}
Row = dict[str, Any]


def main() -> None:
    """Run the chosen parts, and write their results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="accuracy,probes,cost,memory")
    parser.add_argument("--problems", default="ring8,digits64,lowrank3072,power_law")
    parser.add_argument("--seeds", default="11,12", help="instances of each problem")
    parser.add_argument("--out", type=Path, help="folder of likelihood.json and likelihood.md")
    parser.add_argument("--memory-of", choices=("nothing", "training", "likelihood"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.memory_of:
        print(peak(given.memory_of))
        return
    parts = given.parts.split(",")
    old = given.out / "likelihood.json" if given.out else None
    found: dict[str, Any] = json.loads(old.read_text()) if old and old.exists() else {}
    command = "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    for part in parts:  # parts that are not run again stay as they were
        found.pop(part, None)
        found.setdefault("commands", {})[part] = command
    found["torch"] = torch.__version__
    for name in given.problems.split(","):
        large = name in ("lowrank3072", "power_law")
        for seed in [int(s) for s in given.seeds.split(",")][: 1 if large else None]:
            model = PROBLEMS[name](VPSDE(t_min=T_MIN), seed=seed)
            began = time.process_time()
            frame = estimate_frame(model.sample(10_000, seed=5))
            own = {"problem": name, "seed": seed, "frame seconds": time.process_time() - began}
            if "accuracy" in parts:
                for row in accuracy(name, model, frame):
                    keep(found, "accuracy", own | row, given.out)
            if "probes" in parts and name in REPEATS and seed == int(given.seeds.split(",")[0]):
                for row in probes(name, model, frame):
                    keep(found, "probes", own | row, given.out)
    if "cost" in parts:
        keep(found, "cost", unit_costs(), given.out)
    if "memory" in parts:
        keep(found, "memory", memory(), given.out)


def keep(found: dict[str, Any], part: str, value: Any, out: Path | None) -> None:
    """Print one result, and write all results so far."""
    print(part, json.dumps(value), flush=True)
    if part in ("accuracy", "probes"):
        found.setdefault(part, []).append(value)
    else:
        found[part] = value
    if out:
        out.mkdir(parents=True, exist_ok=True)
        (out / "likelihood.json").write_text(json.dumps(found, indent=1) + "\n")
        (out / "likelihood.md").write_text(report(found))


# -- parts ----------------------------------------------------------------------------------------


def accuracy(name: str, model: Any, frame: Any) -> list[Row]:
    """Error and cost with the exact divergence, and whether error estimates are right."""
    x = model.sample(SAMPLES[name], T_MIN, seed=1)
    truth = model.log_prob(x, T_MIN)
    large = x[0].numel() > 1000
    pilot = model.sample(8 if large else 16, T_MIN, seed=77)
    settings = {"divergence": Exact(), "frame": frame}
    methods: dict[str, Any] = {}
    for tol in (1e-4,) if large else (3e-4, 1e-4, 3e-5):
        methods[f"per sample, tol {tol:g}"] = PerSample(tol)
        methods[f"two phases, tol {tol:g}"] = TwoPhase(tol)
    for nodes in (17, 30, 45) if large else (41, 61, 75):
        methods[f"even grid, {nodes} nodes"] = FixedGrid(nodes)
        methods[f"calibrated grid, {nodes} nodes"] = nodes
    if not large:
        methods["dopri5, whole batch, no frame"] = TorchDiffEq()
    rows = []
    for title, method in methods.items():
        own = settings
        if isinstance(method, int):
            method = calibrated_grid(model, pilot, method, **settings)
        elif isinstance(method, TorchDiffEq):
            own = settings | {"frame": NoFrame()}
        got = log_likelihood(model, x, method=method, prior=model, **own)
        error, estimate = bits(got.nats - truth, x).abs(), bits(got.error, x)
        nfe, traced = (count.double() for count in (got.nfe, got.divergences))
        rows.append(
            {
                "method": title,
                "error": float(error.mean()),
                "median": float(error.median()),
                "max": float(error.max()),
                "nfe": float(nfe.mean()),
                "max nfe": int(nfe.max()),
                "divergences": float(traced.mean()),
                "below 3 estimates": float((error <= 3 * estimate).double().mean()),
                "estimate over error": float((estimate / error).median()),
                "pilot evaluations": 5 * method.nodes * len(pilot) if "calibrated" in title else 0,
            }
        )
    return rows


def probes(name: str, model: Any, frame: Any) -> list[Row]:
    """Repeated estimates of one point with different probes.

    Gives their spread, whether the stated errors are right, and the cost of a run: forward passes,
    backward passes on a new graph, and further backward passes on the same graph.
    """
    point = model.sample(1, T_MIN, seed=1)
    truth = model.log_prob(point, T_MIN)
    repeats, large = REPEATS[name], point[0].numel() > 1000
    x = point.expand(repeats, *point.shape[1:])
    pilot = model.sample(8 if large else 16, T_MIN, seed=77)
    grid = calibrated_grid(model, pilot, 31, divergence=Exact(), frame=frame)
    theirs = [score_sde_log_likelihood(model, point, seed=seed) for seed in range(min(repeats, 16))]
    nats = torch.stack([each[0][0] for each in theirs])
    nfe = sum(cost.evaluations for _, cost in theirs) / len(theirs)
    rows = [spread("score_sde, one fixed probe", nats, truth, point, nfe, 0, None)]
    rules = {f"{count} fresh probes": Hutchinson(count) for count in (2, 4, 8)}
    rules["2 fresh probes, control"] = chosen_control(model, pilot, Hutchinson(2), frame=frame)
    for title, rule in rules.items():
        got = log_likelihood(
            model, x, method=grid, prior=model, divergence=rule, frame=frame, seeds=1000
        )
        title = f"calibrated grid, {grid.nodes} nodes, {title}"
        if rule.control:
            title += f" {rule.control:.2f}"
        stated = float(got.stderr.square().mean())
        rows.append(spread(title, got.nats, truth, point, grid.nodes, rule.probes, stated))
    return rows


def spread(
    title: str,
    nats: Tensor,
    truth: Tensor,
    x: Tensor,
    nfe: float,
    probes: int,
    stated: float | None,
) -> Row:
    """Statistics of repeated estimates of one point; probes = 0 means score_sde."""
    sd = float(nats.std())
    return {
        "method": title,
        "sd": sd / (x[0].numel() * math.log(2)),
        "bias in standard errors": float(nats.mean() - truth) / (sd / math.sqrt(len(nats))),
        "stated variance over true": math.nan if stated is None else stated / sd**2,
        "repeats": len(nats),
        "nfe": nfe,
        "probes": probes,
    }


def unit_costs() -> Row:
    """Processor time of each operation, in units of a forward pass of a U-Net.

    The operations are timed in turns.
    """
    net, model, x = network()
    sde, batch = model.sde, torch.full((len(x),), 0.5)
    settings = {"seeds": 0, "frame": NoFrame(), "method": FixedGrid(2, order=1)}

    def forward() -> None:
        with torch.no_grad():
            net(x, batch)

    def vjp() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(net(leaf, batch), leaf, torch.ones_like(x))

    def ours(count: int) -> Callable[[], None]:
        return lambda: [log_likelihood(model, x, divergence=Hutchinson(count), **settings), None][1]

    def theirs() -> None:
        state = x.double()
        with torch.no_grad():
            model(state, sde.at(0.5))
        leaf = state.requires_grad_()
        torch.autograd.grad(model(leaf, sde.at(0.5)).score, leaf, torch.ones_like(leaf))

    runs = {"forward": forward, "vjp": vjp, "1": ours(1), "2": ours(2), "other": theirs}
    best = dict.fromkeys(runs, math.inf)
    for _ in range(6):
        for name, run in runs.items():
            began = time.process_time()
            run()
            per = 2 if name in "12" else 1  # two nodes a run
            best[name] = min(best[name], (time.process_time() - began) / per)
    unit = best["forward"]
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "forward and VJP": best["vjp"] / unit,
        "evaluation with one probe": best["1"] / unit,
        "over the bare forward and VJP": best["1"] / best["vjp"],
        "further probe": (best["2"] - best["1"]) / unit,
        "evaluation of score_sde": best["other"] / unit,
    }


def memory() -> Row:
    """Peak memory of a likelihood divided by that of a training step.

    The memory of an idle process is subtracted from both.
    """
    command = [sys.executable, __file__, "--memory-of"]
    idle, training, likelihood = (
        float(subprocess.run([*command, what], check=True, capture_output=True, text=True).stdout)
        for what in ("nothing", "training", "likelihood")
    )
    return {
        "training MB": training - idle,
        "likelihood MB": likelihood - idle,
        "ratio": (likelihood - idle) / (training - idle),
    }


def peak(what: str) -> float:
    """Peak memory of this process in MB, after a likelihood or a training step."""
    net, model, x = network(batch_size=16)
    if what == "training":
        optimizer = torch.optim.Adam(net.parameters())
        generator = torch.Generator().manual_seed(0)
        for _ in range(2):
            optimizer.zero_grad()
            score_matching_loss(model, x, generator=generator).mean().backward()
            optimizer.step()
    elif what == "likelihood":
        log_likelihood(model, x, method=FixedGrid(5), divergence=Hutchinson(2))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def network(batch_size: int = 8) -> tuple[torch.nn.Module, ScoreModel, Tensor]:
    """A U-Net of a million parameters, and noise of its input's shape."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=32, in_channels=3, out_channels=3, layers_per_block=1,
        block_out_channels=(32, 64, 64), norm_num_groups=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = unet

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            out: Tensor = self.unet(x, 999 * t).sample
            return out

    net = Net()
    return (
        net,
        ScoreModel(net, VPSDE(), predicts="eps", time="t"),
        torch.randn(batch_size, 3, 32, 32),
    )


# -- the report -----------------------------------------------------------------------------------


def report(found: dict[str, Any]) -> str:
    """The tables as Markdown."""
    commands = " and ".join(f"`{each}`" for each in dict.fromkeys(found["commands"].values()))
    lines = [
        "# Likelihoods against closed forms", "",
        f"Written by {commands}. Errors are in bits per dimension, against log p at t = 1e-5; "
        "frames are estimated from 10,000 samples.", "",
    ]  # fmt: skip
    if "accuracy" in found:
        lines += table(
            "Exact divergence",
            ["problem", "seed", "method", "mean error", "median", "max", "evaluations (max)",
             "with divergence", "below 3 estimates", "estimate/error", "pilot evaluations"],
            [
                [r["problem"], r["seed"], r["method"], f"{r['error']:.1e}", f"{r['median']:.1e}",
                 f"{r['max']:.1e}", f"{r['nfe']:.1f} ({r['max nfe']})", f"{r['divergences']:.1f}",
                 percent(r["below 3 estimates"], r["estimate over error"]),
                 f"{r['estimate over error']:.1f}", r["pilot evaluations"]]
                for r in found["accuracy"]
            ],
        )  # fmt: skip
    units = found.get("cost")
    if "probes" in found:
        lines += table(
            "Hutchinson's estimate of one point",
            ["problem", "method", "standard deviation", "bias / its standard error",
             "stated / true variance", "evaluations", "cost in forwards"],
            [
                [r["problem"], r["method"], f"{r['sd']:.1e}", f"{r['bias in standard errors']:.1f}",
                 f"{r['stated variance over true']:.2f}", f"{r['nfe']:.0f}", forwards(r, units)]
                for r in found["probes"]
            ],
        )  # fmt: skip
    for part, title in (("cost", "One evaluation, in plain forwards"), ("memory", "Peak memory")):
        if part in found:
            rows = [
                [name, f"{v:.2f}" if isinstance(v, float) else v] for name, v in found[part].items()
            ]
            lines += table(title, ["what", "value"], rows)
    return "\n".join(lines)


def table(title: str, head: list[str], rows: list[list[Any]]) -> list[str]:
    """Lines of a section with one table."""
    body = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * len(head), *rows]]
    return [f"## {title}", "", *body, ""]


def percent(share: float, ratio: float) -> str:
    """A share in percent, or "no estimate"."""
    return "no estimate" if math.isnan(ratio) else f"{100 * share:.0f}%"


def forwards(row: Row, units: Row | None) -> str:
    """Cost of a run, in forward passes of the U-Net, for the evaluations that it took here."""
    if units is None:
        return ""
    if not row["probes"]:
        return f"{row['nfe'] * units['evaluation of score_sde']:.0f}"
    each = units["evaluation with one probe"] + (row["probes"] - 1) * units["further probe"]
    return f"{row['nfe'] * each:.0f}"


def bits(nats: Tensor, x: Tensor) -> Tensor:
    """Nats as bits per dimension."""
    return nats / (x[0].numel() * math.log(2))


if __name__ == "__main__":
    main()
