"""`sample` and its loop: stored states, counts, dtypes, refused arguments, and failures."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import CONTINUOUS, DISCRETE, gaussian, mixture, randn

from scoresde import (
    DDIM,
    VPSDE,
    BatchSeed,
    BrownianPath,
    Covariance,
    EulerMaruyama,
    FlowSDE,
    Gaussian,
    Heun,
    Predrawn,
    SampleSeeds,
    ScoreModel,
    from_times,
    iterate,
    karras,
    log_likelihood,
    sample,
    uniform_lambda,
    uniform_t,
)
from scoresde._internal.counted import Counted
from scoresde.errors import (
    ConfigError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    TimeRangeError,
    ZeroSNRError,
)
from scoresde.sampling.run import NonFiniteWarning
from scoresde.sde import DiscreteVPSDE, cosine_betas
from scoresde.solvers import DPMSolverAdaptive, evaluations

SDE = VPSDE()
MODEL = mixture(SDE)
GRID = uniform_lambda(SDE, 6)


def test_a_start_needs_its_grid() -> None:
    """It could be pure noise or, as in SDEdit, a noised image: only the grid says which."""
    for settings in ({}, {"nfe": 10}, {"solver": "DDIM", "nfe": 10}):
        with pytest.raises(ConfigError, match=r"x needs a grid, whose first knot is the time of x"):
            sample(MODEL, x=torch.zeros(2, 2), **settings)


def test_evaluations_are_one_number_a_sample() -> None:
    """In every result a LongTensor of shape (B,) and a mean, whether samples share it or not."""
    shared = sample(MODEL, Heun(), GRID, shape=(4, 2))
    assert shared.nfe.tolist() == [shared.mean_nfe] * 4
    own = sample(MODEL, DPMSolverAdaptive(), uniform_lambda(SDE, 2), x=randn(8, 2))
    for found in (own, log_likelihood(MODEL, own.x)):
        assert found.nfe.dtype == torch.long
        assert found.nfe.shape == (8,)
        assert found.mean_nfe == sum(found.nfe.tolist()) / 8
    assert len(set(own.nfe.tolist())) > 1


def _draw(solver=None, **settings):
    settings = {"shape": (4, 2), **({} if "noise" in settings else {"seeds": range(4)}), **settings}
    return sample(
        settings.pop("model", MODEL), solver or DDIM(), settings.pop("grid", GRID), **settings
    )


# -- what comes back -------------------------------------------------------------------------------


def test_a_result_prints_as_one_line():
    out = _draw(Heun())
    assert repr(out) == (
        "SampleResult(x (4, 2) float32, 11 network evaluations a sample, 6 steps from rho = 152, "
        f"{out.seconds:.2g} s)"
    )
    several = replace(out, nfe=torch.tensor([9, 30, 12]), failures={2: "why"})
    assert ", 9 to 30 network evaluations a sample, " in repr(several)
    assert repr(several).endswith(" s, 1 failed)")


def test_sample_is_iterate_run_to_its_end():
    steps = list(iterate(MODEL, EulerMaruyama(), GRID, shape=(4, 2), seeds=range(4)))
    out = _draw(EulerMaruyama(), keep=True)
    assert [info.step for info in steps] == list(range(7))
    assert all(info.steps == 6 for info in steps)
    assert [info.knot for info in steps] == list(GRID.knots)
    assert [info.mean_nfe for info in steps] == list(range(7))
    assert torch.equal(out.x, steps[-1].x)
    for kept, info in zip(out.trajectory, steps, strict=True):
        assert torch.equal(kept.x, info.x)
        assert kept.knot == info.knot
    assert (out.steps, out.mean_nfe, out.grid, out.failures) == (6, 6, GRID, {})
    assert out.noise == SampleSeeds((0, 1, 2, 3))
    assert out.seconds > 0


def test_states_that_are_kept_and_seen():
    seen = []
    out = _draw(keep=[0, 5], callback=seen.append)
    assert [info.step for info in out.trajectory] == [0, 5]
    assert [info.step for info in seen] == list(range(7))
    assert _draw().trajectory == ()
    assert [info.step for info in _draw(keep={2}).trajectory] == [2]


def test_a_run_can_be_left_early_and_costs_no_more():
    calls = []

    def net(x, t):
        calls.append(float(t[0]))
        return 0 * x

    model = ScoreModel(net, SDE, time="t")
    for info in iterate(model, DDIM(), GRID, shape=(1, 2)):
        if info.step == 2:
            break
    assert calls == pytest.approx([knot.t for knot in GRID.knots[:2]], rel=1e-6)


def test_progress_changes_nothing():
    assert torch.equal(_draw(progress=True).x, _draw().x)


# -- the three ends --------------------------------------------------------------------------------


def test_the_three_ways_to_end():
    """One Gaussian: the exact flow says where each of the three must arrive."""
    model = gaussian(SDE, 3)
    grid = uniform_lambda(SDE, 400)
    x = float(grid.knots[0].sigma) * randn(5, 3)
    last = grid.knots[-2]
    ends = {f: sample(model, DDIM(), grid, x=x, final=f) for f in ("solver", "none", "denoise")}
    at_t_min = model.flow(x, grid.knots[0], last)
    assert ends["none"].steps == 399
    torch.testing.assert_close(ends["none"].x, at_t_min, rtol=0, atol=0.02)
    assert torch.equal(ends["denoise"].x, model(ends["none"].x, last).x0)
    # For DDIM the step to sigma = 0 is the denoised x0; for others it is their own.
    assert torch.equal(ends["solver"].x, ends["denoise"].x)
    open_ended = grid.without_clean()
    assert torch.equal(sample(model, DDIM(), open_ended, x=x).x, ends["none"].x)
    assert torch.equal(sample(model, DDIM(), open_ended, x=x, final="denoise").x, ends["denoise"].x)
    assert sample(model, DDIM(), open_ended, x=x, final="denoise").mean_nfe == 400


def test_the_network_is_never_asked_at_the_clean_end():
    for final in ("solver", "none", "denoise"):
        for n in (1, 2, 5):
            if n == 1 and final == "none":
                continue
            model = Counted(gaussian(SDE, 2))
            asked = []

            class Watching:
                sde = SDE

                def __call__(self, x, knot, model=model, asked=asked):
                    asked.append(knot)
                    return model(x, knot)

                def rows(self, index):
                    return self

            sample(Watching(), EulerMaruyama(), uniform_t(SDE, n), shape=(2, 2), final=final)
            assert all(SDE.t_min <= knot.t <= SDE.t_max for knot in asked)
            assert len(asked) == n - (final == "none")


# -- the start ---------------------------------------------------------------------------------


def test_the_start_is_drawn_at_the_scale_of_the_first_knot():
    """Not at that of t_max: 40,000 draws fix a deviation to 0.4%."""
    for sde in (SDE, CONTINUOUS["ve"], CONTINUOUS["edm"]):
        for t in (0.3 * sde.t_max, sde.t_max):
            grid = from_times(sde, [t, 0.05 * sde.t_max])
            first = next(iterate(gaussian(sde, 1), DDIM(), grid, shape=(40_000, 1), seeds=3))
            z = first.x.double() / grid.knots[0].sigma
            assert abs(float(z.std()) - 1) < 4 / math.sqrt(80_000)
            assert abs(float(z.mean())) < 4 / math.sqrt(40_000)


def test_a_given_start_is_used_as_it_is_and_left_alone():
    x = randn(3, 2)
    kept = x.clone()
    first = next(iterate(MODEL, DDIM(), GRID, x=x))
    assert torch.equal(first.x, x)
    sample(MODEL, EulerMaruyama(), GRID, x=x)
    assert torch.equal(x, kept)


def test_a_start_given_or_drawn_from_the_same_seeds_is_the_same_run():
    """For noise that is predrawn: the first tensor is the start unless x is given."""
    draws = tuple(randn(4, 2, seed=k) for k in range(7))
    drawn = sample(
        MODEL, EulerMaruyama(), GRID, shape=(4, 2), noise=Predrawn(draws), dtype=torch.float64
    )
    x = GRID.knots[0].sigma * draws[0]
    given = sample(MODEL, EulerMaruyama(), GRID, x=x, noise=Predrawn(draws[1:]))
    assert torch.equal(drawn.x, given.x)


# -- dtype, shape, batch ---------------------------------------------------------------------------


@pytest.mark.parametrize("solver", [DDIM(), EulerMaruyama()])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_dtype_is_kept(solver, dtype):
    assert _draw(solver, dtype=dtype).x.dtype == dtype
    x = randn(4, 2).to(dtype)
    assert sample(MODEL, solver, GRID, x=x).x.dtype == dtype
    assert sample(MODEL, solver, GRID, x=x, dtype=torch.float32).x.dtype == torch.float32
    assert _draw(solver).x.dtype == torch.float32


def test_float32_is_float64_up_to_round_off():
    x = randn(4, 2)
    for solver in (DDIM(), EulerMaruyama(0.0)):
        wide = sample(MODEL, solver, GRID, x=x).x
        narrow = sample(MODEL, solver, GRID, x=x.float()).x
        torch.testing.assert_close(narrow.double(), wide, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("event", [(), (5,), (3, 7), (1, 5, 3), (2, 3, 5, 7)])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_shape_any_batch(event, batch):
    if event == ():  # a bare (B,) of scalars
        model = ScoreModel(lambda x, t: 0.5 * x, SDE, time="t")
    else:
        model = Gaussian(SDE, 0.3 * torch.ones(event), Covariance.isotropic(0.2))
    everyone = sample(model, EulerMaruyama(), GRID, shape=(3, *event), seeds=range(3)).x
    out = sample(model, EulerMaruyama(), GRID, shape=(batch, *event), seeds=range(batch))
    assert out.x.shape == (batch, *event)
    assert out.nfe.tolist() == [6] * batch
    assert out.failures == {}
    torch.testing.assert_close(out.x, everyone[:batch])


@pytest.mark.parametrize("noise", [SampleSeeds, BrownianPath])
def test_a_sample_depends_on_its_seed_alone(noise):
    seeds = (4, 8, 15, 16, 23)
    settings = {"dtype": torch.float64}
    together = sample(MODEL, EulerMaruyama(), GRID, shape=(5, 2), noise=noise(seeds), **settings).x
    again = sample(MODEL, EulerMaruyama(), GRID, shape=(5, 2), noise=noise(seeds), **settings).x
    assert torch.equal(together, again)
    for order in ([3], [4, 0], [2, 4, 1, 0, 3]):
        some = noise(tuple(seeds[i] for i in order))
        out = sample(MODEL, EulerMaruyama(), GRID, shape=(len(order), 2), noise=some, **settings).x
        torch.testing.assert_close(out, together[order], rtol=1e-12, atol=1e-12)
    assert float((together[0] - together[1]).abs().max()) > 1e-3


def test_one_seed_for_the_batch_and_numpys_integers():
    assert torch.equal(_draw(seeds=3).x, _draw(seeds=np.int64(3)).x)
    assert not torch.equal(_draw(seeds=3).x, _draw(seeds=4).x)
    assert torch.equal(_draw(seeds=iter([0, 1, 2, 3])).x, _draw().x)
    assert torch.equal(_draw(noise=BatchSeed(3)).x, _draw(seeds=3).x)


@pytest.mark.usefixtures("float64_default")
@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_torchs_default_dtype_changes_nothing(name):
    sde = {**CONTINUOUS, **DISCRETE}[name]
    grid = karras(sde, 5)
    model = mixture(sde)

    def run():
        return [
            sample(model, solver, grid, shape=(3, 2), seeds=range(3)).x
            for solver in (DDIM(), DDIM(eta=1.0), EulerMaruyama())
        ]

    wide = run()
    torch.set_default_dtype(torch.float32)
    for one, other in zip(wide, run(), strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_the_callers_grad_mode_changes_nothing(mode, name):
    sde = CONTINUOUS[name]
    plain = sample(mixture(sde), EulerMaruyama(), uniform_t(sde, 5), shape=(2, 2)).x
    with mode():
        out = sample(mixture(sde), EulerMaruyama(), uniform_t(sde, 5), shape=(2, 2)).x
    assert torch.equal(plain, out)
    assert not out.requires_grad


def test_gradients_on_demand():
    """d x_end / d x_start of a Gaussian's flow, through 800 first-order steps."""
    model, grid = gaussian(SDE, 2), uniform_lambda(SDE, 60, clean=False)
    x = randn(1, 2).requires_grad_()
    out = sample(model, DDIM(), grid, x=x, grad=True).x
    (grad,) = torch.autograd.grad(out[0, 0], x)
    h = 1e-5
    moved = [
        sample(model, DDIM(), grid, x=x.detach() + torch.tensor([[k * h, 0.0]]).double()).x[0, 0]
        for k in (-1, 1)
    ]
    assert float(grad[0, 0]) == pytest.approx(float(moved[1] - moved[0]) / (2 * h), rel=1e-6)
    assert float(grad[0, 1]) == pytest.approx(0.0, abs=1e-9)
    assert not sample(model, DDIM(), grid, x=x).x.requires_grad


