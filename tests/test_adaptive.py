"""Adaptive solvers: accuracy by tolerance, and independence of the samples in a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
from stochastic_truth import IDS, PROCESSES, LinearModel, true_moments

from scoresde import VPSDE, Gaussian, GaussianMixture, Knot
from scoresde.errors import ConfigError, SolverError
from scoresde.exact.mixtures import Covariance
from scoresde.grid import uniform_lambda, uniform_t
from scoresde.noise import SampleSeeds
from scoresde.prediction import X0, Prediction
from scoresde.sampling.run import NonFiniteWarning, sample
from scoresde.solvers.bridge import Bridges
from scoresde.solvers.dpm_adaptive import DPMSolverAdaptive
from scoresde.solvers.gotta_go_fast import GottaGoFast

DPM = [DPMSolverAdaptive(order=2), DPMSolverAdaptive(order=3)]
ALL = [*DPM, GottaGoFast(rtol=0.1, atol=0.02)]
F64 = torch.float64


def starts(n, *event, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *event, generator=generator, dtype=F64)


def mixture(sde):
    means = torch.tensor([[-1.0, 0.3], [0.2, -0.6], [1.3, 0.8]], dtype=F64)
    return GaussianMixture(sde, means, Covariance.isotropic([0.04, 0.09, 0.02]), [0.5, 0.3, 0.2])


# -- the flow --------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", PROCESSES[:5], ids=IDS[:5])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_reaches_the_exact_flow(sde, order):
    truth = Gaussian(sde, torch.tensor([0.7, -0.2]), Covariance.isotropic(0.25))
    grid = uniform_lambda(sde, 1, clean=False)
    x = grid.knots[0].radius * starts(8, 2)
    want = truth.flow(x, *grid.knots)
    errors, cost = [], []
    for tolerance in (1e-3, 1e-5) if order == 2 else (1e-4, 1e-6):
        solver = DPMSolverAdaptive(order, atol=tolerance, rtol=tolerance)
        out = sample(truth, solver, grid, x=x)
        errors.append(float((out.x - want).abs().max()) / grid.knots[-1].radius / tolerance)
        cost.append(out.mean_nfe)
    assert max(errors) < 20  # in units of the tolerance
    # A tolerance c times smaller needs steps shorter by c^(1/order) (local errors): 10 or 4.6.
    assert cost[1] / cost[0] == pytest.approx(100 ** (1 / order), rel=0.35)


def test_processes_with_the_same_noise_levels_take_the_same_steps():
    """VP and EDM differ by a scale of x alone."""
    from scoresde import EDMSDE
    from scoresde.grid import from_lambdas

    counts = []
    for sde in (VPSDE(), EDMSDE()):
        grid = from_lambdas(sde, [-3.0, 3.0], clean=False)
        x = grid.knots[0].radius * starts(16, 2)
        counts.append(sample(mixture(sde), DPM[1], grid, x=x).nfe)
    assert torch.equal(*counts)


# -- every sample for itself -----------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_steps_and_result_are_the_same_alone_and_in_a_batch(solver):
    model = mixture(VPSDE())
    grid = uniform_lambda(model.sde, 3)
    seeds = tuple(range(10, 17))
    settings = {"dtype": F64}
    whole = sample(model, solver, grid, shape=(7, 2), noise=SampleSeeds(seeds), **settings)
    assert len(set(whole.nfe.tolist())) > 1  # otherwise nothing is shown
    for k in (0, 3, 6):
        noise = SampleSeeds((seeds[k],))
        alone = sample(model, solver, grid, shape=(1, 2), noise=noise, **settings)
        assert int(alone.nfe) == int(whole.nfe[k])
        torch.testing.assert_close(alone.x[0], whole.x[k], rtol=1e-11, atol=1e-11)
    order = [4, 1, 6, 0, 2, 5, 3]
    noise = SampleSeeds(tuple(seeds[k] for k in order))
    shuffled = sample(model, solver, grid, shape=(7, 2), noise=noise, **settings)
    assert torch.equal(shuffled.nfe, whole.nfe[order])
    torch.testing.assert_close(shuffled.x, whole.x[order], rtol=1e-11, atol=1e-11)


def test_cost_does_not_grow_with_the_batch():
    """Step control by the batch's worst sample would (72 to 135 from batch 1 to 256 in a peer)."""
    model = mixture(VPSDE())
    x = starts(256, 2)
    grid = uniform_lambda(model.sde, 2)
    large = sample(model, DPM[1], grid, x=x).mean_nfe
    small = sample(model, DPM[1], grid, x=x[:8]).mean_nfe
    assert float(large / small) == pytest.approx(1.0, abs=0.15)


