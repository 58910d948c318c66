"""What pictures show: which rows stand out, their colours and names, and the limits of axes."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Text
from torch import nn

from scoresde import VPSDE, ScoreModel
from scoresde._internal.labels import LONGEST, model_name, of_rows, short
from scoresde.bench import Against, Cell, Setup, Starts, Table, compare, figures, plane, write
from scoresde.bench import curves as curves_module
from scoresde.bench.series import GREY, PALETTE, highlighted, pareto
from scoresde.cli import work
from scoresde.errors import ConfigError, ShapeError
from scoresde.exact import Covariance, Gaussian
from scoresde.exact.problems import ring8
from scoresde.guidance import CFG
from scoresde.metrics import Estimate
from scoresde.sampling import recommended
from scoresde.sampling.jobs import SampleFolder
from scoresde.sampling.run import sample

SDE = VPSDE()


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they are written."""
    seen = []

    def keep(figure, path):
        figure.draw_without_rendering()
        seen.append(figure)

    for module in (curves_module, plane, figures):
        monkeypatch.setattr(module, "save", keep)
    return seen


# -- labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "label"),
    [
        ("recommended", "recommended"),
        ("recommended(stochastic=True)", "recommended stochastic"),
        ("DPMSolverPP(order=3)", "DPM++(3M)"),
        ("dpmsolverpp", "DPM++(2M)"),
        ("DPMSolverPP(order=2, tau=1.0)", "DPM++(2M) SDE"),
        ("DPMSolver(order=3)", "DPM-Solver-3"),
        ("UniPC", "UniPC-3"),
        ("UniPC(2)", "UniPC-2"),
        ("DDIM(eta=0.5)", "DDIM eta 0.5"),
        ("ProbabilityFlow(backend=TorchDiffEq(rtol=1e-3, atol=1e-3))", "ProbabilityFlow"),
        ("VPSDE(t_min=1e-4)", "VPSDE t_min 0.0001"),
        ("diffusers DPM++2M karras", "diffusers DPM++2M karras"),
        ("tuned (ring8)", "tuned (ring8)"),
        ("UniPC bh2-4 uniform lambda, order kept to the end", "UniPC bh2-4 uniform lambda..."),
        ("x" * 5000, "x" * (LONGEST - 3) + "..."),
        ("Broken(", "Broken("),
    ],
)
def test_a_label_is_short_and_says_what_the_field_says(spec, label):
    assert short(spec) == label
    assert len(label) <= LONGEST


def test_a_solver_without_a_published_name_has_a_short_label_too():
    assert short(recommended(ring8(SDE), 20)[0]) == "multistep-4 in v"
    assert short(recommended(ring8(SDE), 20, stochastic=True)[0]) == "multistep-3 in v SDE"


def test_labels_that_would_be_the_same_stay_apart():
    rows = [
        ("Flow(a)", "", "ProbabilityFlow(backend=TorchDiffEq(rtol=1e-3))", ""),
        ("Flow(b)", "", "ProbabilityFlow(backend=TorchDiffEq(rtol=1e-5))", ""),
        ("VP: UniPC, karras", "VP", "UniPC", "karras"),
    ]
    assert of_rows(rows) == {
        "Flow(a)": "Flow(a)", "Flow(b)": "Flow(b)", "VP: UniPC, karras": "VP: UniPC-3, karras"
    }  # fmt: skip


def test_a_model_is_called_by_its_network():
    net = nn.Conv2d(1, 1, 1)
    model = ScoreModel(net, SDE, predicts="eps", time="t")
    assert model_name(model) == "Conv2d"
    assert model_name(CFG.pair(model, model, scale=2.0)) == "CFG(Conv2d)"
    assert model_name(ring8(SDE)) == "GaussianMixture"


# -- which rows stand out ------------------------------------------------------------------------


def cells(solver, values, *, half=0.2, **kw):
    """A row: one value a budget of 5, 10, 20."""
    return [
        Cell(solver, "g", n, nfe=n, seconds=n / 10, **kw,
             scores={"error": Estimate(v, v * (1 - half), v * (1 + half))})
        for n, v in zip((5, 10, 20), values, strict=True)
    ]  # fmt: skip