# -- counting ----------------------------------------------------------------------------------


class Doubled:
    """A predictor that takes two evaluations a call, as guidance does."""

    sde = SDE

    def __init__(self, model):
        self.model = model

    def __call__(self, x, knot):
        prediction = self.model(x, knot)
        return prediction.replace(prediction.raw, cost=2)

    def rows(self, index):
        return Doubled(self.model.rows(index))


def test_evaluations_are_counted_not_computed():
    assert _draw(model=Doubled(MODEL)).mean_nfe == 12
    assert _draw(model=Doubled(MODEL), final="none").mean_nfe == 10
    run = iterate(Doubled(MODEL), DDIM(), GRID, shape=(2, 2))
    assert [info.mean_nfe for info in run] == [0, 2, 4, 6, 8, 10, 12]


def test_evaluations_of_single_samples():
    counted = Counted(MODEL)
    x, knot = randn(4, 2), SDE.at(0.5)
    counted(x, knot)
    assert counted.nfe(4).tolist() == [1, 1, 1, 1]
    some = counted.rows(torch.tensor([3, 1]))
    some(x[:2], knot)
    some.rows(torch.tensor([0]))(x[:1], knot)
    Counted(Doubled(MODEL)).rows(torch.tensor([0]))(x[:1], knot)
    assert counted.nfe(4).tolist() == [1, 2, 1, 3]
    doubled = Counted(Doubled(MODEL))
    doubled.rows(torch.tensor([2]))(x[:1], knot)
    assert doubled.nfe(4).tolist() == [0, 0, 2, 0]