@dataclass(eq=False)
class Labelled:
    """A model whose samples carry their own condition: the mean of their data."""

    sde: VPSDE
    means: torch.Tensor
    sizes: list[int] = field(default_factory=list)
    seen: list[Knot] = field(default_factory=list)

    def __call__(self, x, knot):
        assert len(x) == len(self.means), "a condition has lost its sample"
        self.sizes.append(len(x))
        self.seen.append(knot)
        mean = self.means.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        p = knot.alpha**2 * 0.25 + knot.sigma**2
        weight, alpha = (
            torch.as_tensor(v).to(x.dtype) for v in (0.25 * knot.alpha / p, knot.alpha)
        )
        return Prediction(x, knot, mean + weight * (x - alpha * mean), X0)

    def rows(self, index):
        return Labelled(self.sde, self.means[index], self.sizes, self.seen)


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_finished_samples_leave_the_batch_with_their_conditions(solver):
    means = torch.tensor([0.0, 30.0, -5.0, 0.5, 100.0], dtype=F64)
    model = Labelled(VPSDE(), means)
    out = sample(model, solver, uniform_t(model.sde, 2), shape=(5, 64), seeds=range(5), dtype=F64)
    assert min(model.sizes) < 5
    # Every sample finds its own mean, 64 coordinates of deviation 1/2, to under half of the rtol
    # that the coarsest of these solvers has.
    torch.testing.assert_close(out.x.mean(1), means, rtol=0.04, atol=0.3)
    # What is counted is what was asked.
    assert sum(model.sizes) == int(out.nfe.sum())


@pytest.mark.parametrize("sde", PROCESSES, ids=IDS)
@pytest.mark.parametrize("solver", ALL, ids=str)
def test_times_stay_within_the_process(sde, solver):
    if solver.stochastic and sde.t_max > 1:
        pytest.skip("hundreds of steps in t from 80")
    model = Labelled(sde, torch.zeros(3, dtype=F64))
    out = sample(model, solver, uniform_lambda(sde, 3), shape=(3, 2), seeds=range(3))
    times = torch.cat([torch.as_tensor(k.t, dtype=F64).flatten() for k in model.seen])
    assert float(times.min()) >= sde.t_min
    assert float(times.max()) <= sde.t_max
    assert bool(out.x.isfinite().all())


class _SomeNaN(Labelled):
    """NaN for samples with a mean above 10, below t = 0.5."""

    def __call__(self, x, knot):
        prediction = super().__call__(x, knot)
        late = torch.as_tensor(knot.t < 0.5).flatten()
        bad = (self.means > 10) & late
        raw = torch.where(bad.reshape(-1, *[1] * (x.ndim - 1)), torch.nan, prediction.raw)
        return prediction.replace(raw)

    def rows(self, index):
        return _SomeNaN(self.sde, self.means[index], self.sizes, self.seen)


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_a_sample_of_nans_neither_stalls_nor_changes_the_others(solver):
    grid = uniform_t(VPSDE(), 2)
    means = torch.tensor([0.0, 20.0, -0.5], dtype=F64)
    settings = {"shape": (3, 2), "seeds": (5, 6, 7), "dtype": F64}
    with pytest.warns(NonFiniteWarning, match="not finite"):
        out = sample(_SomeNaN(grid.sde, means), solver, grid, **settings)
    assert list(out.failures) == [1]
    want = sample(Labelled(grid.sde, means), solver, grid, **settings)
    torch.testing.assert_close(out.x[[0, 2]], want.x[[0, 2]], rtol=1e-12, atol=1e-12)
    assert torch.equal(out.nfe[[0, 2]], want.nfe[[0, 2]])


def test_a_cap_on_evaluations():
    model = mixture(VPSDE())
    solver = DPMSolverAdaptive(atol=1e-7, rtol=1e-7, max_evals=40)
    with pytest.raises(SolverError, match="max_evals"):
        sample(model, solver, uniform_lambda(model.sde, 2), shape=(2, 2), dtype=F64)


@pytest.mark.parametrize("solver", [DPMSolverAdaptive(order=2), DPMSolverAdaptive(), ALL[-1]])
def test_the_cap_is_never_exceeded(solver):
    model = Labelled(VPSDE(), torch.tensor([0.0, 30.0, 3000.0], dtype=F64))
    grid = uniform_t(model.sde, 1, clean=False)
    free = sample(model, solver, grid, shape=(3, 2), seeds=range(3), dtype=F64).nfe
    cap = int(free.max()) - 1
    capped = Labelled(model.sde, model.means)
    with pytest.warns(NonFiniteWarning):
        out = sample(
            capped, replace(solver, max_evals=cap), grid, shape=(3, 2), seeds=range(3), dtype=F64
        )
    assert int(out.nfe.max()) <= cap
    assert set(out.failures) == set((free > cap).nonzero().flatten().tolist())


@dataclass(eq=False)
class RoundOff:
    """Answers that depend on the size of the batch in their last bits, as in float32."""

    model: GaussianMixture
    size: float

    @property
    def sde(self):
        return self.model.sde

    def __call__(self, x, knot):
        prediction = self.model(x, knot)
        return prediction.replace(prediction.raw * (1 + self.size * math.sin(len(x))))

    def rows(self, index):
        return self


