"""Tuned grids: better on starts that tuning did not use, and bound to their model and solver."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from functools import partial

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde._internal import specs
from scoresde.errors import CheckpointError, ConfigError, NonFiniteError
from scoresde.exact import problems
from scoresde.metrics import Estimate, FrechetDistance, Neighbours, endpoint_errors
from scoresde.prediction import EPS, Prediction
from scoresde.sampling import choose
from scoresde.tune import TunedGridWarning, TuningWarning, by_endpoints, load, tune
from scoresde.tune.basin_hopping import descend, hop
from scoresde.tune.by_endpoints import _decide, _informative
from scoresde.tune.by_metric import Judge
from scoresde.tune.candidates import Motion, stock_grids
from scoresde.tune.cost import Metered
from scoresde.tune.endpoint_objective import Candidate, Trial
from scoresde.tune.gauss_newton import refine
from scoresde.tune.kl_bound import Signal, between
from scoresde.tune.local_errors import Pilot
from scoresde.tune.low_rank import in_its_span
from scoresde.tune.shortest_path import equidistributed, shortest

SDE = sd.VPSDE()


def model(spread: float = 0.3) -> sd.GaussianMixture:
    # Modes that overlap: no boundary where a few trajectories would rule the error.
    means = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])
    return sd.GaussianMixture(SDE, means, sd.Covariance.isotropic(spread**2), [0.4, 0.6])


def prior(count: int, first: int = 9000) -> torch.Tensor:
    seeds = sd.SampleSeeds(tuple(range(first, first + count)))
    return SDE.prior_sample(seeds.open((count, 2), torch.float64))


def fresh(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = prior(count)
    return x, sd.sample(model(), *sd.recommended(SDE, 200, floor=0.0), x=x).x


def rms(solver: sd.Solver, grid: sd.Grid, x: torch.Tensor, truth: torch.Tensor) -> float:
    errors = endpoint_errors(sd.sample(model(), solver, grid, x=x).x, truth)
    return float(errors.square().mean().sqrt())


@pytest.fixture(scope="module")
def tuned():
    return tune(model(), "DDIM", 6, starts=192, held_out=128, rounds=3, dtype=torch.float64)


def test_beats_the_default_and_every_stock_grid_on_fresh_starts(tuned):
    assert tuned.ratio.high < 0.8
    assert tuned.source != "default"
    assert tuned.solver == sd.DDIM()
    assert tuned.grid.steps == tuned.nfe == 6
    x, truth = fresh(200)
    stock = [sd.uniform_lambda(SDE, 6), sd.uniform_t(SDE, 6), sd.karras(SDE, 6)]
    ours = rms(sd.DDIM(), tuned.grid, x, truth)
    assert ours < 0.9 * min(rms(sd.DDIM(), grid, x, truth) for grid in stock)
    assert ours == pytest.approx(tuned.error, rel=0.3)


def test_the_recommended_solver_is_tuned_with_its_grid(tmp_path):
    found = tune(model(), "recommended", 6, starts=192, held_out=192, rounds=1, dtype=torch.float64)
    assert found.ratio.high < 0.5
    assert found.typical.high < 0.7
    x, truth = fresh(200)
    default = rms(*sd.recommended(SDE, 6, floor=0.0), x, truth)
    assert rms(found.solver, found.grid, x, truth) < 0.5 * default
    found.save(tmp_path / "grid.json")
    solver, grid = load(tmp_path / "grid.json", model())
    assert solver == found.solver
    again = rms(solver, grid, x, truth)
    assert again == pytest.approx(rms(found.solver, found.grid, x, truth), rel=1e-6)


def test_others_decide_and_the_default_stays_where_they_see_no_gain():
    x, truth = fresh(128)
    trial = Trial(Metered(model()), x, truth, torch.ones(128))
    good, bad = (
        Candidate(name, sd.DDIM(), sd.uniform_lambda(SDE, 8, t_min=end))
        for name, end in (("good", 0.03), ("bad", 1e-3))
    )
    assert _decide(trial, [bad, good]) is good
    assert _decide(trial, [good, bad]) is good
    assert _decide(trial, [bad, bad._replace(name="the same")]).name == "bad"


def test_a_gain_that_may_be_chance_is_none():
    generator = torch.Generator().manual_seed(6)
    truth = torch.zeros(200, 2, dtype=torch.float64)
    noise = torch.randn(3, 200, 2, generator=generator, dtype=torch.float64)
    scales = {"default": 1.0, "slightly": 0.97, "clearly": 0.7}

    class Known(Trial):
        def run(self, candidate):
            place = list(scales).index(candidate.name)
            return scales[candidate.name] * noise[place] / noise[place].square().mean().sqrt()

    trial = Known(Metered(model()), truth, truth, torch.ones(200))
    default, slightly, clearly = (
        Candidate(name, sd.DDIM(), sd.uniform_lambda(SDE, 4)) for name in scales
    )
    assert _decide(trial, [default, slightly]) is default
    assert _decide(trial, [default, slightly, clearly]) is clearly


def test_starts_with_large_errors_are_taken_and_weighed():
    x, truth = fresh(1000)
    drawn = Trial(Metered(model()), x, truth, torch.ones(1000))
    coarse = Candidate("", sd.DDIM(), sd.uniform_lambda(SDE, 5, t_min=0.03))
    few = _informative(drawn, [coarse], 250)
    assert len(few.x) == 250 == len(few.x.unique(dim=0))
    whole, part = (t.errors(coarse).square().sum(1) for t in (drawn, few))
    assert part.mean() > 1.1 * whole.mean()
    assert float((few.weight * part).mean() / whole.mean()) == pytest.approx(1, abs=0.05)
    # Another statistic than the one that they were taken by.
    whole, part = (t.x.square().sum(1) for t in (drawn, few))
    assert float((few.weight * part).mean() / whole.mean()) == pytest.approx(1, abs=0.2)


def test_file_gives_the_same_grid_and_warns_of_another_owner(tuned, tmp_path):
    path = tmp_path / "grid.json"
    tuned.save(path)
    solver, grid = load(path, model())
    assert solver == sd.DDIM()
    np.testing.assert_allclose(
        [knot.lam for knot in grid.knots[:-1]], [knot.lam for knot in tuned.grid.knots[:-1]],
        rtol=1e-9,
    )  # fmt: skip
    assert grid.ends_clean
    with pytest.warns(TunedGridWarning, match="tuned to model"):
        load(path, model(0.31))
    with pytest.warns(TunedGridWarning, match="tuned to solver DDIM"):
        assert load(path, model(), sd.EulerMaruyama())[0] == sd.EulerMaruyama()
    other = sd.GaussianMixture(sd.VPSDE(t_min=1e-5), model().means, sd.Covariance.isotropic(0.09))
    with pytest.raises(ConfigError, match="is a grid of"):
        load(path, other)
    path.write_text(json.dumps({"times": [1.0, 0.5]}))
    with pytest.raises(CheckpointError, match="not a tuned grid"):
        load(path, model())
    with pytest.raises(CheckpointError, match=r"cannot read .*nowhere\.json.: No such file"):
        load(tmp_path / "nowhere.json", model())
    with pytest.raises(ConfigError, match="write starts=64"):
        tune(model(), "DDIM", 5, starts=1)


def test_the_shortest_path_is_the_best_of_all_paths():
    rng = np.random.default_rng(0)
    into, ends = (np.triu(rng.uniform(0.1, 1, (10, 10)), 1) for _ in range(2))
    into[into == 0], ends[:, :4], ends[ends == 0] = np.inf, np.inf, np.inf

    def total(places: tuple[int, ...]) -> float:
        return sum(into[i, j] for i, j in itertools.pairwise(places)) + ends[places[-2:]]

    every = [(0, *inner) for inner in itertools.combinations(range(1, 10), 3)]
    assert tuple(shortest(into, ends, 4).astype(int)) == min(every, key=total)


def test_equidistribution_of_a_known_density():
    # Errors c h^(p+1) with c^(1/(p+1)) linear in the place: quantiles are square roots.
    count, order = 400, 3
    density = np.linspace(0, 1, count)
    into = np.tile((density[:, None] + 1e-12) ** (order + 1), (1, count))
    places = equidistributed(into, 100, order) / (count - 1)
    np.testing.assert_allclose(places, np.sqrt(np.linspace(0, 1, 100)), atol=0.02)


def test_the_pilot_measures_a_step_from_the_true_path():
    # DDIM's step over g fine knots, from where the reference is: no evaluation is spent on it.
    x, _ = fresh(64)
    meter = Metered(model())
    pilot = Pilot(meter, x, 60, SDE.t_max)
    assert meter.spent == 60 * 64
    into, ends = pilot.errors(sd.DDIM(), 8)
    assert meter.spent == 60 * 64
    for gap, place in ((3, 30), (8, 40)):
        t, s = pilot.knots[place], pilot.knots[place + gap]
        moved = model()(pilot.states[place], t).at(s)
        miss = (moved - pilot.states[place + gap]).square().mean().sqrt() / float(s.radius)
        assert into[place, place + gap] == pytest.approx(float(miss), rel=1e-3)
    # The error of a rule of order p falls as h^(p + 1): two intervals against four.
    for solver, order in ((sd.DDIM(), 1), (sd.ExponentialMultistep(2), 2)):
        into, _ = pilot.errors(solver, 4)
        assert np.log2(into[30, 34] / into[30, 32]) == pytest.approx(order + 1, abs=0.4)
    assert np.isinf(into[5, 4])
    t = pilot.knots[50]
    miss = model()(pilot.states[50], t).x0 - pilot.states[-1]
    assert ends[49, 50] == pytest.approx(float(miss.square().mean().sqrt()), rel=1e-3)


def test_motion_starts_at_the_candidate_and_never_crosses():
    for sde in (SDE, sd.FlowSDE(t_min=1e-3)):
        base = Candidate("", sd.DDIM(), sd.uniform_lambda(sde, 30, t_min=0.01))
        motion = Motion(base, free=False)
        again = motion(motion.start)
        np.testing.assert_allclose(
            [k.t for k in again.grid.knots], [k.t for k in base.grid.knots], rtol=1e-9
        )
        rng = np.random.default_rng(0)
        for _ in range(30):  # far too long or short: shrunk to fit, still a grid
            wild = motion(rng.normal(0, 4, 12)).grid
            assert wild.steps == 30
            assert float(wild.knots[-2].lam) <= float(sde.lam(sde.t_min)) * (1 + 1e-12)
            assert math.isclose(float(wild.knots[0].t), sde.t_max)


def test_refinement_finds_the_best_place_of_a_single_knot():
    x, truth = fresh(256)
    base = Candidate("", sd.DDIM(), sd.uniform_lambda(SDE, 2, t_min=0.05))
    trial = Trial(Metered(model()), x, truth, torch.ones(len(x)))
    motion = Motion(base, free=False)
    places = np.linspace(-1.5, 0.5, 81)
    values = [trial.objective(trial.errors(motion(np.array([p])))) for p in places]
    found = refine(trial, motion, motion.start, 5)
    assert found[0] == pytest.approx(places[int(np.argmin(values))], abs=0.04)


def test_hopping_leaves_a_minimum_that_a_descent_does_not():
    means = torch.tensor([[-0.5, 0.0], [0.5, 0.0], [0.5, 0.02]])
    narrow = sd.GaussianMixture(SDE, means, sd.Covariance.isotropic([0.09, 4e-5, 4e-5]))
    x, _ = fresh(256)
    truth = sd.sample(narrow, *sd.recommended(narrow, 200), x=x).x
    trial = Trial(Metered(narrow), x, truth, torch.ones(len(x)))
    worst = Candidate("", sd.DDIM(), sd.uniform_lambda(SDE, 3, t_min=1e-3))
    motion = Motion(worst, free=False)
    stuck = motion(refine(trial, motion, motion.start, 3))
    descend_nearby = partial(descend, trial, jacobians=1, free=False)
    start = [(trial.rate(one), one) for one in (worst, stuck)]
    first, *others = hop(start, 30, trial.rate, descend_nearby, free=False)
    assert trial.rate(first) < trial.rate(stuck) - 0.02
    assert all(trial.rate(first) <= trial.rate(other) for other in others)


@pytest.mark.parametrize("kind", ["low rank", "isotropic", "diverse"])
def test_a_mixture_of_low_rank_is_solved_in_its_span(kind):
    generator = torch.Generator().manual_seed(0)
    means, factors = (
        torch.randn(shape, generator=generator, dtype=torch.float64) / 4
        for shape in ((3, 2, 20), (3, 40, 2))
    )
    covariance = {
        "low rank": sd.Covariance.low_rank(factors, 0.01),
        "isotropic": sd.Covariance.isotropic(0.01),
        "diverse": sd.Covariance.low_rank(factors, [0.01, 0.01, 0.02]),
    }[kind]
    whole = sd.GaussianMixture(SDE, means, covariance, [0.2, 0.5, 0.3])
    x = torch.randn(50, 2, 20, generator=generator, dtype=torch.float64)
    small, inner = in_its_span(whole, x)
    if kind == "diverse":
        assert small is whole
        assert inner is x
        return
    size = 3 * (3 if kind == "low rank" else 1) + 1
    assert inner.shape == (50, size)
    solver, grid = sd.recommended(SDE, 6, floor=0.0)
    coarse = [sd.sample(m, solver, grid, x=z).x for m, z in ((whole, x), (small, inner))]
    fine = [sd.sample(m, *sd.recommended(m, 50), x=z).x for m, z in ((whole, x), (small, inner))]
    full, part = (endpoint_errors(a, b) for a, b in zip(coarse, fine, strict=True))
    torch.testing.assert_close(part * math.sqrt(size / 40), full, rtol=1e-9, atol=1e-12)


def test_the_cost_is_every_evaluation_of_every_sample():
    class Counting:
        def __init__(self) -> None:
            self.inner, self.rows_seen = model(), 0
            self.sde = SDE

        def rows(self, index):
            return self

        def __call__(self, x, knot):
            self.rows_seen += len(x)
            return self.inner(x, knot)

    counting = Counting()
    found = tune(counting, "Heun", 21, event_shape=(2,), starts=16, held_out=8, dtype=torch.float64)
    assert found.cost == counting.rows_seen
    assert found.nfe == 21 == found.budget
    found = tune(counting, "Heun", 8, event_shape=(2,), starts=8, held_out=4, rounds=0)
    assert found.nfe != 8
    assert f"{found.nfe} network evaluations within a budget of 8" in str(found)


def test_a_model_that_is_not_finite_or_never_settles_is_told_of(monkeypatch):
    class Broken:
        sde = SDE

        def __init__(self, rough: float) -> None:
            self.rough = rough

        def rows(self, index):
            return self

        def __call__(self, x, knot):
            # Rough in time: no solve of any length agrees with the next.
            found = model()(x, knot)
            shift = self.rough * math.sin(1e9 * float(knot.t))
            return Prediction(x, knot, found.eps + shift, EPS)

    settings = {
        "event_shape": (2,),
        "starts": 8,
        "held_out": 4,
        "rounds": 0,
        "dtype": torch.float64,
    }
    with pytest.raises(NonFiniteError, match="endpoints that are not finite"):
        tune(Broken(math.nan), "DDIM", 4, **settings)
    monkeypatch.setattr(by_endpoints, "_LONGEST", 60)
    with pytest.warns(TuningWarning, match="the reference is not accurate"):
        tune(Broken(5.0), "DDIM", 10, **settings)


def test_says_where_nothing_better_was_found(tuned):
    assert "no candidate is better than the default" not in str(tuned)
    stayed = dataclasses.replace(tuned, source="default")
    assert "no candidate is better than the default" in str(stayed)


@pytest.mark.parametrize(
    ("solver", "nfe", "words"),
    [
        ("ProbabilityFlow", 5, "chooses its own steps"),
        ("DDIM", 1, "no knot to move"),
    ],
)
def test_what_cannot_be_tuned(solver, nfe, words):
    with pytest.raises(ConfigError, match=words):
        tune(model(), solver, nfe)


def test_rounds_of_a_search_that_is_not_made_are_refused():
    with pytest.raises(ConfigError, match="rounds=2 has no effect here"):
        tune(model(), "EulerMaruyama", 5, rounds=2)


def test_a_name_is_the_same_in_any_case():
    """Were "Recommended" another solver than "recommended", its grid alone would be tuned."""
    settings = {"starts": 8, "held_out": 8, "rounds": 0, "dtype": torch.float64}
    small, capital = (tune(model(), name, 5, **settings) for name in ("recommended", "Recommended"))
    assert (small.solver, small.grid, small.cost) == (capital.solver, capital.grid, capital.cost)


def test_the_bound_of_a_gaussian_and_its_best_grid():
    # Data N(0, s^2): x0 has the second moment M = s^4 / (s^2 + rho^2), and the bound is a sum.
    spread, sde = 0.5, sd.EDMSDE(t_min=0.05, t_max=20.0)
    gaussian = sd.Gaussian(sde, torch.zeros(2), sd.Covariance.isotropic(spread**2))
    generator = torch.Generator().manual_seed(0)
    x = 20.0 * torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    default = sd.uniform_lambda(sde, 6)
    signal = Signal(Metered(gaussian), x, default)
    found = signal.best(default, slice(2000))
    error = signal.bound(found, slice(2000, 3000)).mean()
    ratio = signal.ratio(found, default, slice(2000, 3000))

    def bound(rho: np.ndarray) -> float:
        def mass(r):  # integral of M over 1/rho^2, from 0
            return (spread / r) ** 2 - np.log1p((spread / r) ** 2)

        held = spread**4 / (spread**2 + rho[:-1] ** 2)
        steps = mass(rho[1:]) - mass(rho[:-1]) - held * (rho[1:] ** -2 - rho[:-1] ** -2)
        return 0.5 * float(steps.sum())

    def levels(grid: sd.Grid) -> np.ndarray:
        return np.array([float(knot.rho) for knot in grid.knots[:-1]])

    ours, stock = levels(found), levels(default)
    np.testing.assert_allclose(ours[[0, -1]], [20.0, 0.05], rtol=1e-9)
    assert error == pytest.approx(bound(ours), rel=0.1)
    assert ratio.value == pytest.approx(bound(ours) / bound(stock), rel=0.03)
    from scipy.optimize import minimize

    best = minimize(
        lambda z: bound(np.exp(np.sort(np.concatenate([np.log([20.0, 0.05]), z]))[::-1])),
        np.log(stock[1:-1]), method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-6},
    )  # fmt: skip
    assert bound(ours) < 1.01 * best.fun
    assert ratio.high < 0.9
    quarter = levels(between(default, found, 0.25))
    np.testing.assert_allclose(quarter, stock**0.75 * ours**0.25, rtol=1e-9)


def test_a_grid_for_noisy_steps_brings_samples_closer_to_the_truth():
    mixture = problems.ring8(SDE)
    found = tune(mixture, "DDIM(eta=1.0)", 8, starts=2048, held_out=2048, dtype=torch.float64)
    assert "of the way to the least KL bound" in found.source
    assert found.metric.startswith("KL bound")
    assert found.ratio.high < 0.9
    level = mixture.log_prob(mixture.sample(20_000, seed=1), SDE.clean).mean()
    gaps = []
    for grid in (found.grid, choose.choose(SDE, "DDIM(eta=1.0)", None, 8)[1]):
        x = sd.sample(mixture, found.solver, grid, x=prior(4000), seeds=5).x
        gaps.append(float(level - mixture.log_prob(x, SDE.clean).mean()) / 2)
    assert abs(gaps[0]) < 0.5 * abs(gaps[1])  # nats a dimension, +-0.01


def fan(solver: sd.Solver, grid: sd.Grid, deviation: float) -> float:
    """Deviation of a solver's samples where the network is that of centred Gaussian data: every
    step is linear, so that one start tells it.
    """
    gaussian = sd.Gaussian(SDE, torch.zeros(1), sd.Covariance.isotropic(deviation**2))
    one = torch.ones(1, 1, dtype=torch.float64)
    return float(sd.sample(gaussian, solver, grid, x=one).x) * float(SDE.at(SDE.t_max).sigma)


def test_a_measure_of_samples_makes_good_for_a_network_that_is_wrong(capsys):
    # Data of deviation 0.5 and a network trained, as it were, on data of 0.8.
    network = sd.Gaussian(SDE, torch.zeros(4), sd.Covariance.isotropic(0.8**2))
    true = 0.5 * torch.randn(20_000, 4, generator=torch.Generator().manual_seed(3))
    metric = FrechetDistance(true, lambda x: x)
    settings = {"starts": 256, "held_out": 512, "dtype": torch.float64}
    found = tune(network, "DDIM", 6, rounds=3, metric=metric, progress=True, **settings)
    faithful = tune(network, "DDIM", 6, rounds=3, **settings)
    default = fan(*choose.choose(SDE, "DDIM", None, 6), 0.8)
    assert 0.5 + 0.05 < default < fan(faithful.solver, faithful.grid, 0.8) < 0.8
    assert fan(found.solver, found.grid, 0.8) == pytest.approx(0.5, rel=0.06)  # 256 x 4: +-2.2 %
    # What is reported is measured on the last starts.
    seeds = sd.SampleSeeds(tuple(range(1_000_768, 1_001_280)))
    x = SDE.prior_sample(seeds.open((512, 4), torch.float64))
    again = [
        metric(sd.sample(network, solver, grid, x=x).x)
        for solver, grid in ((found.solver, found.grid), choose.choose(SDE, "DDIM", None, 6))
    ]
    assert found.metric == "Frechet distance"
    assert found.error == pytest.approx(again[0].value, rel=1e-9)
    assert found.change.value == pytest.approx(again[0].value - again[1].value, rel=1e-9)
    assert found.change.high < -0.5 * again[1].value
    assert found.ratio is None
    # The default and hand-made grids on half of the starts, four of them and the moves on all,
    # finalists on those that decide, one of them and the default there again, two on the last.
    stock = 1 + len(stock_grids(sd.uniform_lambda(SDE, 6), 6))
    assert found.cost == 6 * (stock * 128 + (4 + 72) * 256 + 5 * 512 + 2 * 512)
    assert "deciding" in capsys.readouterr().err


def test_with_a_measure_the_solver_is_chosen_too_and_noise_is_as_good():
    gaussian = sd.Gaussian(SDE, torch.zeros(2), sd.Covariance.isotropic(0.35**2))
    true = 0.5 * torch.randn(20_000, 2, generator=torch.Generator().manual_seed(4))
    metric = FrechetDistance(true, lambda x: x)
    free = tune(gaussian, "recommended", 5, starts=128, metric=metric, dtype=torch.float64)
    assert free.solver != sd.recommended(SDE, 5, floor=0.0)[0]
    assert fan(free.solver, free.grid, 0.35) == pytest.approx(0.5, rel=0.06)  # 256 x 4: +-2.2 %
    gaussian = sd.Gaussian(SDE, torch.zeros(2), sd.Covariance.isotropic(0.8**2))
    noisy = tune(gaussian, "Ancestral", 12, starts=256, metric=metric, dtype=torch.float64)
    assert noisy.solver == specs.solver("Ancestral")
    x = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    x = x * float(SDE.at(SDE.t_max).sigma)
    default = sd.sample(gaussian, *choose.choose(SDE, "Ancestral", None, 12), x=x).x.std()
    assert abs(float(default) - 0.5) > 0.04
    tuned_std = float(sd.sample(gaussian, noisy.solver, noisy.grid, x=x).x.std())
    assert tuned_std == pytest.approx(0.5, rel=0.04)


def test_a_measure_that_sees_no_gain_keeps_the_default():
    class Tied:
        name = "always the same"

        def __call__(self, x):
            return Estimate(1.0, 0.9, 1.1, tuple(np.linspace(0.9, 1.1, 40)))

    class Fickle(Tied):
        def __call__(self, x):
            calls.append(len(x))
            if len(x) < 16 and len(calls) % 2 == 0:  # half of the search cannot be measured
                raise NonFiniteError("not today")
            return super().__call__(x)

    calls = []
    for metric in (Tied(), Fickle()):
        found = tune(model(), "DDIM", 5, starts=8, metric=metric, dtype=torch.float64)
        assert found.source == "default"
        assert found.grid == choose.choose(SDE, "DDIM", None, 5)[1]
        assert found.change[:3] == (0.0, 0.0, 0.0)


def test_a_measure_decides_for_the_least_if_that_is_no_chance():
    rng = np.random.default_rng(7)
    values = {"default": 1.0, "noisy": 0.5, "less": 0.8, "least": 0.7, "none": math.nan}
    common = rng.normal(0.0, 1.0, 200)

    class Known(Judge):
        def estimate(self, candidate):
            value = values[candidate.name]
            own = rng.normal(0.0, 1.0, 200) if candidate.name == "noisy" else common
            return Estimate(value, value - 2, value + 2, tuple(value + own))

        def rate(self, candidate):
            value = values[candidate.name]
            return value if math.isfinite(value) else math.inf

    judge = Known(Metered(model()), prior(4), FrechetDistance(prior(50), lambda x: x))
    grid = sd.uniform_lambda(SDE, 4)
    default, noisy, less, least, none = (Candidate(name, sd.DDIM(), grid) for name in values)
    assert judge.choose([default, less, none, least]) is least
    assert judge.choose([default, noisy]) is default
    assert judge.choose([default, none]) is default
    assert judge.choose([default]) is default


def test_ratings_are_the_value_alone_and_other_starts_have_other_noise():
    asked = []

    @dataclasses.dataclass
    class Heard:
        resamples: int = 30
        name: str = "heard"

        def __call__(self, x):
            asked.append((self.resamples, x))
            return Estimate(float(x.mean()) if len(asked) > 1 else math.nan, 0.0, 0.0, ())

    x = prior(8)
    noisy = Candidate("", specs.solver("DDIM(eta=1.0)"), sd.uniform_lambda(SDE, 4))
    judge = Judge(Metered(model()), x, Heard())
    assert judge.rate(noisy) == math.inf
    assert judge.rate(noisy) == float(asked[1][1].mean())
    judge.estimate(noisy)
    Judge(Metered(model()), x, Heard(), noise=1).estimate(noisy)
    assert [resamples for resamples, _ in asked] == [0, 0, 30, 30]
    first, *_, third, fourth = (samples for _, samples in asked)
    assert torch.equal(first, third)
    assert not torch.isclose(first, fourth).any()


def test_a_measure_that_cannot_decide_is_refused_before_the_search():
    def estimates(value, draws):
        class Fixed:
            name = "fixed"

            def __call__(self, x):
                calls.append(len(x))
                return value if draws is None else Estimate(value, value, value, draws)

        return Fixed()

    for metric, wrong in (
        (estimates(math.nan, (1.0, 2.0)), "fixed of 8 of the default's samples is .* not an Est"),
        (estimates(0.5, None), "is 0.5, not an Estimate"),
        (estimates(0.5, ()), "fixed of 8 samples has no draws, which decide"),
        ("energy", "metric must be a Metric, a callable with a name, got 'energy'; write"),
        (len, "metric must be a Metric"),
    ):
        calls = []
        with pytest.raises(ConfigError, match=wrong):
            tune(model(), "DDIM", 5, starts=16, metric=metric)
        assert len(calls) <= 1


def test_a_measure_must_be_a_distance():
    metric = Neighbours(torch.randn(50, 2), "precision")
    with pytest.raises(ConfigError, match="precision is not a distance"):
        tune(model(), "DDIM", 5, metric=metric)