# -- the prediction of a step --------------------------------------------------------------------


def test_a_step_shows_the_clean_data_that_it_expected():
    """DDIM asks once, where its step begins; nothing is asked anew to show x0."""
    calls = []

    class Counting(Doubled):
        def __call__(self, x, knot):
            calls.append(float(knot.t))
            return super().__call__(x, knot)

    infos = list(iterate(Counting(MODEL), DDIM(), GRID, x=randn(4, 2)))
    assert infos[0].x0 is None
    for before, info in pairwise(infos):
        assert torch.equal(info.x0, MODEL(before.x, before.knot).x0)
        assert info.prediction.knot == before.knot
    assert len(calls) == 6


def test_a_solver_of_two_stages_shows_the_last_of_them():
    infos = list(iterate(MODEL, Heun(), GRID, x=randn(4, 2)))
    for before, info in pairwise(infos[:-1]):
        assert info.prediction.knot == info.knot
        assert torch.equal(info.x0, MODEL(info.prediction.x, info.knot).x0)
        assert float((info.prediction.x - before.x).abs().max()) > 0
    assert infos[-1].prediction.knot == infos[-2].knot  # no model is asked at sigma = 0


def test_a_part_of_the_batch_has_no_prediction_of_the_step():
    out = sample(MODEL, DPMSolverAdaptive(), uniform_lambda(SDE, 2), shape=(4, 2), keep=True)
    assert all(info.x0 is None for info in out.trajectory[:2])