@pytest.mark.parametrize("solver", ALL, ids=str)
def test_round_off_of_the_network_does_not_part_the_paths(solver):
    """Without the rounding of steps 12 of 16 samples of GottaGoFast differ by more than 1e-4. With
    it a step that lies between two rounded ones still parts about 1 sample in 100.
    """
    model = RoundOff(mixture(VPSDE()), 1e-7)
    grid = uniform_t(model.sde, 2)
    whole = sample(model, solver, grid, shape=(16, 2), seeds=range(16), dtype=F64)
    parted = 0
    for k in range(16):
        alone = sample(model, solver, grid, shape=(1, 2), seeds=(k,), dtype=F64)
        near = torch.allclose(alone.x[0], whole.x[k], rtol=1e-5, atol=1e-5)
        parted += int(alone.nfe) != int(whole.nfe[k]) or not near
    assert parted <= 1


# -- the SDE ---------------------------------------------------------------------------------------


def test_a_bridge_agrees_with_itself_and_has_the_law_of_brownian_motion():
    n, sde = 40_000, PROCESSES[3]
    noise = SampleSeeds((1, 2)).open((2, n), F64)
    path = Bridges(sde.at(2.0), sde.at(1.0), noise)  # the clock runs from 4 down to 1

    def move(high, low):
        return path.increments([0, 1], [high, high], [low, low])

    total = SampleSeeds((1, 2)).open((2, n), F64).normal() * math.sqrt(3.0)
    rejected = move(4.0, 1.5)
    first = move(4.0, 3.0)
    second = move(3.0, 1.5)
    torch.testing.assert_close(first + second, rejected)
    third = move(1.5, 1.0)
    torch.testing.assert_close(first + second + third, total)
    slack = 4.5 * math.sqrt(2 / n)
    for sample_ in range(2):
        a, b, c = first[sample_], second[sample_], third[sample_]
        for value, width in ((a, 1.0), (b, 1.5), (c, 0.5)):
            assert float(value.var()) == pytest.approx(width, rel=slack)
        assert abs(float((a * b).mean())) < 4.5 * math.sqrt(1.5 / n)
        assert abs(float((b * c).mean())) < 4.5 * math.sqrt(0.75 / n)
    assert abs(float((first[0] * first[1]).mean())) < 4.5 / math.sqrt(n)


def test_gotta_go_fast_has_the_exact_moments():
    """24 samples of 500 independent coordinates: 12,000 draws, steps shared by a sample's 500."""
    model = LinearModel(VPSDE())
    grid = uniform_t(model.sde, 1, clean=False)
    solver = GottaGoFast(rtol=0.02, atol=0.005)
    out = sample(model, solver, grid, shape=(24, 500), seeds=range(24), dtype=F64)
    mean, variance = true_moments(grid.knots[-1])
    n = out.x.numel()
    assert float(out.x.mean()) == pytest.approx(mean, abs=4 * math.sqrt(variance / n))
    # Of the tolerance 0.02 / 2 is left as bias at the very most.
    assert float(out.x.var()) / variance == pytest.approx(1.0, abs=4 * math.sqrt(2 / n) + 0.01)


def test_rejections_do_not_bias_the_noise():
    """One coordinate a sample, so that its noise decides: with fresh noise at every attempt the
    large draws would be rejected, and the variance fall short."""
    model = LinearModel(VPSDE(), mean=0.0, variance=0.25)
    grid = uniform_t(model.sde, 1, clean=False)
    solver = GottaGoFast(rtol=0.05, atol=0.01, first=0.5)
    n = 1500
    out = sample(model, solver, grid, shape=(n, 1), seeds=range(n), dtype=F64)
    _, variance = true_moments(grid.knots[-1], 0.0)
    assert float(out.x.var()) / variance == pytest.approx(1.0, abs=3.5 * math.sqrt(2 / n) + 0.03)


# -- the door --------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dtype_and_shape_are_kept(solver, dtype):
    for shape in ((2, 3), (1, 2, 3, 4), (0, 2)):
        model = LinearModel(VPSDE())
        out = sample(model, solver, uniform_t(model.sde, 2), shape=shape, dtype=dtype)
        assert out.x.dtype == dtype
        assert out.x.shape == shape
        assert solver.evals(out.grid) is None


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: DPMSolverAdaptive(atol=0.0, rtol=0.0), "atol=0.0078"),
        (lambda: GottaGoFast(rtol=0.0, atol=0.0), "atol=0.0078"),
        (lambda: DPMSolverAdaptive(atol=-1.0), "0 or more"),
        (lambda: DPMSolverAdaptive(rtol=math.nan), "0 or more"),
        (lambda: DPMSolverAdaptive(order=4), "2 or 3"),
        (lambda: DPMSolverAdaptive(first=0.0), "positive"),
        (lambda: DPMSolverAdaptive(max_evals=0), "max_evals"),
        (lambda: GottaGoFast(first=2.0), "fraction"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, hint):
    with pytest.raises(ConfigError, match=hint):
        make()
