"""The benchmark: budgets met, references right, cells kept and failures reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde.bench import Table, compare, grid_for, solve_reference
from scoresde.errors import ConfigError
from scoresde.metrics import EndpointError, SlicedWasserstein, endpoint_errors
from scoresde.solvers import Heun, PredictorCorrector, ProbabilityFlow, evaluations

SDE = sd.VPSDE(t_min=1e-5)


def gaussian() -> sd.Gaussian:
    return sd.Gaussian(SDE, torch.tensor([0.3, -0.2]), sd.diagonal(torch.tensor([[0.04, 0.5]])))


def mixture() -> sd.GaussianMixture:
    means = torch.tensor([[-1.0, 0.5], [1.0, -0.5]])
    return sd.GaussianMixture(SDE, means, sd.isotropic(0.04), [0.3, 0.7])


@pytest.mark.parametrize(
    ("solver", "nfe", "cost"),
    [
        (sd.DDIM(), 7, 7),
        (Heun(), 9, 9),
        (Heun(), 10, 9),  # 9 and 11 are equally near: the cheaper
        (Heun(), 1, 1),
        (PredictorCorrector(), 7, 6),
        (PredictorCorrector(), 1, 2),
    ],
)
def test_nearest_cost(solver, nfe, cost):
    grid = grid_for(solver, sd.uniform_lambda, SDE, nfe)
    assert evaluations(solver, grid) == cost
    counted = sd.sample(mixture(), solver, grid, shape=(2, 2))
    assert counted.nfe == cost


def test_budgets_that_make_no_sense():
    with pytest.raises(ConfigError, match="1 or more"):
        grid_for(sd.DDIM(), sd.uniform_lambda, SDE, 0)
    with pytest.raises(ConfigError, match="chooses its own steps"):
        grid_for(ProbabilityFlow(), sd.uniform_lambda, SDE, 10)


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
    table = compare(model, [sd.DDIM()], nfe=[4, 8], samples=16, dtype=torch.float64)
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
    table = compare(mixture(), solvers, nfe=[5], samples=50)
    by_name = {cell.solver: cell for cell in table.cells}
    assert set(by_name["EulerMaruyama"].scores) == {"energy distance"}
    assert "rms endpoint error" in by_name["DDIM"].scores
    own = by_name["ProbabilityFlow"]
    assert own.budget is None
    assert own.nfe > 20
    assert own.scores["rms endpoint error"].value < 1e-3
    assert "energy distance" in table.setup.floor
    text = str(table)
    assert "steps of its own choice" in text
    assert "true samples" in text


def test_several_grids_and_the_best_cell():
    table = compare(
        mixture(), ["DDIM"], nfe=[6, 12], grids=["uniform_lambda", "uniform_t"], samples=32
    )
    assert len(table.cells) == 4
    best = table.best(12)
    assert best.scores["rms endpoint error"].value == min(
        c.scores["rms endpoint error"].value for c in table.cells if c.budget == 12
    )
    assert "DDIM, uniform_t" in table.markdown()
    assert table.markdown().count("**") == 4  # one bold value a budget
    with pytest.raises(ConfigError, match="unknown measure"):
        table.markdown("FID")


class Poisoned(sd.GaussianMixture):
    """Not finite near the end of a fine grid."""

    def __call__(self, x, knot):
        prediction = super().__call__(x, knot)
        if 0.01 < knot.rho < 0.012:
            return prediction.replace(prediction.raw * torch.nan)
        return prediction


@pytest.mark.filterwarnings("ignore::scoresde.sampling.NonFiniteWarning")
def test_a_cell_that_fails_is_reported_and_the_others_go_on():
    model = mixture()
    x = model.sample(200, seed=0, dtype=torch.float32)
    model.__class__ = Poisoned
    table = compare(model, ["DDIM"], nfe=[4, 200], samples=8, metric=SlicedWasserstein(x))
    good, bad = table.cells
    assert not good.failed
    assert "not finite" in bad.failed
    assert "step" in bad.failed
    assert "Failed: DDIM at 200" in table.markdown()


def test_cells_are_kept_and_only_new_ones_are_computed(tmp_path, monkeypatch):
    first = compare(mixture(), ["DDIM"], nfe=[4], samples=8, cache=tmp_path)
    ran = []
    import importlib

    module = importlib.import_module("scoresde.bench.compare")
    real = module._run
    monkeypatch.setattr(module, "_run", lambda task, *a: ran.append(task) or real(task, *a))
    again = compare(mixture(), ["DDIM", "Heun"], nfe=[4], samples=8, cache=tmp_path)
    assert [task.cell.solver for task in ran] == ["Heun"]
    assert again.cells[0].to_dict() == first.cells[0].to_dict()
    assert torch.equal(again.cells[0].shown, first.cells[0].shown)
    other = sd.GaussianMixture(SDE, mixture().means + 1e-3, sd.isotropic(0.04), [0.3, 0.7])
    compare(other, ["DDIM"], nfe=[4], samples=8, cache=tmp_path)
    assert len(ran) == 2  # another model shares nothing
    for file in tmp_path.glob("*.json"):
        file.write_text("{ broken")
    compare(mixture(), ["DDIM"], nfe=[4], samples=8, cache=tmp_path)
    assert len(ran) == 3  # a cell that cannot be read is computed again


def test_table_as_data():
    table = compare(mixture(), ["DDIM", "EulerMaruyama"], nfe=[4], samples=8)
    data = json.loads(json.dumps(table.to_dict()))
    assert data["setup"]["samples"] == 8
    assert data["cells"][0]["solver"] == "DDIM"
    lines = table.csv().splitlines()
    assert lines[0].startswith("solver,grid,budget,nfe")
    assert len(lines) == 1 + sum(len(cell.scores) for cell in table.cells)
    assert isinstance(table, Table)


def test_nothing_to_measure_is_said():
    model = sd.ScoreModel(lambda x, t: x, SDE, time="t")
    with pytest.raises(ConfigError, match="truth=images"):
        compare(model, ["EulerMaruyama"], nfe=[4], shape=(2,))
    with pytest.raises(ConfigError, match="shape of a sample is not known"):
        compare(model, ["DDIM"], nfe=[4])


def test_endpoints_from_another_start_are_not_compared():
    def late(sde, n):
        return sd.uniform_lambda(sde, n, t_max=0.9)

    reference = EndpointError(torch.zeros(8, 2))
    cell = compare(mixture(), ["DDIM"], nfe=[4], grids=[late], samples=8, metric=reference).cells[0]
    assert cell.scores == {}
