"""How far the samples of stochastic solvers are from exact ones: the gap of the exact NLL.

For each problem, solver and number of network evaluations: the mean of -log p(x) over samples, with
the mixture's exact density, minus the same mean over exact samples (an estimate of the entropy),
in nats per dimension with its 95% interval. 0 is ideal; below 0, samples are too concentrated.

    python benchmarks/stochastic.py --problems ring8 digits64 --nfe 20 50 100
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from scoresde import VPSDE, Grid, problems, uniform_lambda
from scoresde.analytic import GaussianMixture
from scoresde.sampling import sample
from scoresde.solvers.base import Solver

SAMPLES = {"ring8": 100_000, "digits64": 5_000, "lowrank3072": 5_000}
BATCH = {"ring8": 25_000, "digits64": 1_000, "lowrank3072": 250}


def nll(model: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    """-log p(x) of the clean data, shape (B,), float64."""
    return -model.log_prob(x.double(), model.sde.clean)


def entropy(model: GaussianMixture, n: int, batch: int) -> torch.Tensor:
    """-log p of n exact samples."""
    parts = [nll(model, model.sample(batch, seed=10_000 + k)) for k in range(max(1, n // batch))]
    return torch.cat(parts)


def gap(
    model: GaussianMixture,
    solver: Solver,
    grid: Grid,
    exact: torch.Tensor,
    *,
    n: int,
    batch: int,
) -> tuple[float, float, int]:
    """The gap per dimension, half of its 95% interval, and the evaluations per sample."""
    values, nfe = [], 0
    for seed in range(math.ceil(n / batch)):
        out = sample(model, solver, grid, shape=(batch, *model.event_shape), seeds=seed)
        values.append(nll(model, out.x))
        nfe = int(torch.as_tensor(out.nfe).double().mean().round())
    got = torch.cat(values)
    error = (got.var() / len(got) + exact.var() / len(exact)).sqrt()
    d = math.prod(model.event_shape)
    return float(got.mean() - exact.mean()) / d, 1.96 * float(error) / d, nfe


def grid_for(
    solver: Solver, make: Callable[[int], Grid], nfe: int
) -> Grid | None:
    """The longest grid of at most `nfe` evaluations."""
    best = None
    for n in range(1, nfe + 1):
        grid = make(n)
        cost = solver.evals(grid)
        if cost is not None and cost <= nfe:
            best = grid
    return best


def candidates(sde: VPSDE) -> Iterator[tuple[str, Solver, Callable[[int], Grid]]]:
    """The solvers of the table, each with its grid."""
    from scoresde.solvers.ancestral import Ancestral

    yield "ancestral", Ancestral(), lambda n: uniform_lambda(sde, n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--nfe", nargs="+", type=int, default=[20, 50, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="instances")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the samples")
    parser.add_argument("--t-min", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=None, help="write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sde, rows = VPSDE(t_min=args.t_min), []
    for name in args.problems:
        n, batch = int(SAMPLES[name] * args.fraction), BATCH[name]
        for seed in args.seeds:
            model = getattr(problems, name)(sde, seed=seed)
            exact = entropy(model, 4 * n, batch)
            for label, solver, make in candidates(sde):
                for nfe in args.nfe:
                    grid = grid_for(solver, make, nfe)
                    if grid is None:
                        continue
                    value, half, cost = gap(model, solver, grid, exact, n=n, batch=batch)
                    print(f"{name:12} {seed:4} {label:36} {cost:4} {value:+.4f} +- {half:.4f}")
                    rows.append([name, seed, label, cost, value, half])
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