@pytest.fixture
def many():
    """Nine rows; of the names, DDIM and recommended are last and neither is ahead."""
    rows = [*cells("Early", (0.01, 0.5, 0.5)), *cells("Middle", (0.5, 0.005, 0.4))]
    rows += [*cells("Late", (0.9, 0.8, 0.001)), *cells("Second", (0.8, 0.8, 0.002))]
    for k in range(4):
        rows += cells(f"Dull{k}", (0.9 + k, 0.8 + k, 0.7 + k))
    rows += [*cells("DDIM", (5.0, 4.0, 3.0)), *cells("recommended", (0.3, 0.3, 0.3))]
    setup = Setup({"": {}}, 4, 0, "float32", floor={"error": Estimate(3e-4, 2e-4, 4e-4)})
    return Table(tuple(rows), setup)


def test_five_rows_stand_out_the_known_ones_and_the_best_first(many):
    assert highlighted(many) == ["recommended", "DDIM", "Late", "Early", "Middle"]
    assert highlighted(Table(many.cells[:6], many.setup)) == ["Middle", "Early"]
    # One evaluation left unused is no lead at a lower cost.
    odd = [Cell("Odd", "g", 5, nfe=4, scores={"error": Estimate(9.0, 8.0, 10.0)})]
    assert "Odd" not in highlighted(Table((*odd, *many.cells), many.setup))


def test_the_front_is_what_nothing_cheaper_surpasses():
    assert pareto([5, 1, 9, 1], [3.0, 2.0, 1.0, 4.0], "lower") == [1, 2]
    assert pareto([5, 1, 9, 1], [3.0, 2.0, 1.0, 4.0], "higher") == [3]
    assert pareto([1, 2, 3], [-2.0, 1.0, -0.5], "zero") == [0, 1, 2]


# -- steps against quality -----------------------------------------------------------------------


def test_five_lines_are_coloured_labelled_and_whole_and_the_rest_is_thin_and_grey(many, drawn):
    figures.steps_quality(many, "-")
    (axes,) = drawn[0].axes
    bright = highlighted(many)
    bars = {c.get_label(): c for c in axes.containers}
    assert {label: to_hex(c[0].get_color()).upper() for label, c in bars.items()} == dict(
        zip(bright, PALETTE, strict=True)
    )
    grey = [line for line in axes.lines if to_hex(line.get_color()).upper() == GREY]
    assert {line.get_label() for line in grey} == {"Second", *(f"Dull{k}" for k in range(4))}
    assert all(line.get_linewidth() < 1 < bars["DDIM"][0].get_linewidth() for line in grey)
    # One label at the end of each coloured line, right of it and apart from the others.
    texts = [t for t in axes.texts if t.get_text() in bright]
    assert sorted(t.get_text() for t in texts) == sorted(bright)
    boxes = [Text.get_window_extent(t) for t in texts]  # without the leader
    edge = axes.transData.transform((20, 1))[0]
    assert all(box.x0 > edge and box.x1 <= axes.bbox.x1 + 1 for box in boxes)
    boxes.sort(key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 2 for a, b in pairwise(boxes))
    assert axes.get_ylabel() == "error (lower is better)"
    assert drawn[0].get_supxlabel() == "grey: Second, Dull0, Dull1, Dull2, Dull3"
    assert len(set(PALETTE)) == len(bright) == 5


def test_axes_hold_every_interval(many, drawn):
    wide = Cell("Wide", "g", 20, nfe=20, scores={"error": Estimate(0.1, 1e-6, 500.0)})
    figures.steps_quality(Table((*many.cells, wide), many.setup), "-")
    low, high = drawn[0].axes[0].get_ylim()
    assert low < 1e-6 < 500.0 < high
    below = Cell("Below", "g", 20, nfe=20, scores={"error": Estimate(-0.01, -7.0, 6.0)})
    figures.steps_quality(Table((*many.cells, below), many.setup), "-")
    axes = drawn[1].axes[0]
    low, high = axes.get_ylim()
    assert low < -7.0 < 6.0 < high
    assert axes.get_yscale() == "symlog"


def test_a_row_of_its_own_steps_is_a_point_with_its_name(many, drawn):
    alone = Cell("GottaGoFast", "", None, nfe=80, scores={"error": Estimate(0.4, 0.3, 0.5)})
    figures.steps_quality(Table((*many.cells, alone), many.setup), "-")
    (axes,) = drawn[0].axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["5", "10", "20", "80"]
    assert "GottaGoFast" in [t.get_text() for t in axes.texts]