def test_the_kept_states_keep_their_predictions_and_no_graph():
    out = _draw(keep=[0, 3])
    assert out.trajectory[0].x0 is None
    assert out.trajectory[1].x0.shape == (4, 2)
    x = randn(2, 2).requires_grad_()
    assert not sample(MODEL, DDIM(), GRID, x=x, keep=True).trajectory[2].x0.requires_grad
    kept = sample(MODEL, DDIM(), GRID, x=x, keep=True, grad=True).trajectory
    assert kept[2].x0.requires_grad


# -- the noisy end without signal ----------------------------------------------------------------


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=1.0), EulerMaruyama(), EulerMaruyama(0.0)])
def test_a_run_may_start_where_there_is_no_signal(solver):
    """At alpha = 0 x0 is the mean of the data; a first step from there is exact in law."""
    sde = FlowSDE()
    model = Gaussian(sde, torch.tensor([0.7]), Covariance.isotropic(0.2))
    grid = from_times(sde, [1.0, 0.9], clean=False)
    out = sample(model, solver, grid, shape=(20_000, 1), dtype=torch.float64, seeds=1).x
    knot = sde.at(0.9)
    # x_s = alpha_s mean + sigma_s noise: its law lacks alpha_s^2 times the data's variance.
    assert float(out.mean()) == pytest.approx(knot.alpha * 0.7, abs=4 * 0.9 / math.sqrt(20_000))
    assert float(out.std()) == pytest.approx(knot.sigma, rel=4 / math.sqrt(40_000))


