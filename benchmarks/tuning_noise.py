"""Compare tuned and default grids of stochastic solvers, at equal cost.

The networks are exact (Gaussian mixtures), on DDPM's linear table of 1000. The gap of the exact NLL
is the NLL of samples minus that of exact draws, in nats per dimension; 0 is ideal, and below 0
samples are too concentrated. The energy distance is to exact draws. Its floor is the distance
between two sets of exact draws.

    python -m benchmarks.tuning_noise --out benchmarks/results/tuning_noise
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

from benchmarks.tuning import TABLE
from scoresde import sample
from scoresde.exact import problems
from scoresde.metrics import EnergyDistance, difference
from scoresde.sampling.choose import choose
from scoresde.tune import tune

COUNTS = {"ring8": 4096, "digits64": 2048}
SOLVERS = ("DDIM(eta=1.0)", "EulerMaruyama", "recommended(stochastic=True)")
BUDGETS = (10, 20, 50)


def measure(problem: str, solver: str, nfe: int, seed: int) -> dict[str, Any]:
    """Default and tuned: gap with its standard error, energy distance with its interval."""
    model = getattr(problems, problem)(TABLE, seed=seed)
    count, size = COUNTS[problem], math.prod(model.event_shape)
    tuned = tune(model, solver, nfe, starts=2048, dtype=torch.float64)
    true, other = (model.sample(count, seed=k) for k in (1, 2))
    distance = EnergyDistance(true)
    level = model.log_prob(model.sample(50_000, seed=3), TABLE.clean).mean() / size
    found: dict[str, Any] = {
        "source": tuned.source,
        "bound": list(tuned.ratio[:3]),
        "floor": list(distance(other)[:3]),
    }
    estimates = []
    for name, grid in (("default", choose(TABLE, solver, None, nfe)[1]), ("tuned", tuned.grid)):
        x = sample(
            model, tuned.solver, grid, shape=(count, *model.event_shape), dtype=torch.float64
        ).x
        nats = level - model.log_prob(x, TABLE.clean) / size
        estimates.append(distance(x))
        found[name] = {
            "gap": [float(nats.mean()), float(nats.std()) / math.sqrt(count)],
            "energy": list(estimates[-1][:3]),
        }
    apart = difference(estimates[1], estimates[0])
    found["tuned less default, energy"] = None if apart is None else list(apart[:3])
    return found


def markdown(results: dict[str, Any]) -> str:
    """The table."""
    lines = ["# Tuned grids of solvers that draw noise", "", (__doc__ or "").split("\n\n")[1], ""]
    lines += [
        "| problem | solver | NFE | gap, default | gap, tuned | energy, default | energy, tuned "
        "| tuned less default | floor | tuned is |",
        "|---" * 10 + "|",
    ]
    for key, cell in results.items():
        gaps = ["{:+.3f} +- {:.3f}".format(*cell[name]["gap"]) for name in ("default", "tuned")]
        energies = [f"{cell[name]['energy'][0]:.4f}" for name in ("default", "tuned")]
        apart = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*cell["tuned less default, energy"])
        shown = [*key.split(", "), *gaps, *energies, apart, f"{cell['floor'][0]:.4f}"]
        lines.append("| " + " | ".join([*shown, cell["source"]]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write; rows that are already in OUT.json are not computed again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=73, help="of the instances")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    file = arguments.out.with_suffix(".json")
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for problem in COUNTS:
        for solver in SOLVERS:
            for nfe in BUDGETS:
                key = f"{problem}, {solver}, {nfe}"
                if key not in results:
                    results[key] = measure(problem, solver, nfe, arguments.seed)
                    file.write_text(json.dumps(results, indent=1) + "\n")
                    file.with_suffix(".md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