# -- the page ------------------------------------------------------------------------------------


def test_the_page_has_the_colours_of_the_png_and_says_what_its_marks_mean(many, tmp_path):
    write(many, tmp_path)
    text = (tmp_path / "report.html").read_text()
    light, dark = text.partition("@media (prefers-color-scheme: dark) { svg .top0")[::2]
    for rank, color in enumerate(PALETTE):
        assert f"svg .top{rank} *, svg.top{rank} * {{ stroke: {color}; fill: {color}; }}" in light
        assert f"top{rank} * {{ stroke" in dark
    assert f"svg .rest *, svg.rest * {{ stroke: {GREY}; fill: {GREY}; }}" in text
    groups = re.findall(r'<g class="s(\d+) (\w+)">', text.partition("</svg>\n<svg viewBox=")[0])
    labels = list(many.short_labels())
    where = {labels[int(k)]: look for k, look in groups}
    assert [where[label] for label in highlighted(many)] == [f"top{k}" for k in range(5)]
    assert {look for label, look in where.items() if label not in highlighted(many)} == {"rest"}
    assert "The wide grey band is the Pareto front" in text
    assert 'rotate(-90)" text-anchor="middle">error (lower is better)</text>' in text
    assert "Nothing to draw here: only images" in text  # these cells have no samples


def test_bars_on_the_page_are_whole(many):
    from scoresde.bench.svg import Point, plot

    marks = [Point(1.0, Estimate(1.0, 0.01, 50.0), "p"), Point(2.0, Estimate(1.0, -3.0, 2.0), "p")]
    bars = re.findall(r'class="bar".*?y1="([\d.]+)" y2="([\d.]+)"', plot({"a": marks}, x_label="x",
                                                                        y_label="y"))  # fmt: skip
    (first, second) = [tuple(map(float, bar)) for bar in bars]
    # The whole height, but for the room at the ends (a factor of 1.25 on an axis of 5000).
    assert first[1] == pytest.approx(
        14 + (360 - 48 - 14) * math.log(1.25) / math.log(7812.5), abs=1
    )
    assert first[0] == pytest.approx(312 - (298) * math.log(1.25) / math.log(7812.5), abs=1)
    assert second[0] == 312  # reaches below 0: down to the edge