def test_a_network_that_knows_nothing_there_says_so():
    model = ScoreModel(lambda x, t: x, FlowSDE(), predicts="eps")
    with pytest.raises(ZeroSNRError, match="the largest one with alpha > 0"):
        sample(model, DDIM(), uniform_t(FlowSDE(), 4), shape=(2, 2))


def test_a_solver_is_handed_its_own_steps_alone():
    """The driver's steps at both ends are DDIM's; `init` and `step` see what lies between."""
    handed = []

    class Noting(Heun):
        def init(self, model, grid):
            handed.append(grid.knots)
            return super().init(model, grid)

    sde = FlowSDE()
    grid = from_times(sde, [1.0, 0.8, 0.5, 0.1])
    model = Gaussian(sde, torch.tensor([0.7]), Covariance.isotropic(0.2))
    for final, own, cost in (
        ("solver", grid.knots[1:], 6),
        ("none", grid.knots[1:-1], 5),
        ("denoise", grid.knots[1:-1], 6),
    ):
        out = sample(model, Noting(), grid, shape=(2, 1), final=final)
        assert handed.pop() == own
        assert out.mean_nfe == evaluations(Noting(), grid, final) == cost
    x = randn(3, 1)
    want = DDIM().step(model, x, grid.knots[0], grid.knots[1], None, None)[0]
    assert torch.equal(sample(model, Heun(), grid, x=x, keep=[1]).trajectory[0].x, want)
    alone = from_times(sde, [1.0, 0.4], clean=False)
    assert evaluations(Heun(), alone) == 1
    assert not handed


# -- what goes wrong -----------------------------------------------------------------------------


def _broken_below(t_bad, rows=None):
    """Exact, but NaN below a time, for samples whose condition says so."""

    def net(x, t, bad):
        out = MODEL(x, SDE.at(float(t[0]))).eps
        ill = bad & (t < t_bad)
        return torch.where(ill[:, None], torch.nan, out)

    return ScoreModel(net, SDE, time="t").bind(bad=torch.tensor([False, True, False, True]))


