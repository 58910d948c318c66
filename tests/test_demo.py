"""The demonstration at the smallest size: all files are written and the numbers agree."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde.cli.demo import Plan, run
from scoresde.likelihood import AccuracyWarning, Hutchinson, Uniform, bits_per_dim, estimate_frame
from scoresde.noise import generator
from scoresde.training.checkpoint import load_pretrained
from scoresde.training.data import dequantize, heldout_digits

TINY = Plan(
    digits=2,
    samplers=(("Euler-Maruyama", "EulerMaruyama", 4), ("flow", "DDIM", 4)),
    likelihoods=2,
    draws=2,
    nodes=9,
    compared=2,
    tolerance=0.05,
    nfe=(2, 3),
    solvers=("EulerMaruyama", "DDIM", "Heun"),
    seed=5,
)
COARSE = "the integration's error"  # of 9 nodes


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    with pytest.warns(AccuracyWarning, match=COARSE):
        return folder, run(folder, TINY, progress=False)


def test_files(demo):
    from PIL import Image

    folder, _ = demo
    for name in ("samples.png", "trajectories.png", "steps_quality.png"):
        pixels = np.asarray(Image.open(folder / name).convert("RGB"))
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 600
        assert pixels.std() > 20  # something is drawn


def test_report_holds_the_numbers_of_the_library(demo):
    folder, _ = demo
    report = json.loads((folder / "report.json").read_text())
    assert report["plan"]["seed"] == 5
    assert {"torch", "python", "cpus"} <= set(report["environment"])
    assert set(report["seconds"]) == {"sampling", "likelihood", "comparison"}
    model = load_pretrained("mnist")
    images, _ = heldout_digits()
    told = report["likelihood"]
    frame = estimate_frame(dequantize(images[2:], generator(5)))
    with pytest.warns(AccuracyWarning, match=COARSE):
        bits = bits_per_dim(
            model, images[:2], dequantize=Uniform(draws=2), divergence=Hutchinson(2), seeds=5,
            method=told["method"], frame=frame,
        )  # fmt: skip
    assert told["nfe"] == 2 * 9
    assert {**told["standard_errors"], **told["systematic"]} == pytest.approx(bits.parts, abs=1e-6)
    assert told["bits_per_dim"] == pytest.approx(bits.mean, abs=1e-6)
    assert told["stderr"] == pytest.approx(bits.stderr, abs=1e-6)
    cells = report["comparison"]["cells"]
    assert [(c["solver"], c["budget"]) for c in cells] == [
        (s, n) for s in TINY.solvers for n in TINY.nfe
    ]
    assert not any(cell["failed"] for cell in cells)
    ddim = next(c for c in cells if c["solver"] == "DDIM" and c["budget"] == 3)
    assert "rms endpoint error" in ddim["scores"]


def test_samples_are_those_of_their_seeds(demo):
    _, report = demo
    assert [row["seeds"] for row in report.sampling] == [[5, 6], [5, 6]]
    assert report.sampling[0]["nfe"] == 4
    cell = next(c for c in report.table.cells if c.solver == "DDIM" and c.budget == 2)
    model = load_pretrained("mnist")
    truth = sd.sample(
        model, sd.DDIM(), sd.uniform_lambda(model.sde, 2), shape=(2, 1, 28, 28), seeds=(5, 6)
    )
    torch.testing.assert_close(cell.shown, truth.x, rtol=1e-4, atol=1e-4)
