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
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from scoresde import SDE, VPSDE, Grid, problems, uniform_lambda
from scoresde.analytic import GaussianMixture
from scoresde.recommended import recommended
from scoresde.sampling import sample
from scoresde.solvers.ancestral import Ancestral
from scoresde.solvers.base import Solver
from scoresde.solvers.dpmpp_ancestral import DPMSolverPP2SAncestral
from scoresde.solvers.er_sde import ERSDE
from scoresde.solvers.exponential.presets import DPMSolverPP, SASolver
from scoresde.solvers.relay import evaluations
from scoresde.solvers.seeds import SEEDS2, SEEDS3, DPMSolverPPSDE, StochasticHeun

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


Plan = Callable[[int], tuple[Solver, Grid]]


def longest(solver: Solver, make: Callable[[int], Grid]) -> Plan:
    """A solver with its longest grid of at most so many evaluations."""

    def plan(nfe: int) -> tuple[Solver, Grid]:
        n = nfe
        while n > 1 and (evaluations(solver, make(n)) or 0) > nfe:
            n -= 1
        return solver, make(n)

    return plan


def candidates(sde: SDE) -> dict[str, Plan]:
    """The solvers of the table, all with full noise, each with its grid."""
    even = partial(uniform_lambda, sde)
    return {
        "recommended": lambda nfe: recommended(sde, nfe, stochastic=True),
        "Ancestral (DDPM)": longest(Ancestral(), even),
        "DPMSolverPP(2, tau=1)": longest(DPMSolverPP(2, tau=1.0), even),
        "SASolver(3, 4)": longest(SASolver(3, 4, tau=1.0, tau_min=0.0, tau_max=math.inf), even),
        "ERSDE(3, 'sde')": longest(ERSDE(3, "sde"), even),
        "DPMSolverPPSDE": longest(DPMSolverPPSDE(), even),
        "DPMSolverPP2SAncestral": longest(DPMSolverPP2SAncestral(), even),
        "SEEDS2": longest(SEEDS2(), even),
        "SEEDS3": longest(SEEDS3(), even),
        "StochasticHeun": longest(StochasticHeun(), even),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--nfe", nargs="+", type=int, default=[20, 50, 100])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="instances")
    parser.add_argument("--solvers", nargs="+", default=None, help="of the table; all by default")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the samples")
    parser.add_argument("--t-min", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=None, help="write the table as JSON")
    args = parser.parse_args()
    torch.set_num_threads(1)
    sde, rows = VPSDE(t_min=args.t_min), []
    plans = candidates(sde)
    for name in args.problems:
        n, batch = int(SAMPLES[name] * args.fraction), BATCH[name]
        for seed in args.seeds:
            model = getattr(problems, name)(sde, seed=seed)
            exact = entropy(model, 4 * n, batch)
            for label in args.solvers or plans:
                for nfe in args.nfe:
                    solver, grid = plans[label](nfe)
                    value, half, cost = gap(model, solver, grid, exact, n=n, batch=min(n, batch))
                    print(
                        f"{name:12} {seed:4} {label:24} {cost:4} {value:+.4f} +- {half:.4f}",
                        flush=True,
                    )
                    rows.append(
                        {
                            "problem": name,
                            "instance": seed,
                            "solver": label,
                            "nfe": cost,
                            "gap": value,
                            "half_interval": half,
                            "samples": n,
                        }
                    )
    if args.out is not None:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