@pytest.mark.parametrize("solver", [DDIM(), EulerMaruyama()])
@pytest.mark.parametrize("start", ["drawn", "given"])
def test_samples_that_fail_are_named_with_step_and_time(solver, start):
    grid = from_times(SDE, [0.9, 0.7, 0.5, 0.3, 0.1])
    where = {"shape": (4, 2)} if start == "drawn" else {"x": randn(4, 2)}
    with pytest.warns(NonFiniteWarning, match=r"2 of 4 samples.*sample 1: step 3.*t = 0\.5"):
        out = sample(_broken_below(0.6), solver, grid, seeds=range(4), **where)
    assert set(out.failures) == {1, 3}
    assert "the network's output is not finite at t = 0.5" in out.failures[3]
    assert bool(torch.isnan(out.x[[1, 3]]).all())
    healthy = sample(MODEL, solver, grid, seeds=range(4), **where)
    torch.testing.assert_close(out.x[[0, 2]], healthy.x[[0, 2]])


def test_failures_of_a_batch_with_one_stream_are_found_too():
    grid = from_times(SDE, [0.9, 0.7, 0.5, 0.3, 0.1])
    with pytest.warns(NonFiniteWarning):
        out = sample(_broken_below(0.4), EulerMaruyama(), grid, seeds=0, shape=(4, 2))
    assert set(out.failures) == {1, 3}
    assert all("step 4" in reason and "t = 0.3" in reason for reason in out.failures.values())


def test_a_solver_that_blows_up_is_told_from_a_network_that_does():
    model = ScoreModel(lambda x, t: 1e30 * x.float(), SDE, time="t")
    with pytest.warns(NonFiniteWarning):
        out = sample(model, DDIM(), uniform_t(SDE, 8), shape=(2, 2), seeds=range(2))
    assert all("not finite" in reason and "step" in reason for reason in out.failures.values())


def test_no_warning_where_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _draw()


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda: _draw(final="tweedie"), ConfigError, "'solver', 'none' or 'denoise'"),
        (lambda: _draw(grid=uniform_t(FlowSDE(), 5)), ConfigError, "make the grid from model.sde"),
        (lambda: _draw(grid=uniform_t(VPSDE(beta_max=19.0), 5)), ConfigError, "beta_max=19.0"),
        (lambda: _draw(x=randn(4, 2)), ConfigError, "either x, a start of shape (B, *), or shape"),
        (lambda: _draw(shape=None), ConfigError, "or shape=(B, ...)"),
        (lambda: _draw(shape=(4, -2)), ShapeError, "(4, -2)"),
        (lambda: _draw(shape=(4, 2.0)), ShapeError, "whole numbers"),
        (lambda: _draw(shape=()), ShapeError, "(B, ...)"),
        (lambda: _draw(shape=(5, 2)), ShapeError, "write seeds=range(5)"),
        (lambda: _draw(shape=(4, 3)), ShapeError, "write shape=(4, 2)"),
        (lambda: _draw(shape=(2,)), ShapeError, "samples have shape (2,)"),
        (lambda: _draw(shape=None, x=randn(4, 3)), ShapeError, "got a batch of shape (4, 3)"),
        (lambda: _draw(DDIM), ConfigError, "write DDIM()"),
        (lambda: _draw("DDIMM"), ConfigError, "did you mean 'DDIM'"),
        (lambda: _draw(grid=10), ConfigError, "uniform_lambda(model.sde, 10)"),
        (lambda: _draw(grid=uniform_t), ConfigError, "uniform_t(model.sde, 20)"),
        (lambda: _draw(grid="karras"), ConfigError, "scoresde.grid.karras(model.sde, 20)"),
        (lambda: _draw("Heun", nfe=10), ConfigError, "which takes 11 evaluations: give one"),
        (lambda: _draw("Heun", nfe=10), ConfigError, "sample(model, 'Heun', nfe=10, ...)"),
        (lambda: _draw("recommended"), ConfigError, "or omit the grid as well"),
        (lambda: _draw("PredictorCorrector", grid=None, nfe=1), ConfigError, "write nfe=2"),
        (
            lambda: _draw("ProbabilityFlow", grid=None, nfe=9),
            ConfigError,
            "give a tolerance instead",
        ),
        (lambda: _draw("Heun", grid=None, nfe=2.5), ConfigError, "got 2.5"),
        (lambda: _draw(dtype=torch.int64), DtypeError, "dtype=torch.float32"),
        (
            lambda: _draw(shape=None, x=torch.ones(4, 2, dtype=torch.int32)),
            DtypeError,
            "write x.float()",
        ),
        (
            lambda: _draw(shape=None, x=torch.tensor([[1.0, 2.0]] * 3 + [[math.nan, 0.0]])),
            NonFiniteError,
            "samples [3]",
        ),
        (lambda: _draw(shape=None, x=torch.tensor(1.0)), ShapeError, "(B, *)"),
        (lambda: _draw(seeds=range(4), noise=BatchSeed(1)), ConfigError, "not both"),
        (
            lambda: _draw(EulerMaruyama(), noise=Predrawn((randn(4, 2),) * 3)),
            ConfigError,
            "used up",
        ),
        (lambda: from_times(SDE, [0.1, 0.9]), TimeRangeError, "reverse=True"),
        (lambda: DDIM(eta=1.5), ConfigError, "between 0 and 1"),
        (lambda: EulerMaruyama(stochasticity=-1.0), ConfigError, "0 or more"),
        (
            lambda: _draw(model=ScoreModel(lambda x, t: x[:, :1], SDE, time="t")),
            ShapeError,
            "returned shape (4, 1)",
        ),
    ],
)
def test_bad_input_is_explained(act, error, says):
    with pytest.raises(error) as caught:
        act()
    assert says in str(caught.value)


