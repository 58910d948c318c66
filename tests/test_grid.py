"""Grids: every maker on every process."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import CONTINUOUS, DISCRETE, PROCESSES

from scoresde import (
    EDMSDE,
    VPSDE,
    FlowSDE,
    Grid,
    from_lambdas,
    from_times,
    karras,
    leading,
    trailing,
    uniform_lambda,
    uniform_t,
)
from scoresde.errors import ConfigError, TimeRangeError
from scoresde.grid import power

MAKERS = {"uniform_t": uniform_t, "power": power, "lambda": uniform_lambda, "karras": karras}
TABLES = {"trailing": trailing, "leading": leading}
EVERY = [
    *((maker, process) for maker in MAKERS for process in PROCESSES),
    *((maker, process) for maker in TABLES for process in DISCRETE),
    *((maker, "flow to 1") for maker in MAKERS),
]


def _get(maker, process):
    sde = FlowSDE() if process == "flow to 1" else PROCESSES[process]
    return {**MAKERS, **TABLES}[maker], sde


@pytest.mark.parametrize(("maker", "process"), EVERY)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 97])
def test_every_maker_on_every_process(maker, process, n):
    make, sde = _get(maker, process)
    grid = make(sde, n)
    assert grid.steps == n
    assert len(grid.knots) == n + 1
    assert grid.ends_clean
    assert grid.knots[-1] == sde.clean
    rhos = [knot.rho for knot in grid.knots]
    assert all(b < a for a, b in pairwise(rhos))
    for knot in grid.knots[:-1]:
        assert all(type(value) is float for value in knot)
        assert knot.log_alpha == pytest.approx(sde.log_alpha(knot.t), rel=1e-12, abs=1e-14)
        assert knot.log_sigma == pytest.approx(sde.log_sigma(knot.t), rel=1e-12, abs=1e-14)
        assert sde.t_min <= knot.t <= sde.t_max
    if maker != "leading":
        assert grid.knots[0] == sde.at(sde.t_max)
    if maker in MAKERS:
        if n > 1:
            assert grid.knots[-2] == sde.at(sde.t_min)
        open_ended = make(sde, n, clean=False)
        assert open_ended.steps == n
        assert open_ended.knots[-1] == sde.at(sde.t_min)
        assert make(sde, n + 1).without_clean() == open_ended
        assert open_ended.without_clean() is open_ended


@pytest.mark.parametrize("process", CONTINUOUS)
@pytest.mark.parametrize(
    ("maker", "coordinate"),
    [
        (uniform_t, lambda knot: knot.t),
        (power, lambda knot: math.sqrt(knot.t)),
        (lambda sde, n, **k: power(sde, n, 3.0, **k), lambda knot: knot.t ** (1 / 3)),
        (uniform_lambda, lambda knot: knot.lam),
        (karras, lambda knot: knot.rho ** (1 / 7)),
        (lambda sde, n, **k: karras(sde, n, 3.0, **k), lambda knot: knot.rho ** (1 / 3)),
    ],
)
def test_knots_are_even_in_the_makers_coordinate(process, maker, coordinate):
    sde = CONTINUOUS[process]
    for settings in ({}, {"t_min": 0.1 * sde.t_max, "t_max": 0.7 * sde.t_max}):
        places = [coordinate(knot) for knot in maker(sde, 9, clean=False, **settings).knots]
        even = np.linspace(places[0], places[-1], 10)
        np.testing.assert_allclose(places, even, rtol=1e-9, atol=1e-9)
        ends = maker(sde, 9, clean=False, **settings).knots
        assert ends[0].t == settings.get("t_max", sde.t_max)
        assert ends[-1].t == settings.get("t_min", sde.t_min)


def test_a_process_without_signal_at_the_start():
    for make in (uniform_lambda, karras):
        for sde in (FlowSDE(), DISCRETE["zero-SNR table"]):
            knots = make(sde, 8).knots
            assert knots[0].is_zero_snr
            assert not any(knot.is_zero_snr for knot in knots[1:])
            assert knots[1].rho < 160
    even = [knot.lam for knot in uniform_lambda(FlowSDE(), 8).knots[1:-1]]
    np.testing.assert_allclose(np.diff(even), np.diff(even)[0], rtol=1e-9)
    assert even[0] - np.diff(even)[0] == pytest.approx(-math.log(160))


@pytest.mark.parametrize("n", [1, 3, 7, 20, 400, 999, 1000])
def test_steps_through_a_table_are_even_whether_or_not_they_divide_it(n):
    """Rounded indices make steps jump where n does not divide N."""
    sde = DISCRETE["linear table"]
    for make, first, last in (
        (trailing, 999.0, 999 - (n - 1) * 1000 / n),
        (leading, (n - 1) * 1000 / n, 0.0),
    ):
        times = [knot.t for knot in make(sde, n).knots[:-1]]
        assert times[0] == pytest.approx(first, abs=1e-9)
        assert times[-1] == pytest.approx(last, abs=1e-9)
        np.testing.assert_allclose(np.diff(times), -1000 / n, rtol=1e-9)


def test_own_times_and_log_snrs():
    sde = VPSDE()
    grid = from_times(sde, [1.0, 0.3, 0.01])
    assert [knot.t for knot in grid.knots] == [1.0, 0.3, 0.01, 0.0]
    assert [knot.t for knot in from_times(sde, (0.5, 0.2), clean=False).knots] == [0.5, 0.2]
    assert from_times(sde, torch.tensor([1.0, 0.5])).steps == 2
    assert from_times(sde, np.array([1.0, 0.5])).steps == 2
    lams = [-3.0, 0.0, 2.0]
    grid = from_lambdas(sde, lams)
    np.testing.assert_allclose([knot.lam for knot in grid.knots[:-1]], lams, atol=1e-12)
    assert grid.ends_clean
    assert not from_lambdas(sde, lams, clean=False).ends_clean
    # A time that is out by round-off is the end itself.
    assert from_times(sde, [1.0 + 1e-14, 1e-3]).knots[0] == sde.at(1.0)


def test_a_grid_is_a_value(sde):
    grid = uniform_t(sde, 5)
    assert grid == uniform_t(sde, 5)
    assert hash(grid) == hash(uniform_t(sde, 5))
    data = json.loads(json.dumps(grid.to_dict()))
    assert data["clean"] is True
    assert from_times(sde, data["times"]) == grid


VP = VPSDE()


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: from_times(VP, [0.1, 0.5]), TimeRangeError, "sorted(times, reverse=True)"),
        (lambda: from_times(VP, [0.5, 0.5, 0.1]), TimeRangeError, "fall strictly"),
        (lambda: from_times(VP, [0.5, 0.0]), TimeRangeError, "remove the 0"),
        (lambda: from_times(VP, [1.5, 0.5]), TimeRangeError, "VPSDE(t_min=..., t_max=...)"),
        (lambda: from_times(VP, [0.5, 1e-5]), TimeRangeError, "[0.001, 1]"),
        (lambda: from_times(VP, [0.5, math.nan]), TimeRangeError, "nan"),
        (lambda: from_times(VP, []), ConfigError, "at least 2 knots"),
        (lambda: from_times(VP, [0.5], clean=False), ConfigError, "got 1"),
        (lambda: from_lambdas(VP, [2.0, 0.0]), TimeRangeError, "fall strictly"),
        (lambda: from_lambdas(VP, [-20.0, 0.0]), TimeRangeError, "not -20"),
        (lambda: uniform_t(VP, 0), ConfigError, "1 or more, got 0"),
        (lambda: uniform_t(VP, 2.5), ConfigError, "got 2.5"),
        (lambda: uniform_t(VP, "ten"), ConfigError, "'ten'"),
        (lambda: karras(VP, -3), ConfigError, "-3"),
        (lambda: uniform_t(VP, 5, t_min=0.5, t_max=0.2), TimeRangeError, "t_min < t_max"),
        (lambda: uniform_lambda(VP, 5, t_min=1e-5), TimeRangeError, "trained on a wider range"),
        (lambda: karras(VP, 5, t_max=1.1), TimeRangeError, "t_max=1.1"),
        (lambda: karras(VPSDE(t_min=0.0), 5), TimeRangeError, "t_min > 0"),
        (lambda: trailing(VP, 5), ConfigError, "uniform_t(sde, n)"),
        (lambda: leading(EDMSDE(), 5), ConfigError, "EDMSDE"),
        (lambda: trailing(DISCRETE["linear table"], 1001), ConfigError, "at most 1000"),
        (lambda: trailing(DISCRETE["linear table"], 0), ConfigError, "got 0"),
        (lambda: Grid(VP, (VP.at(1.0), VP.clean)).without_clean(), ConfigError, "at least 2"),
    ],
)
def test_bad_input_is_explained(make, error, says):
    with pytest.raises(error) as caught:
        make()
    assert says in str(caught.value)


def test_knots_that_are_one_up_to_round_off_are_refused():
    sde = VPSDE()
    times = [0.9, 0.5, 0.5 - 1e-12, 0.2]
    with pytest.raises(TimeRangeError, match=r"knots 1 and 2 .* remove one"):
        from_times(sde, times)
    assert from_times(sde, [0.9, 0.5, 0.5 - 1e-6, 0.2]).steps == 4
