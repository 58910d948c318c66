"""`compare`: budgets, references, stored cells and reports of failures."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde._internal import specs
from scoresde.bench import (
    Against,
    Cell,
    Setup,
    Starts,
    StoreWarning,
    Table,
    compare,
    grid_for,
    solve_reference,
    write,
)
from scoresde.bench.memory import peak_memory
from scoresde.bench.runner import Job
from scoresde.errors import ConfigError, FingerprintError, ScoreSDEError, ShapeError
from scoresde.exact.problems import ring8
from scoresde.metrics import (
    EndpointError,
    Estimate,
    ModeWeights,
    SlicedWasserstein,
    density_coverage,
    endpoint_errors,
    energy_distance,
    frechet_distance,
    kernel_distance,
    mmd,
    precision_recall,
    wasserstein2,
)
from scoresde.solvers import Heun, PredictorCorrector, ProbabilityFlow, evaluations
from scoresde.tune import tune

SDE = sd.VPSDE(t_min=1e-5)


def gaussian() -> sd.Gaussian:
    return sd.Gaussian(
        SDE, torch.tensor([0.3, -0.2]), sd.Covariance.diagonal(torch.tensor([[0.04, 0.5]]))
    )


def mixture() -> sd.GaussianMixture:
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    return sd.GaussianMixture(SDE, means, sd.Covariance.isotropic(0.04), [0.3, 0.7])


@pytest.mark.parametrize(
    ("solver", "nfe", "cost"),
    [
        (sd.DDIM(), 7, 7),
        (Heun(), 9, 9),
        (Heun(), 10, 9),
        (Heun(), 1, 1),
        (sd.DPMSolver(3), 6, 4),  # and not 7, which is nearer
        (PredictorCorrector(), 7, 6),
    ],
)
def test_the_most_within_a_budget(solver, nfe, cost):
    grid = grid_for(solver, sd.uniform_lambda, SDE, nfe)
    assert evaluations(solver, grid) == cost
    counted = sd.sample(mixture(), solver, grid, shape=(2, 2))
    assert counted.nfe.tolist() == [cost, cost]


def test_budgets_that_make_no_sense():
    with pytest.raises(ConfigError, match="1 or more"):
        grid_for(sd.DDIM(), sd.uniform_lambda, SDE, 0)
    with pytest.raises(ConfigError, match="chooses its own steps"):
        grid_for(ProbabilityFlow(), sd.uniform_lambda, SDE, 10)
    with pytest.raises(ConfigError, match="the shortest takes 2; write nfe=2"):
        grid_for(PredictorCorrector(), sd.uniform_lambda, SDE, 1)


def test_reference_is_the_exact_flow():
    model = gaussian()
    x = SDE.prior_sample(sd.SampleSeeds(tuple(range(8))).open((8, 2), torch.float64))
    reference = solve_reference(model, x, rtol=1e-9)
    truth = model.flow(x, SDE.at(SDE.t_max), SDE.clean)
    error = float(endpoint_errors(reference.x, truth).max())
    assert error < 1e-8
    assert error <= reference.accuracy < 1e-6  # the statement is an upper bound, and not idle


def test_compare_measures_the_errors_that_the_exact_flow_gives():
    model = gaussian()
    table = compare(model, [sd.DDIM()], nfe=[4, 8], starts=Starts(16, dtype=torch.float64))
    x = SDE.prior_sample(sd.SampleSeeds(tuple(range(16))).open((16, 2), torch.float64))
    truth = model.flow(x, SDE.at(SDE.t_max), SDE.clean)
    for cell in table.cells:
        out = sd.sample(model, sd.DDIM(), sd.uniform_lambda(SDE, cell.budget), x=x)
        errors = endpoint_errors(out.x, truth)
        rms = float(errors.square().mean().sqrt())
        assert cell.scores["rms endpoint error"].value == pytest.approx(rms, rel=1e-6)
        assert cell.scores["median endpoint error"].value == pytest.approx(
            float(np.median(errors)), rel=1e-6
        )
        assert (cell.nfe, cell.steps) == (cell.budget, cell.budget)


def test_stochastic_solvers_are_judged_by_distribution_alone():
    solvers = ["EulerMaruyama", "DDIM", ProbabilityFlow()]
    table = compare(mixture(), solvers, nfe=[5], starts=Starts(50))
    by_name = {cell.solver: cell for cell in table.cells}
    assert set(by_name["EulerMaruyama"].scores) == {"energy distance", "NLL gap"}
    assert "rms endpoint error" in by_name["DDIM"].scores
    own = by_name["ProbabilityFlow"]
    assert own.budget is None
    assert own.nfe > 20
    assert own.scores["rms endpoint error"].value < 1e-3
    assert "energy distance" in table.setup.floor
    text = str(table)
    assert "solvers that choose their steps" in text
    assert "true samples" in text


def test_several_grids_and_the_best_cell():
    table = compare(
        mixture(), ["DDIM"], nfe=[6, 12], grids=["uniform_lambda", "uniform_t"], starts=Starts(32)
    )
    assert len(table.cells) == 4
    best = table.best(12)
    assert best.scores["rms endpoint error"].value == min(
        c.scores["rms endpoint error"].value for c in table.cells if c.budget == 12
    )
    assert "DDIM, uniform_t" in table.markdown()
    assert table.markdown().count("**") == 4  # one bold value a budget
    with pytest.raises(ConfigError, match="unknown metric"):
        table.markdown("FID")


class Poisoned(sd.GaussianMixture):
    """Not finite near the end of a fine grid."""

    def __call__(self, x, knot):
        prediction = super().__call__(x, knot)
        if 0.01 < knot.rho < 0.012:
            return prediction.replace(prediction.raw * torch.nan)
        return prediction


def test_a_cell_that_fails_is_reported_and_the_others_go_on():
    model = mixture()
    x = model.sample(200, seed=0, dtype=torch.float32)
    model.__class__ = Poisoned
    table = compare(model, ["DDIM"], nfe=[4, 200], starts=Starts(8), metric=SlicedWasserstein(x))
    good, bad = table.cells
    assert not good.failed
    assert "not finite" in bad.failed
    assert "step" in bad.failed
    assert "Failed: DDIM at 200" in str(table)


def test_cells_are_kept_and_only_new_ones_are_computed(tmp_path, monkeypatch):
    first = compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), cache=tmp_path)
    ran = []
    real = Job._run
    monkeypatch.setattr(Job, "_run", lambda job, task: ran.append(task) or real(job, task))
    again = compare(mixture(), ["DDIM", "Heun"], nfe=[4], starts=Starts(8), cache=tmp_path)
    assert [task.cell.solver for task in ran] == ["Heun"]
    assert again.cells[0].to_dict() == first.cells[0].to_dict()
    assert torch.equal(again.cells[0].shown, first.cells[0].shown)
    other = sd.GaussianMixture(
        SDE, mixture().means + 1e-3, sd.Covariance.isotropic(0.04), [0.3, 0.7]
    )
    compare(other, ["DDIM"], nfe=[4], starts=Starts(8), cache=tmp_path)
    assert len(ran) == 2  # another model shares nothing
    compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), cache=tmp_path, metric=["mmd", "rms"])
    assert len(ran) == 2  # another metric runs nothing
    for file in (*tmp_path.glob("*.npz"), *tmp_path.glob("*.json")):
        file.write_text("{ broken")
    with pytest.warns(StoreWarning, match="computed again"):
        mended = compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), cache=tmp_path)
    assert len(ran) == 3
    assert mended.cells[0].scores == first.cells[0].scores
    (file := tmp_path / "a").touch()
    with pytest.raises(ConfigError, match="cannot write to"):
        compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), cache=file)


def test_a_score_with_a_flipped_digit_is_computed_again(tmp_path):
    first = compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), cache=tmp_path)
    for file in tmp_path.glob("*.json"):
        file.write_text(file.read_text().replace("1", "2"))
    with pytest.warns(StoreWarning, match="damaged"):
        again = compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), cache=tmp_path)
    assert again.cells[0].scores == first.cells[0].scores


def test_a_model_without_a_fingerprint_needs_a_name_where_cells_are_kept(tmp_path):
    model = mixture()
    model.lock = threading.Lock()
    settings = {"nfe": [4], "starts": Starts(8), "metric": "energy"}
    with pytest.raises(FingerprintError, match=r"lock.*write key="):
        compare(model, ["DDIM"], cache=tmp_path, **settings)
    table = compare(model, ["DDIM"], **settings)
    assert table.setup.models[""]["model"] == "unknown"
    named = compare(model, ["DDIM"], cache=tmp_path, key="a", **settings)
    assert named.cells[0].scores == table.cells[0].scores
    before = len(list(tmp_path.glob("*.npz")))
    compare(model, ["DDIM"], cache=tmp_path, key="a", **settings)
    assert len(list(tmp_path.glob("*.npz"))) == before
    compare(model, ["DDIM"], cache=tmp_path, key="b", **settings)
    assert len(list(tmp_path.glob("*.npz"))) > before


class Counting(sd.GaussianMixture):
    """Counts evaluations, and stops at one of them as Ctrl-C does."""

    seen: ClassVar = 0  # a part of its fingerprint, so that a cache needs a name: key=
    stop: ClassVar = -1

    def __call__(self, x, knot):
        Counting.seen += 1
        if Counting.seen == Counting.stop:
            raise KeyboardInterrupt
        return super().__call__(x, knot)


def test_a_finished_job_is_read_without_an_evaluation(tmp_path):
    model = mixture()
    model.__class__ = Counting
    Counting.seen, Counting.stop = 0, -1

    def again(solvers, **settings):
        before = Counting.seen
        compare(model, solvers, nfe=[4], starts=Starts(8), cache=tmp_path, key="x", **settings)
        return Counting.seen - before

    assert again(["DDIM"]) > 100  # references, the exact path
    assert again(["DDIM"]) == 0
    assert again(["DDIM"], metric=["rms", "mmd"]) == 0
    assert again(["DDIM", "UniPC"]) == 4


def test_a_stop_tells_how_far_it_came(tmp_path):
    model = mixture()
    model.__class__ = Counting
    Counting.seen, Counting.stop = 0, -1
    settings = {"nfe": [4, 6], "starts": Starts(8), "metric": "energy", "key": "x"}
    compare(model, ["DDIM"], **settings, cache=tmp_path)
    Counting.stop = Counting.seen + 3
    with pytest.raises(KeyboardInterrupt) as stop:
        compare(model, ["DDIM", "UniPC"], **settings, cache=tmp_path)
    assert stop.value.__notes__ == ["2 of 4 cells done"]


def test_edited_code_is_run_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its times are in whole seconds

    def value(factor):
        (tmp_path / "own.py").write_text(
            "import scoresde as sd\n"
            "class Own(sd.Solver):\n"
            "    order = 1\n"
            "    def step(self, model, x, t, s, carry, noise):\n"
            f"        return {factor} * model(x, t).x0, None\n"
        )
        for name in [name for name in sys.modules if name.startswith("own")]:
            del sys.modules[name]
        solver = specs.solver(f"{tmp_path}/own.py:Own", own=True)
        table = compare(mixture(), solver, nfe=4, starts=Starts(8), cache=tmp_path / "cells")
        return table.cells[0].scores["rms endpoint error"].value

    first = value(1.0)
    assert value(0.5) != first
    assert value(1.0) == first


class Torn(sd.GaussianMixture):
    """Not finite late on the way of samples that end on the far right."""

    def __call__(self, x, knot):
        prediction = super().__call__(x, knot)
        torn = (x[:, :1] > 1.2) & (knot.rho < 0.5)
        return prediction.replace(torch.where(torn, torch.nan, prediction.raw))


def test_samples_without_a_reference_are_left_out_and_counted(recwarn):
    model = mixture()
    whole = compare(model, ["DDIM"], nfe=[4], starts=Starts(16, dtype=torch.float64)).cells[0]
    model.__class__ = Torn
    table = compare(model, ["DDIM", "UniPC"], nfe=[4, 12], starts=Starts(16, dtype=torch.float64))
    missing = table.setup.models[""]["reference"]["missing"]
    assert 0 < missing < 16
    note = f"The reference endpoint of {missing} of 16 samples is not finite: endpoint errors"
    assert [str(w.message).startswith(note) for w in recwarn] == [True]
    assert note in str(table)
    cell = table.cells[0]
    assert not cell.failed
    x = SDE.prior_sample(sd.SampleSeeds(tuple(range(16))).open((16, 2), torch.float64))
    truth = solve_reference(mixture(), x, rtol=1e-9).x
    out = sd.sample(mixture(), sd.DDIM(), sd.uniform_lambda(SDE, 4), x=x)
    kept = ~solve_reference(model, x, rtol=1e-9, partial=True).x.isnan().any(1)
    rms = float(endpoint_errors(out.x, truth)[kept].square().mean().sqrt())
    assert cell.scores["rms endpoint error"].value == pytest.approx(rms, rel=1e-6)
    assert cell.scores["energy distance"] == whole.scores["energy distance"]
    failed = [c for c in table.cells if c.failed]
    assert "of 16 samples are not finite" in failed[0].failed
    assert str(table).count("samples are not finite") == 1 < len(failed)


def test_features_that_raise_are_one_line():
    def broken(x):
        raise RuntimeError("boom\nfrom afar")

    words = (
        r"features .*broken failed on 2000 samples of shape \(2,\): RuntimeError: boom from afar"
    )
    with pytest.raises(ConfigError, match=words) as told:
        compare(
            mixture(),
            ["DDIM"],
            nfe=[4],
            starts=Starts(8),
            metric="frechet",
            against=Against(features=broken),
        )
    assert isinstance(told.value.__cause__, RuntimeError)


def test_table_as_data():
    table = compare(mixture(), ["DDIM", "EulerMaruyama"], nfe=[4], starts=Starts(8))
    data = json.loads(json.dumps(table.to_dict()))
    assert data["setup"]["samples"] == 8
    assert data["cells"][0]["solver"] == "DDIM"
    assert table.csv().startswith("solver,grid,process,budget,nfe")
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    told = [
        (r["solver"], r["metric"], *(float(r[k]) for k in ("value", "low", "high"))) for r in rows
    ]
    scores = [(c.solver, name, *s[:3]) for c in table.cells for name, s in c.scores.items()]
    assert told == scores
    stored = [(c["solver"], name, *s) for c in data["cells"] for name, s in c["scores"].items()]
    assert stored == scores


def test_nothing_to_measure_is_said():
    model = sd.ScoreModel(lambda x, t: x, SDE, time="t")
    with pytest.raises(ConfigError, match="truth=images"):
        compare(model, ["EulerMaruyama"], nfe=[4], starts=Starts(event_shape=(2,)))
    with pytest.raises(ConfigError, match="shape of a sample is not known"):
        compare(model, ["DDIM"], nfe=[4])


@pytest.mark.parametrize(
    ("solvers", "settings", "says"),
    [
        ("recommended", {"grids": "karras"}, "has its own .* leave grids out"),
        ("ProbabilityFlow", {"grids": ["uniform_lambda"]}, "leave grids out"),
        ("EulerMaruyama", {"against": Against(tolerance=1e-3)}, "tolerance=0.001 is for reference"),
        ("DDIM", {"metric": "energy", "against": Against(tolerance=1e-3)}, "leave it out, or add"),
        ("DDIM", {"metric": "rms", "against": Against(features=abs)}, "no metric here uses them"),
        ("DDIM", {"against": torch.zeros(8, 2)}, r"write against=Against\(truth=images\)"),
        ("DDIM", {"starts": 64}, r"write starts=Starts\(64\)"),
    ],
)
def test_what_nothing_would_use_is_refused(solvers, settings, says):
    with pytest.raises(ConfigError, match=says):
        compare(mixture(), solvers, nfe=[4], **settings)


@pytest.mark.parametrize("judge", ["compare", "tune", "sample_many"])
def test_a_batch_shape_given_as_event_shape_is_named(judge, tmp_path):
    """A network that takes (B, 2) is not run with (B, 64, 3), and no raw RuntimeError appears."""
    linear = torch.nn.Linear(2, 2)
    net = sd.ScoreModel(
        lambda x, t: linear(x), sd.VPSDE(), time=sd.ScaledTime(1.0), net_dtype=torch.float32
    )
    run = {
        "compare": lambda model, event: compare(
            model, ["DDIM"], nfe=[4], starts=Starts(event_shape=event)
        ),
        "tune": lambda model, event: tune(model, "DDIM", 4, event_shape=event),
        "sample_many": lambda model, event: sd.sample_many(
            model, "DDIM", sd.uniform_lambda(model.sde, 2), tmp_path, event_shape=event,
            seeds=range(2),
        ),
    }[judge]  # fmt: skip
    with pytest.raises(ShapeError, match=r"event_shape=\(64, 3\).*without the batch"):
        run(net, (64, 3))
    with pytest.raises(ShapeError, match=r"event_shape has no batch in it; write event_shape=\(2,"):
        run(mixture(), (64, 2))


def test_endpoints_from_another_start_are_not_compared():
    def late(sde, n):
        return sd.uniform_lambda(sde, n, t_max=0.9)

    reference = EndpointError(torch.zeros(8, 2))
    cell = compare(
        mixture(), ["DDIM"], nfe=[4], grids=[late], starts=Starts(8), metric=reference
    ).cells[0]
    assert cell.scores == {}


# -- rows, metrics and processes ----------------------------------------------------------------


@dataclass(frozen=True)
class Other:
    """A sampler of another library, for the test: one Euler step a knot."""

    name: str = "other Euler"
    package: str = "other"
    version: str = "1.0"
    kind: str = "deterministic"

    def run(self, model, nfe, x, seed=0):
        if nfe > 50:
            raise ValueError("no more than\n50 steps")
        return sd.sample(model, sd.DDIM(), sd.uniform_lambda(model.sde, nfe), x=x).x, nfe


def test_peers_are_rows_of_the_same_run():
    table = compare(mixture(), ["DDIM", Other()], nfe=[4, 60], starts=Starts(8))
    table = replace(table, setup=replace(table.setup, absent={"azula": "pip install azula"}))
    ours, _, theirs, failed = table.cells
    assert theirs.scores["rms endpoint error"][:3] == ours.scores["rms endpoint error"][:3]
    assert (theirs.nfe, theirs.grid) == (4, "its own")
    assert failed.failed == "ValueError: no more than 50 steps"
    assert "Not installed: azula" in str(table)
    assert table.to_dict()["setup"]["absent"] == {"azula": "pip install azula"}
    for row, hint in ((3, "neither a solver"), (sd.DDIM, r"write DDIM\(\)")):
        with pytest.raises(ConfigError, match=hint):
            compare(mixture(), [row], nfe=[4])
    with pytest.raises(ConfigError, match=r"load_pretrained\('ring8'\), or ring8\(VPSDE\(\)\)"):
        compare("ring8", ["DDIM"], nfe=[4])
    for wrong in (0, 2.5, True, [5, 0]):
        with pytest.raises(ConfigError, match="a whole number of evaluations, 1 or more, got"):
            compare(mixture(), "DDIM", nfe=wrong)


def test_rows_that_nothing_measures_are_named():
    text = str(
        compare(mixture(), ["DDIM", "EulerMaruyama"], nfe=[4], metric="rms", starts=Starts(8))
    )
    assert "Not measured: EulerMaruyama. " in text
    assert "EulerMaruyama |" not in text
    text = str(
        compare(mixture(), ["DDIM", "EulerMaruyama"], nfe=[4], metric="energy", starts=Starts(8))
    )
    assert "Not measured" not in text


def test_one_of_each_needs_no_list():
    one = compare(mixture(), sd.DDIM(), nfe=4, grids="uniform_t", starts=Starts(4))
    several = compare(mixture(), [sd.DDIM()], nfe=[4], grids=["uniform_t"], starts=Starts(4))
    assert len(one.cells) == 1
    assert one.cells[0].scores == several.cells[0].scores


def test_processes_side_by_side():
    means, spread = torch.tensor([[-1.0, 0.5], [1.0, -0.5]]), sd.Covariance.isotropic(0.04)
    models = {
        name: sd.GaussianMixture(sde, means, spread, [0.3, 0.7])
        for name, sde in (("VP", SDE), ("EDM", sd.EDMSDE()))
    }
    table = compare(models, ["DDIM"], nfe=[6], starts=Starts(16))
    assert [table.label(cell) for cell in table.cells] == ["VP: DDIM", "EDM: DDIM"]
    for name, cell in zip(models, table.cells, strict=True):
        alone = compare(models[name], ["DDIM"], nfe=[6], starts=Starts(16))
        assert cell.scores == alone.cells[0].scores
    assert set(table.setup.models) == {"VP", "EDM"}


def test_measures_by_name_and_what_they_lack():
    def features(x):
        return torch.cat([x, x.square()], 1).double()

    truth, count = mixture().sample(50, seed=5), 16
    table = compare(
        mixture(), ["DDIM"], nfe=[6], starts=Starts(count, dtype=torch.float64),
        metric=["mode_weights", "precision", "recall", "density", "coverage", "w2", "sliced_w2",
                "kernel", "frechet", "energy", "mmd", "nll_gap"],
        against=Against(truth, features),
    )  # fmt: skip
    x = SDE.prior_sample(sd.SampleSeeds(tuple(range(count))).open((count, 2), torch.float64))
    x = sd.sample(mixture(), sd.DDIM(), sd.uniform_lambda(SDE, 6), x=x).x
    other = truth[count:]  # the first tell what true samples score
    a, b = features(x), features(other)
    near, wide = precision_recall(a, b), density_coverage(a, b)

    def nll(z):
        return -float(mixture().log_prob(z, SDE.clean).mean()) / 2

    want = {
        "mode weights": ModeWeights(mixture())(x).value,
        "precision": float(near.fidelity.mean()),
        "recall": float(near.diversity.mean()),
        "density": float(wide.fidelity.mean()),
        "coverage": float(wide.diversity.mean()),
        "W2": wasserstein2(x, other),
        "sliced W2": SlicedWasserstein(other)(x).value,
        "kernel distance": kernel_distance(a, b),
        "Frechet distance": frechet_distance(a, b),
        "energy distance": energy_distance(x, other),
        "MMD": mmd(x, other),
        "NLL gap": nll(x) - nll(other),
    }
    found = {name: score.value for name, score in table.cells[0].scores.items()}
    assert found == pytest.approx(want, rel=1e-4, abs=1e-6)
    assert table.setup.better["precision"] == "higher"
    with pytest.raises(ConfigError, match="did you mean 'energy'"):
        compare(mixture(), ["DDIM"], nfe=[6], metric="enrgy")
    with pytest.raises(ConfigError, match="'frechet' needs features"):
        compare(mixture(), ["DDIM"], nfe=[6], metric="frechet")
    with pytest.raises(ShapeError, match=r"must have shape \(2000, F\), got \(2000,\)"):
        compare(
            mixture(),
            ["DDIM"],
            nfe=[6],
            metric="frechet",
            against=Against(features=lambda x: x.sum(1)),
        )
    model = sd.ScoreModel(lambda x, t: x, SDE, time="t")
    with pytest.raises(ConfigError, match="closed-form model"):
        compare(model, ["DDIM"], nfe=[6], starts=Starts(event_shape=(2,)), metric="mode_weights")


def test_a_model_that_is_not_finite_is_told_before_anything_is_compared():
    model = sd.ScoreModel(lambda x, t: x * torch.nan, SDE, time="t")
    with pytest.raises(ScoreSDEError, match="not finite"):
        compare(model, ["DDIM"], nfe=[6], starts=Starts(2, event_shape=(2,)))


def test_the_best_is_what_better_says():
    def made(solver, value, name):
        return Cell(solver, "g", 5, nfe=5, scores={name: Estimate(value, value, value)})

    for better, best in (("lower", "a"), ("higher", "c"), ("zero", "b")):
        cells = tuple(made(*one, "m") for one in (("a", -0.5), ("b", 0.1), ("c", 0.3)))
        table = Table(cells, Setup({}, 4, 0, "float32", better={"m": better}))
        assert table.best(5).solver == best
        assert [table.tied(cell) for cell in cells] == [cell.solver == best for cell in cells]


def test_ties_are_those_that_the_paired_bootstrap_cannot_tell_apart():
    rows = ["DDIM", "UniPC", "DPMSolverPP(order=3)"]
    table = compare(mixture(), rows, nfe=[10], starts=Starts(256))
    errors, first = "rms endpoint error", "DPMSolverPP(order=3)"
    assert table.best(10, errors).solver == first
    assert not table.tied(table.cells[0], errors)
    data = table.to_dict()["cells"]
    assert errors in data[2]["tied_with_best"]
    assert errors not in data[0]["tied_with_best"]
    # By distribution the two that are better cannot be told apart, and DDIM can.
    lines = table.markdown("energy distance").splitlines()
    starred = [line.split(" | ")[0].strip("| ") for line in lines if line.endswith("* |")]
    assert set(starred) == {"UniPC", first}


def test_path_errors_end_in_the_endpoint_errors():
    model = gaussian()
    table = compare(model, ["DDIM"], nfe=[8], starts=Starts(4, dtype=torch.float64))
    cell = table.cells[0]
    rho, error = zip(*cell.path_error, strict=True)
    assert error[0] < 1e-12  # the start is exact
    assert rho[-1] == 0.0
    assert error[-1] == pytest.approx(cell.scores["rms endpoint error"].value, rel=1e-4)
    middle = SDE.at_lambda(-np.log(rho[4]))
    x = SDE.prior_sample(sd.SampleSeeds(tuple(range(4))).open((4, 2), torch.float64))
    truth = model.flow(x, SDE.at(SDE.t_max), middle)
    gap = endpoint_errors(cell.trajectory[4] * float(middle.radius), truth)
    assert error[4] == pytest.approx(float(gap.square().mean().sqrt()), rel=1e-4)


def test_stochastic_solvers_share_brownian_paths():
    """Two budgets of one solver end near one another, which independent noise would not give."""
    table = compare(
        mixture(), ["EulerMaruyama"], nfe=[100, 200], starts=Starts(16), metric="energy"
    )
    a, b = (cell.shown for cell in table.cells)
    apart = endpoint_errors(a, b).median()
    other = endpoint_errors(a, b.roll(1, 0)).median()
    assert apart < 0.3 * other


def test_memory_is_what_was_held():
    with peak_memory(torch.device("cpu")) as found:
        x = torch.ones(64 * 2**18)  # 64 MiB
        del x
    if np.isnan(found[0]):
        pytest.skip("this system does not tell")
    assert 60 * 2**20 < found[0] < 90 * 2**20


# -- several processes ---------------------------------------------------------------------------


def test_workers_fill_the_same_table(tmp_path):
    alone = compare(mixture(), ["DDIM", "EulerMaruyama"], nfe=[4, 6], starts=Starts(8))
    shared = compare(
        mixture(), ["DDIM", "EulerMaruyama"], nfe=[4, 6], starts=Starts(8), jobs=2, cache=tmp_path
    )
    for a, b in zip(alone.cells, shared.cells, strict=True):
        assert (a.solver, a.budget, a.nfe, a.scores) == (b.solver, b.budget, b.nfe, b.scores)
    with pytest.raises(ConfigError, match="1 or more"):
        compare(mixture(), ["DDIM"], nfe=[4], starts=Starts(8), jobs=0)


SCRIPT = """
import sys, torch, scoresde as sd
from scoresde.bench import Starts, compare
from scoresde.bench.runner import Job
torch.set_num_threads(1)
real, mine = Job._run, []
Job._run = lambda job, task: mine.append(task.cell.budget) or real(job, task)
means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
mixture = sd.GaussianMixture(sd.VPSDE(t_min=1e-5), means, sd.Covariance.isotropic(0.04), [0.3, 0.7])
table = compare(mixture, ["DDIM"], nfe=[4, 6, 8], starts=Starts(8))
print(mine, [(c.budget, c.scores["rms endpoint error"].value) for c in table.cells])
"""


@pytest.mark.slow
def test_torchrun_splits_the_cells_and_every_process_has_the_table(tmp_path):
    (tmp_path / "split.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone",
         str(tmp_path / "split.py")],
        capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone = compare(mixture(), ["DDIM"], nfe=[4, 6, 8], starts=Starts(8))
    cells = [(c.budget, c.scores["rms endpoint error"].value) for c in alone.cells]
    assert sorted(done.stdout.splitlines()) == sorted([f"[4, 8] {cells}", f"[6] {cells}"])


def test_a_process_that_starts_at_alpha_zero_is_written_whole(tmp_path):
    table = compare(ring8(sd.FlowSDE()), [sd.DDIM()], nfe=[4], starts=Starts(16))
    write(table, tmp_path)
    (cell,) = json.loads((tmp_path / "report.json").read_text())["cells"]
    levels = [level for level, _ in cell["path_error"]]
    assert len(levels) == 4  # the knots after the start, where sigma / alpha is infinite
    assert levels[-1] == 0.0