def test_bad_input_is_refused_at_the_call_and_not_at_the_first_step():
    with pytest.raises(ConfigError, match="'solver', 'none' or 'denoise'"):
        iterate(MODEL, DDIM(), GRID, shape=(4, 2), final="tweedie")
    with pytest.raises(ShapeError, match=r"write seeds=range\(5\)"):
        iterate(MODEL, DDIM(), GRID, shape=(5, 2), seeds=range(4))
    with pytest.raises(ConfigError, match=r"write DDIM\(\)"):
        iterate(MODEL, DDIM, GRID, shape=(4, 2))
    with pytest.raises(ConfigError, match="2 steps or more"):
        iterate(MODEL, DDIM(), uniform_t(SDE, 1), shape=(4, 2), final="none")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["SEEDS2", "SEEDS3", "StochasticHeun", "DEIS", "Heun", "PNDM"])
def test_a_state_in_half_precision_is_followed_in_float32(name, dtype):
    """alpha = 5e-5 where a cosine table ends: eps in half precision was NaN, or off by 1000."""
    sde = DiscreteVPSDE.from_betas(cosine_betas())
    model = Gaussian(sde, torch.tensor([0.7, -0.2]), Covariance.isotropic(0.25))
    settings = {"grid": uniform_t(sde, 100), "shape": (16, 2), "seeds": range(16)}
    want = sample(model, name, **settings)
    got = sample(model, name, **settings, dtype=dtype)
    assert got.x.dtype == dtype
    torch.testing.assert_close(got.x, want.x.to(dtype), rtol=0.0, atol=0.0)
    again = sample(model, name, grid=settings["grid"], x=torch.ones(2, 2, dtype=dtype), seeds=0)
    assert again.x.dtype == dtype


def test_what_half_precision_cannot_hold_is_a_failure_with_its_reason():
    sde = VPSDE()
    model = Gaussian(sde, torch.tensor([1e5, 0.0]), Covariance.isotropic(0.25))
    with pytest.warns(NonFiniteWarning, match=r"too large for .*; write dtype=torch.float32"):
        out = sample(model, "DDIM", nfe=5, shape=(1, 2), dtype=torch.float16)
    assert list(out.failures) == [0]
