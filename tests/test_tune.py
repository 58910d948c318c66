"""Tuned grids: better on starts that took no part, and tied to what they were tuned to."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde.errors import CheckpointError, ConfigError
from scoresde.metrics import endpoint_errors
from scoresde.tune import TunedGridWarning, _at_controls, _from_gaps, load, tune

SDE = sd.VPSDE()


def model(spread: float = 0.3) -> sd.GaussianMixture:
    # Modes that overlap: no boundary where a few trajectories would rule the error.
    means = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
    return sd.GaussianMixture(SDE, means, sd.isotropic(spread**2), [0.4, 0.6])


@pytest.fixture(scope="module")
def tuned():
    return tune(
        model(), "DDIM", 6, starts=48, held_out=128, rounds=4, dtype=torch.float64, tolerance=1e-6
    )


def test_beats_the_default_and_every_stock_grid_on_fresh_starts(tuned):
    assert tuned.ratio.high < 0.8
    assert "refined" in tuned.source
    assert tuned.grid.steps == tuned.nfe == 6
    x = SDE.prior_sample(sd.SampleSeeds(tuple(range(9000, 9200))).open((200, 2), torch.float64))
    from scoresde.bench import solve_reference

    truth = solve_reference(model(), x, rtol=1e-7).x

    def rms(grid):
        errors = endpoint_errors(sd.sample(model(), sd.DDIM(), grid, x=x).x, truth)
        return float(errors.square().mean().sqrt())

    stock = [sd.uniform_lambda(SDE, 6), sd.uniform_t(SDE, 6), sd.karras(SDE, 6)]
    assert rms(tuned.grid) < 0.9 * min(map(rms, stock))
    assert rms(tuned.grid) == pytest.approx(tuned.error, rel=0.5)


def test_file_gives_the_same_grid_and_warns_of_another_owner(tuned, tmp_path):
    path = tmp_path / "grid.json"
    tuned.save(path)
    grid = load(path, model(), sd.DDIM())
    np.testing.assert_allclose(
        [knot.lam for knot in grid.knots[:-1]], [knot.lam for knot in tuned.grid.knots[:-1]],
        rtol=1e-9,
    )  # fmt: skip
    assert grid.ends_clean
    with pytest.warns(TunedGridWarning, match="tuned to model"):
        load(path, model(0.31), sd.DDIM())
    with pytest.warns(TunedGridWarning, match="tuned to solver DDIM"):
        load(path, model(), sd.EulerMaruyama())
    other = sd.GaussianMixture(sd.VPSDE(t_min=1e-5), model().means, sd.isotropic(0.09))
    with pytest.raises(ConfigError, match="is a grid of"):
        load(path, other, sd.DDIM())
    path.write_text(json.dumps({"times": [1.0, 0.5]}))
    with pytest.raises(CheckpointError, match="not a tuned grid"):
        load(path, model(), sd.DDIM())


def test_gaps_round_trip_and_never_cross():
    grid = sd.karras(SDE, 9)
    gaps = np.diff([float(knot.lam) for knot in grid.knots[:-1]])
    again = _from_gaps(SDE, _at_controls(np.log(gaps)), len(gaps))
    np.testing.assert_allclose(
        [knot.lam for knot in again.knots[:-1]], [knot.lam for knot in grid.knots[:-1]], rtol=1e-9
    )
    rng = np.random.default_rng(0)
    for _ in range(50):  # far too long or short: shrunk to fit, still a grid
        wild = _from_gaps(SDE, rng.normal(0, 4, 12), 30)
        assert wild.steps == 31
        assert float(wild.knots[-2].lam) <= float(SDE.lam(SDE.t_min)) * (1 + 1e-12)
        assert math.isclose(float(wild.knots[0].t), SDE.t_max)


@pytest.mark.parametrize(
    ("solver", "nfe", "words"),
    [
        ("EulerMaruyama", 5, "draws noise"),
        ("ProbabilityFlow", 5, "chooses its own steps"),
        ("DDIM", 1, "no knot to move"),
    ],
)
def test_what_cannot_be_tuned(solver, nfe, words):
    with pytest.raises(ConfigError, match=words):
        tune(model(), solver, nfe)
