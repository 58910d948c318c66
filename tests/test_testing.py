"""The references of `scoresde.testing`, each confirmed by a different computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from support import CONTINUOUS, randn

from scoresde import (
    DDIM,
    VPSDE,
    BrownianPath,
    Covariance,
    EulerMaruyama,
    FlowSDE,
    GaussianMixture,
    Heun,
    sample,
)
from scoresde.errors import ConfigError
from scoresde.testing import Bimodal
from scoresde.testing.convergence import SHARES, climb, endpoint_error
from scoresde.testing.findings import Finding, Report
from scoresde.testing.runs import even, observed_order, to_clean, uneven
from scoresde.testing.stochastic import (
    MEAN,
    VARIANCE,
    affine_map,
    distribution_distance,
    strong_distance,
    weak_error,
)


@pytest.mark.parametrize("process", CONTINUOUS)
def test_the_exact_model_is_a_gaussian_mixture(process):
    sde = CONTINUOUS[process]
    model = Bimodal(sde)
    means = torch.tensor([[model.low], [model.high]], dtype=torch.float64)
    spread = Covariance.diagonal(torch.full((2, 1), model.variance, dtype=torch.float64))
    truth = GaussianMixture(sde, means, spread, [model.weight, 1 - model.weight])
    for share in (1e-3, 0.3, 0.9):
        knot = sde.at(max(sde.t_min, share * sde.t_max))
        x = randn(20, 1) * knot.radius
        for view in ("eps", "x0", "v"):
            torch.testing.assert_close(
                getattr(model(x, knot), view), getattr(truth(x, knot), view), rtol=1e-9, atol=1e-9
            )
        h = 1e-5 * knot.radius
        density = (model.cdf(x + h, knot) - model.cdf(x - h, knot))[:, 0] / (2 * h)
        torch.testing.assert_close(density.log(), truth.log_prob(x, knot), rtol=1e-5, atol=1e-5)
        mean, variance = model.moments(knot)
        both = truth.moments()
        assert mean == pytest.approx(knot.alpha * float(both[0]))
        assert variance == pytest.approx(knot.alpha**2 * float(both[1]) + knot.sigma**2)


@pytest.mark.parametrize("process", CONTINUOUS)
def test_the_flow_carries_quantiles_to_quantiles(process):
    """x' = f x - g^2 score / 2 from one quantile to the other, by DOP853 at 1e-12."""
    sde = CONTINUOUS[process]
    model = Bimodal(sde)
    t, s = 0.7 * sde.t_max, max(sde.t_min, 0.02 * sde.t_max)
    x = model.quantiles(SHARES, sde.at(t))

    def velocity(time, flat):
        y = torch.from_numpy(flat).reshape(-1, 1)
        score = model(y, sde.at(time)).score
        return (sde.f(time) * y - 0.5 * sde.g2(time) * score).flatten().numpy()

    path = solve_ivp(velocity, (t, s), x.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-12)
    reached = model.quantiles(SHARES, sde.at(s)).flatten().numpy()
    np.testing.assert_allclose(path.y[:, -1], reached, rtol=0, atol=1e-9 * (1 + abs(reached).max()))


def test_both_ends_of_the_exact_model():
    model = Bimodal(FlowSDE())
    x = randn(4, 3)
    nothing = model(x, FlowSDE().at(1.0))
    mean = model.weight * model.low + (1 - model.weight) * model.high
    torch.testing.assert_close(nothing.x0, torch.full_like(x, mean))
    torch.testing.assert_close(nothing.eps, x)
    np.testing.assert_allclose(
        model.quantiles([0.5, 0.975], FlowSDE().at(1.0)).flatten(), [0, 1.959964], atol=1e-6
    )
    with pytest.raises(ConfigError, match="sigma = 0"):
        model(x, FlowSDE.clean)


def test_grids_are_what_they_say():
    for sde in CONTINUOUS.values():
        lams = np.array([knot.lam for knot in even(sde, 12).knots])
        np.testing.assert_allclose(np.diff(lams), np.log(40) / 12, rtol=1e-9)
        widths = np.diff([knot.lam for knot in uneven(sde, 12).knots])
        assert widths.sum() == pytest.approx(np.log(40), rel=1e-9)
        ratios = widths[1:] / widths[:-1]
        np.testing.assert_allclose(ratios[::2], 3 * 5 ** (-1 / 12), rtol=1e-9)
        np.testing.assert_allclose(ratios[1::2], 5 ** (-1 / 12) / 3, rtol=1e-9)
        assert to_clean(sde, 1).steps == 1
        assert to_clean(sde, 3).knots[-2].rho == pytest.approx(0.02)


