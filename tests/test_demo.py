"""The demonstration at the smallest size: all files are written and the numbers agree."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde.bench.series import axis_title
from scoresde.cli.demo import Plan, run
from scoresde.likelihood import AccuracyWarning, Hutchinson, Uniform, bits_per_dim, estimate_frame
from scoresde.noise import generator
from scoresde.sampling.start import FirstStepWarning
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
    """Its folder, its report, and the figures by the names of their files."""
    from matplotlib.figure import Figure

    folder, drawn, write = tmp_path_factory.mktemp("demo"), {}, Figure.savefig

    def seen(figure, path, **settings):
        drawn[Path(path).name] = figure
        write(figure, path, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", seen)
        with pytest.warns(AccuracyWarning, match=COARSE):
            report = run(folder, TINY, progress=False)
    return folder, report, drawn


def grey(x):
    """Pixels of digits (..., 28, 28) as a picture shows them, 0 to 255."""
    return (127.5 * (x + 1)).clamp(0, 255).round().numpy()


def test_pictures_show_the_samples(demo):
    """Pixel for pixel: the first digit of each sampler, and the way of the second to it."""
    _, _, drawn = demo
    model = load_pretrained("mnist")
    solvers = [sd.EulerMaruyama(), sd.DDIM()]
    for k, solver in enumerate(solvers):
        grid = sd.uniform_lambda(model.sde, 4)
        x = sd.sample(model, solver, grid, shape=(2, 1, 28, 28), seeds=(5, 6)).x
        picture = drawn["samples.png"].axes[k].images[0].get_array()
        np.testing.assert_allclose(picture[:28, :28, 0], grey(x[0, 0]), atol=1)
        way = drawn["trajectories.png"].axes[k].images[0].get_array()
        # The second of two rows of digits; the last column is the sample itself.
        np.testing.assert_allclose(way[-28:, -28:, 0], grey(x[1, 0]), atol=1)
        start = sd.sample(model, solver, grid, shape=(2, 1, 28, 28), seeds=(5, 6), keep={0})
        start = start.trajectory[0].x[1, 0] / float(grid.knots[0].radius)
        np.testing.assert_allclose(way[-28:, :28, 0], grey(start), atol=1)


def test_curves_show_the_table(demo):
    """Each score stands at its number of evaluations, in the panel of its metric."""
    _, report, drawn = demo
    panels = {axes.get_ylabel(): axes for axes in drawn["steps_quality.png"].axes}
    for metric in ("rms endpoint error", "energy distance"):
        panel = panels[axis_title(report.table, metric)]
        marks = {tuple(point) for line in panel.lines for point in line.get_xydata()}
        cells = [cell for cell in report.table.cells if metric in cell.scores]
        assert len(cells) >= 4
        for cell in cells:
            assert (cell.nfe, cell.scores[metric].value) in marks


def test_report_holds_the_numbers_of_the_library(demo):
    folder, _, drawn = demo
    for name in drawn:
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
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
    assert {**told["standard_errors"], **told["systematic"]} == pytest.approx(
        bits.parts, abs=1e-6, nan_ok=True
    )
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
    _, report, _ = demo
    assert [row["seeds"] for row in report.sampling] == [[5, 6], [5, 6]]
    assert report.sampling[0]["nfe"] == 4
    cell = next(c for c in report.table.cells if c.solver == "DDIM" and c.budget == 2)
    model = load_pretrained("mnist")
    grid = sd.uniform_lambda(model.sde, 2)
    with pytest.warns(FirstStepWarning):  # two steps for the whole process
        truth = sd.sample(model, sd.DDIM(), grid, shape=(2, 1, 28, 28), seeds=(5, 6))
    torch.testing.assert_close(cell.shown, truth.x, rtol=1e-4, atol=1e-4)