def test_the_report_of_python_names_the_model(tmp_path):
    model = ring8(SDE)
    table = compare(model, "DDIM", nfe=3, metric="rms", starts=Starts(4))
    write(table, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert text.startswith("# Steps against quality: GaussianMixture\n")
    assert "- Model: GaussianMixture, " in text
    write(table, tmp_path, given={"model": "my ring"})
    assert "<h1>Steps against quality: my ring</h1>" in (tmp_path / "report.html").read_text()


# -- the plane -----------------------------------------------------------------------------------


def test_a_scatter_shows_every_point_but_those_astray(drawn):
    x = torch.randn(2000, 2, generator=torch.Generator().manual_seed(0)) * 3 + 10
    x[0], x[1] = torch.tensor([1e6, 0.0]), torch.tensor([math.nan, 0.0])
    figures.scatter(x, "-", title="ring, 20 NFE")
    figures.scatter({"a": x[2:], "b": x[2:] - 30}, "-", truth=x[2:])
    (axes,) = drawn[0].axes
    offsets = axes.collections[0].get_offsets()
    np.testing.assert_allclose(np.asarray(offsets)[2:], x[2:].numpy(), rtol=1e-6)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    good = x[2:]
    assert left < good[:, 0].min() < good[:, 0].max() < right < 40
    assert bottom < good[:, 1].min() < good[:, 1].max() < top
    assert right - left == pytest.approx(top - bottom)
    assert axes.get_title() == "ring, 20 NFE"
    assert [t.get_text() for t in axes.texts] == ["2 of 2000 outside or not finite"]
    assert [a.get_title() for a in drawn[1].axes] == ["a", "b"]
    assert drawn[1].axes[0].get_xlim() == drawn[1].axes[1].get_xlim()
    grey, blue = drawn[1].axes[1].collections
    assert to_hex(grey.get_facecolor()[0]).upper() == GREY
    assert to_hex(blue.get_facecolor()[0]).upper() == PALETTE[0]
    with pytest.raises(ShapeError, match=r"shape \(B, 2\), got \(4, 3\)"):
        figures.scatter(torch.zeros(4, 3), "-")


@pytest.mark.parametrize("closed", [True, False])
def test_a_map_has_the_density_of_every_point(drawn, closed):
    sde = VPSDE(t_min=1e-4)
    cov = torch.tensor([[0.3, 0.1], [0.1, 0.2]], dtype=torch.float64)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    exact = Gaussian(sde, mean, Covariance.full(cov[None]))
    model = exact
    if not closed:
        model = ScoreModel(
            lambda x, t: exact(x, sde.at(t, like=x)).eps, sde, predicts="eps", time="t"
        )
    x = exact.sample(500, seed=1)
    figures.log_density_map(model, "-", samples=x, side=7, depth=9.0)
    axes, bar = drawn[0].axes
    mesh = axes.collections[0]
    values = np.asarray(mesh.get_array()).reshape(7, 7)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    across, up = torch.linspace(left, right, 7), torch.linspace(bottom, top, 7)
    law = torch.distributions.MultivariateNormal(mean, cov)
    for row, col in ((0, 0), (3, 3), (5, 1), (1, 5)):  # rows go up, columns go right
        want = float(law.log_prob(torch.stack([across[col], up[row]]).double()))
        assert values[row, col] == pytest.approx(want, rel=1e-6 if closed else 0.01)
    assert mesh.norm.vmax - mesh.norm.vmin == pytest.approx(9.0)
    assert bar.get_ylabel() == r"$\log p(x)$, nats"
    points = np.asarray(axes.collections[1].get_offsets())
    np.testing.assert_allclose(points, x.numpy(), rtol=1e-6)


def test_a_map_of_what_is_no_plane_is_refused():
    solid = Gaussian(SDE, torch.zeros(3), Covariance.isotropic(1.0))
    with pytest.raises(ShapeError, match=r"models of shape \(2,\), got one of shape \(3,\)"):
        figures.log_density_map(solid, "-")
    flat = Gaussian(SDE, torch.zeros(2), Covariance.isotropic(1.0))
    with pytest.raises(ConfigError, match="side=1"):
        figures.log_density_map(flat, "-", side=1)


def test_the_report_of_a_plane_has_a_picture_of_samples(tmp_path, drawn, monkeypatch):
    model = ring8(SDE)
    table = compare(model, ["recommended", "DDIM"], nfe=(3, 6), metric="energy",
                    against=Against(model.sample(40, seed=1)), starts=Starts(8))  # fmt: skip
    write(table, tmp_path)
    titles = [axes.get_title() for axes in drawn[-1].axes]
    assert titles == ["recommended, 6 NFE", "DDIM, 6 NFE"]
    cell = next(c for c in table.cells if c.solver == "DDIM" and c.budget == 6)
    shown = np.asarray(drawn[-1].axes[1].collections[0].get_offsets())
    np.testing.assert_allclose(shown, cell.shown.numpy(), rtol=1e-6)


# -- the command and progress bars ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "title"),
    [
        ("recommended", "recommended, 6 NFE"),
        ("DPMSolverPP(order=2, tau=1.0)", "DPM++(2M) SDE, 6 NFE"),
    ],
)
def test_the_command_draws_samples_of_the_plane_under_a_short_title(drawn, tmp_path, solver, title):
    work.sample(
        model="ring8(seed=3)", out=tmp_path, n=7, solver=solver, grid="", nfe=6, seed=0,
        batch_size=3, dtype="float64", event_shape="", process="", device="cpu",
    )  # fmt: skip
    points, density = drawn
    assert points.axes[0].get_title() == title
    kept = SampleFolder.open(tmp_path).samples().numpy()
    np.testing.assert_allclose(np.asarray(points.axes[0].collections[0].get_offsets()), kept)
    on_top = np.asarray(density.axes[0].collections[1].get_offsets())
    np.testing.assert_allclose(on_top, kept)


def test_a_progress_bar_has_a_short_label(capsys):
    model = ring8(SDE)
    sample(model, "DPMSolverPP(order=3)", nfe=4, shape=(2, 2), progress=True)
    sample(model, nfe=15, shape=(2, 2), progress=True)
    said = capsys.readouterr().err
    assert "DPM++(3M):" in said
    assert "multistep-4 in v:" in said
