"""The benchmark of stochastic solvers: its factors give the whole density; its verdicts hold."""

from __future__ import annotations

import math
from importlib import import_module

import pytest
import torch

from scoresde import VPSDE
from scoresde.exact import problems

SDE = VPSDE(t_min=1e-3)
stochastic = import_module("benchmarks.stochastic")


def test_low_rank_mixture_is_measured_by_its_independent_parts():
    """The same gap as from samples of all 3072 coordinates, to the width of both intervals."""
    model = problems.lowrank3072(SDE, components=3, rank=4, seed=11)
    split = [part._replace(samples=part.samples // 20) for part in stochastic.parts(model)]
    assert sum(p.copies * math.prod(p.model.event_shape) for p in split) == 3072
    whole = [stochastic.Part(model, 1, 200, 100)]
    found = []
    for one in (split, whole):
        exact = [stochastic.entropy(part) for part in one]
        found.append(stochastic.gap(one, exact, stochastic.best, 6, 100 / 6))
    a, b = found
    assert abs(a["gap"]) > 0.02
    assert abs(a["gap"] - b["gap"]) < 1.5 * math.hypot(a["half_interval"], b["half_interval"])
    assert b["half_interval"] < 0.2 * abs(b["gap"])


def test_gap_of_samples_of_known_law():
    """Of one Gaussian whose samples are too wide by a tenth: (1.1^2 - 1) / 2."""
    model = problems.power_law(SDE, dimension=8)
    part = stochastic.Part(model, 1, 20_000, 1_000)

    def run(model, count, nfe, seed):
        return 1.1 * model.sample(count, seed=500 + seed), nfe

    row = stochastic.gap([part], [stochastic.entropy(part)], run, 100, 1.0)
    # A chi squared of 8 degrees has the deviation 4; 1.21 of half of it, an eighth a dimension.
    spread = 1.96 * 4 / 2 / 8 * math.sqrt((1.21**2 + 1 / 5) / 20_000)
    assert row["half_interval"] == pytest.approx(spread, rel=0.05)
    assert row["gap"] == pytest.approx(0.105, abs=2 * spread)
    assert row["nfe"] == 100


@pytest.mark.parametrize(
    ("gap", "half", "said"),
    [(0.02, 0.005, "within"), (-0.02, 0.02, "undecided"), (-0.05, 0.01, "outside")],
)
def test_verdict(gap, half, said):
    row = {"budget": 20, "gap": gap, "half_interval": half}
    assert stochastic.verdict(row) == said


def test_deviation_of_the_ring_can_be_given():
    wide, narrow = (problems.ring8(SDE, deviation=s, seed=4) for s in (0.08, 0.01))
    torch.testing.assert_close(wide.means, narrow.means)
    radii = (narrow.sample(4000, seed=0).norm(dim=1) - narrow.means[0].norm()).std()
    assert float(radii) == pytest.approx(0.01, rel=0.05)