def test_observed_order():
    assert observed_order([8.0, 4.0, 2.0, 1.0], 0.0) == 1.0
    assert observed_order([64.0, 16.0, 4.0, 1.0], 0.0) == 2.0
    assert observed_order([1.0, 1.0, 1.0], 0.0) == 0.0
    assert observed_order([64.0, 16.0, 1e-15, 1e-15], 1e-12) == 2.0
    # A change of sign is no order: 1e-4 is followed by what it hid.
    assert observed_order([1e-2, 1e-3, 1e-4, 1e-4], 0.0) < 2.0
    assert math.isnan(observed_order([1e-15, 1e-15], 1e-12))
    # Slow to show its order: the ladder goes on.
    asked = []
    assert climb(lambda n: asked.append(n) or 1 / n + 100 / n**0.5, 1.0) < 0.6
    assert asked[-1] == 512


def test_endpoint_error_of_a_known_scheme():
    """DDIM's error is first order, Heun's second; their sizes are those of a direct run."""
    for solver, order in ((DDIM(), 1.0), (Heun(), 2.0)):
        errors = [endpoint_error(solver, even(VPSDE(), n)) for n in (64, 128)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("solver", [EulerMaruyama(), DDIM(eta=1.0), DDIM(eta=0.4)])
def test_exact_moments_of_a_scheme_against_monte_carlo(solver):
    """100,000 runs: 1.3% of a deviation, 1.8% of a variance."""
    sde, n = VPSDE(), 100_000
    grid, model = even(sde, 5), Bimodal(sde, MEAN, MEAN, variance=VARIANCE)
    found = affine_map(solver, grid)
    assert found.gap < 1e-12
    mean, variance = model.moments(grid.knots[0])
    x = mean + math.sqrt(variance) * randn(n, 1)
    out = sample(model, solver, grid, x=x, seeds=5).x
    want = found.variance(variance)
    assert abs(float(out.var()) / want - 1) < 4 * math.sqrt(2 / n)
    assert abs(float(out.mean()) - found.constant - found.start * mean) < 4 * math.sqrt(want / n)
    # Five steps are not the continuous process: the errors are seen, and shrink.
    assert weak_error(found, grid) > 0.01
    assert weak_error(affine_map(solver, even(sde, 200)), even(sde, 200)) < 0.01


def test_exact_strong_distance_against_brownian_paths():
    """Along 300 paths of 40 coordinates, 12,000 in all: 2.6% of the distance at 4 errors."""
    sde = VPSDE()
    coarse, fine = even(sde, 4), even(sde, 8)
    model = Bimodal(sde, MEAN, MEAN, variance=VARIANCE)
    solver = EulerMaruyama()
    exact = strong_distance(affine_map(solver, coarse), affine_map(solver, fine), coarse)
    mean, variance = model.moments(coarse.knots[0])
    x = mean + math.sqrt(variance) * randn(300, 40)
    path = BrownianPath(tuple(range(300)))
    ends = [sample(model, solver, grid, x=x, noise=path).x for grid in (coarse, fine)]
    found = float((ends[0] - ends[1]).square().mean().sqrt()) / coarse.knots[-1].radius
    assert found == pytest.approx(exact, rel=0.03)


def test_a_distribution_that_is_off_is_seen():
    grid = even(VPSDE(), 60)
    assert distribution_distance(EulerMaruyama(), grid) < 0.03
    # The probability flow keeps the law as well; a flow from too wide a start does not.
    assert distribution_distance(EulerMaruyama(1.3), even(VPSDE(), 4)) > 0.03


def test_a_report_tells_one_fault_once():
    seen = [
        Finding("evaluations", "evals says 2 with 2 steps; 0 were counted"),
        Finding("evaluations", "evals says 7 with 7 steps; 1 were counted"),
        Finding("seeds", "seed 3 gave other samples in a batch of 2"),
        *(
            Finding(f"order, {where}", f"observed order {k / 10:.2f}, claimed 1, on {where} steps")
            for k, where in enumerate(("even", "uneven"))
        ),
        *(Finding(f"check {k}", "raised KeyError: 'no' (mine.py:16)") for k in range(8)),
    ]
    report = Report("Mine()", seen, checks=[f.check for f in seen])
    assert [len(fault) for fault in report.faults] == [2, 1, 2, 8]
    assert str(report).splitlines() == [
        "Mine(): breaks the contract of a solver, 13 findings in 13 checks",
        "  [evaluations] evals says 2 with 2 steps; 0 were counted",
        "    1 more of this kind",
        "  [seeds] seed 3 gave other samples in a batch of 2",
        "  [order, even] observed order 0.00, claimed 1, on even steps",
        "    1 more of this kind: order, uneven",
        "  [check 0] raised KeyError: 'no' (mine.py:16)",
        "    7 more of this kind: check 1; check 2; check 3; check 4; ...",
    ]
