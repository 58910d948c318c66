"""Frames and the library's integrators: accuracy, error estimates, independence of samples."""

from __future__ import annotations

import math
import re
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import pytest
import scipy.fft
import torch
from support import gaussian, mixture, randn

from scoresde import VPSDE, Covariance, Gaussian, ScoreModel, load_pretrained
from scoresde.errors import ConfigError, NonFiniteError, ShapeError
from scoresde.exact.problems import digits64, ring8
from scoresde.likelihood import (
    Exact,
    FixedGrid,
    Hutchinson,
    NoFrame,
    PerSample,
    TwoPhase,
    Whitened,
    calibrated_grid,
    choose_method,
    chosen_control,
    estimate_frame,
    log_likelihood,
    round_off,
)
from scoresde.likelihood.fixed_grid import quadrature
from scoresde.likelihood.per_sample import _A, _B, _dense, suited
from scoresde.ode import TorchDiffEq
from scoresde.sampling.latents import encode
from scoresde.sampling.run import NonFiniteWarning
from scoresde.solvers.probability_flow import ProbabilityFlow
from scoresde.training.data import dequantize, heldout_digits

METHODS = {"per sample": PerSample(1e-5), "fixed": FixedGrid(71), "two phases": TwoPhase(1e-5)}
ERRORS = {"per sample": 1e-4, "fixed": 1e-3, "two phases": 4e-4}  # bits/dim on a small mixture


def bits(nats: torch.Tensor, dim: int) -> torch.Tensor:
    return nats.abs() / (dim * math.log(2))


def frames(model) -> dict:
    mean, covariance = model.moments()
    d = mean.numel()
    values, columns = torch.linalg.eigh(covariance)
    factors = columns[:, -2:] * (values[-2:] - values[0]).sqrt()
    return {
        "none": NoFrame(),
        "one variance": Whitened(mean, float(values.mean())),
        "a number": Whitened(0.0, 1.0),
        "diagonal": Whitened(mean, covariance.diagonal().reshape(mean.shape)),
        "full": Whitened(mean, covariance),
        "low rank": Whitened(mean, Covariance.low_rank(factors.reshape(1, d, 2), float(values[0]))),
    }


# -- frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["none", "one variance", "a number", "diagonal", "full", "low rank"]
)
def test_a_frame_is_what_its_formulas_say(name: str) -> None:
    """Velocity, trace, log-determinant and score against finite differences and dense algebra."""
    model = mixture(VPSDE(), 4)
    frame = frames(model)[name]
    tau, h = -0.7, 1e-5
    y, dy = randn(3, 4, seed=1), randn(3, 4, seed=2)
    z = frame.enter(y, tau)
    torch.testing.assert_close(frame.leave(z, tau), y)
    moved = (frame.enter(y + h * dy, tau + h) - frame.enter(y - h * dy, tau - h)) / (2 * h)
    torch.testing.assert_close(frame.velocity(dy, z, tau), moved, rtol=1e-6, atol=1e-8)
    slope = (frame.half_log_det(tau + h, 4) - frame.half_log_det(tau - h, 4)) / (2 * h)
    assert frame.trace(tau, 4) == pytest.approx(slope, rel=1e-6)
    matrix = torch.func.jacrev(lambda u: frame.leave(u[None], tau)[0])(z[0])
    constant = frame.half_log_det(0.3, 4) - float(
        torch.logdet(torch.func.jacrev(lambda u: frame.leave(u[None], 0.3)[0])(z[0]))
    )
    assert frame.half_log_det(tau, 4) == pytest.approx(float(torch.logdet(matrix)) + constant)
    score = randn(3, 4, seed=3)  # of y; along the flow dy/dtau = -rho^2 score
    dz = frame.velocity(-math.exp(2 * tau) * score, z, tau)
    torch.testing.assert_close(frame.score(dz, z, tau), score @ matrix, rtol=1e-8, atol=1e-10)
    if name != "none":  # A is dy/dtau's Jacobian for data of mean 0 that the frame whitens
        inverse = torch.linalg.inv(matrix @ matrix.T)
        torch.testing.assert_close(frame.pull(y, tau), math.exp(2 * tau) * y @ inverse)
    times = torch.full((3,), tau, dtype=torch.float64)
    torch.testing.assert_close(frame.enter(y, times), z)
    torch.testing.assert_close(frame.velocity(dy, z, times), frame.velocity(dy, z, tau))
    assert torch.as_tensor(frame.trace(times, 4)).tolist() == pytest.approx(
        [frame.trace(tau, 4)] * 3
    )


def test_a_gaussian_stands_still_in_its_own_frame() -> None:
    model = gaussian(VPSDE(), 5)
    frame = Whitened(*model.moments())
    x = model.sample(4, 1e-3, seed=1)
    got = log_likelihood(
        model, x, method=FixedGrid(2, order=1), frame=frame, divergence=Exact(), prior=model
    )
    assert float(bits(got.nats - model.log_prob(x, 1e-3), 5).max()) < 1e-9
    assert got.mean_nfe == 2


@pytest.mark.parametrize("name", ["none", "one variance", "diagonal", "full", "low rank"])
@pytest.mark.parametrize("method", list(METHODS))
def test_the_density_is_the_same_in_every_frame(method: str, name: str) -> None:
    model = mixture(VPSDE(), 4)
    x = model.sample(4, 1e-3, seed=1)
    frame = frames(model)[name]
    got = log_likelihood(
        model, x, method=METHODS[method], frame=frame, divergence=Exact(), prior=model
    )
    assert float(bits(got.nats - model.log_prob(x, 1e-3), 4).max()) < ERRORS[method]


def test_estimated_frames_have_the_moments_of_the_data() -> None:
    """Those of the sample, to round-off: 300 data of mean m and covariance C."""
    data = mixture(VPSDE(), 2, 3).sample(300, seed=1)
    mean, covariance = data.mean(0), torch.cov(data.flatten(1).T)
    y = randn(4, 2, 3)
    for form, truth in {
        "low rank": Whitened(mean, covariance),
        "diagonal": Whitened(mean, covariance.diagonal().reshape(2, 3)),
        "one variance": Whitened(mean, float(covariance.diagonal().mean())),
    }.items():
        got = estimate_frame(data, form)
        torch.testing.assert_close(
            got.leave(got.enter(y, -9.0), 0.0), truth.leave(truth.enter(y, -9.0), 0.0),
            rtol=1e-10, atol=1e-10,
        )  # fmt: skip


def test_the_cosine_frame_whitens_waves_exactly() -> None:
    """Data made of scipy's cosines: the frame's determinant and its states have unit variance."""
    spectrum = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1)).double() + 0.1
    waves = spectrum * randn(20_000, 2, 3, 4, seed=2)
    data = torch.from_numpy(scipy.fft.idctn(waves.numpy(), axes=(2, 3), norm="ortho")) + 0.5
    frame = estimate_frame(data, "dct")
    z = scipy.fft.dctn(frame.enter(data, -20.0).numpy(), axes=(2, 3), norm="ortho")
    covariance = torch.cov(torch.from_numpy(z).flatten(1).T)
    torch.testing.assert_close(covariance.diagonal(), torch.ones(24).double(), rtol=0, atol=1e-9)
    # Other entries are those of 276 pairs of independent waves, of spread 1 / sqrt(20 000).
    assert float((covariance - torch.diag(covariance.diagonal())).abs().max()) < 0.03
    want = float(waves.flatten(1).var(0).log().sum()) / 2
    assert frame.half_log_det(-20.0, 24) == pytest.approx(want, abs=1e-6)
    with pytest.raises(ShapeError, match="form='diagonal'"):
        estimate_frame(randn(5, 3), "dct")


def test_the_randomized_svd_finds_low_rank_data() -> None:
    factors = randn(1, 60, 5, seed=2) * torch.tensor([3.0, 2.0, 1.5, 1.2, 1.0])
    data = randn(4000, 5, seed=3) @ factors[0].T + 0.1 * randn(4000, 60, seed=4)
    frame = estimate_frame(data, rank=5)
    sample = (data - data.mean(0)).T @ (data - data.mean(0)) / (len(data) - 1)
    exact = torch.linalg.eigvalsh(sample)
    torch.testing.assert_close(torch.sort(frame._values).values, exact[-5:], rtol=1e-6, atol=1e-6)
    assert float(frame._ridge) == pytest.approx(float(exact[:-5].mean()), rel=1e-3)


# -- accuracy and honesty -------------------------------------------------------------------------


def test_the_adaptive_method_on_digits() -> None:
    """The issue's figure: 1e-3 bits/dim within 110 evaluations, with C estimated from data."""
    model = digits64(VPSDE(t_min=1e-5))
    frame = estimate_frame(model.sample(10_000, seed=5))
    x = model.sample(32, 1e-5, seed=1)
    got = log_likelihood(model, x, frame=frame, divergence=Exact(), prior=model)
    error = bits(got.nats - model.log_prob(x, 1e-5), 64)
    assert float(error.mean()) < 1e-3
    assert got.mean_nfe < 110


def test_a_calibrated_grid_on_a_ring() -> None:
    """The issue's figure: 1e-3 bits/dim within 75 evaluations."""
    model = ring8(VPSDE(t_min=1e-5))
    frame = estimate_frame(model.sample(10_000, seed=5))
    settings = {"frame": frame, "divergence": Exact()}
    grid = calibrated_grid(model, model.sample(32, 1e-5, seed=77), 51, **settings)
    x = model.sample(128, 1e-5, seed=1)
    got = log_likelihood(model, x, method=grid, prior=model, **settings)
    error = bits(got.nats - model.log_prob(x, 1e-5), 2)
    even = log_likelihood(model, x, method=FixedGrid(51), prior=model, **settings)
    assert float(error.mean()) < 1e-3
    assert float(bits(even.nats - model.log_prob(x, 1e-5), 2).mean()) > 10 * float(error.mean())
    assert got.mean_nfe == 51


def test_the_chooser_takes_the_smallest_grid_that_will_do() -> None:
    model = digits64(VPSDE(t_min=1e-5))
    frame = estimate_frame(model.sample(2000, seed=5))
    settings = {"frame": frame, "divergence": Exact()}
    pilot, x = model.sample(8, 1e-5, seed=77), model.sample(32, 1e-5, seed=1)
    chosen = choose_method(model, pilot, error=3e-3, **settings)
    assert isinstance(chosen.method, FixedGrid)
    assert f"grid of {chosen.method.nodes} nodes" in str(chosen)
    got = log_likelihood(model, x, method=chosen.method, prior=model, **settings)
    assert float(bits(got.nats - model.log_prob(x, 1e-5), 64).mean()) < 3e-3
    assert chosen.method.nodes == 55
    errors = {}
    for nodes in (41, 55):  # the grid before it, and its own, against the closed form
        grid = calibrated_grid(model, pilot, nodes, dense=150, **settings)
        found = log_likelihood(model, pilot, method=grid, prior=model, **settings)
        errors[nodes] = float(bits(found.nats - model.log_prob(pilot, 1e-5), 64).mean())
    assert errors[55] < 3e-3 < errors[41]
    assert chosen.error == pytest.approx(errors[55], rel=0.03)
    strict = choose_method(model, pilot, error=1e-7, **settings)
    assert isinstance(strict.method, PerSample)
    assert strict.method.tol == pytest.approx(0.3e-7 * math.log(2))
    with pytest.raises(ConfigError, match="positive"):
        choose_method(model, pilot, error=0.0)


def test_round_off_is_that_of_the_networks_numbers() -> None:
    """A network with a ripple as fine as float32 is told from a smooth one."""

    def net(x, t):
        return torch.tanh(x.roll(1, 1))

    def rough(x, t):
        return torch.tanh(x.roll(1, 1)) + 1e-3 * torch.sin(1e5 * x)

    x = randn(8, 5)
    fine, coarse = (
        round_off(ScoreModel(f, VPSDE(), time="t"), x, divergence=Exact()) for f in (net, rough)
    )
    assert fine < 1e-6
    assert coarse > 10 * fine


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_round_off_follows_the_dtype_of_the_network(dtype) -> None:
    """A rotation and a tanh: the trace differs by a quarter to a half of the dtype's eps."""
    model = ScoreModel(
        lambda x, t: torch.tanh(x + 0.5 * x.roll(1, 1)), VPSDE(), time="t", net_dtype=dtype
    )
    found = round_off(model, randn(8, 5), divergence=Exact())
    assert 0.15 < found / torch.finfo(dtype).eps < 0.75


def test_the_pilot_error_is_that_of_the_integration_alone() -> None:
    """With random probes too: the grid and a far finer one see the same, kept ones."""
    model = mixture(VPSDE(), 5)
    pilot = model.sample(8, 1e-3, seed=7)
    frame = Whitened(*model.moments())
    rule = Hutchinson(probes=1, fresh=False)
    grid = calibrated_grid(model, pilot, 41, frame=frame, divergence=Hutchinson(probes=1))
    found, fine = (
        log_likelihood(model, pilot, method=method, divergence=rule, frame=frame).nats
        for method in (grid, FixedGrid(801))
    )
    assert grid.pilot_error == pytest.approx(float((found - fine).abs().median()) / 5, rel=0.02)
    assert grid.pilot_error < 1e-4


HONEST = [
    PerSample(3e-4), PerSample(1e-4), PerSample(1e-5),
    FixedGrid(21), FixedGrid(41), TwoPhase(1e-4), TwoPhase(1e-5),
]  # fmt: skip


@pytest.mark.parametrize("method", HONEST, ids=repr)
@pytest.mark.parametrize("make", [ring8, lambda sde: mixture(sde, 5)], ids=["ring8", "mixture"])
def test_error_estimates_are_honest(make, method) -> None:
    """95% of true errors lie below 3 estimates; the median estimate is 1 to 10 times its error."""
    model = make(VPSDE(t_min=1e-5))
    x = model.sample(128, 1e-5, seed=1)
    frame = Whitened(*model.moments())
    got = log_likelihood(model, x, method=method, frame=frame, divergence=Exact(), prior=model)
    error = (got.nats - model.log_prob(x, 1e-5)).abs()
    assert float((error <= 3 * got.error).double().mean()) >= 0.95
    assert 1 < float((got.error / error).median()) < 10


def test_error_estimates_are_honest_on_the_shipped_network() -> None:
    """Where much goes on at the clean end, and formulas of low order start in small steps."""
    model = load_pretrained("mnist")
    digits = dequantize(heldout_digits()[0][:1000], torch.Generator().manual_seed(0))
    digits = digits.reshape(-1, 1, 28, 28)
    frame, x = estimate_frame(digits), digits[-2:]
    settings = {"divergence": Hutchinson(1, fresh=False), "frame": frame}
    truth = log_likelihood(model, x, method=FixedGrid(121), **settings).nats
    got = log_likelihood(model, x, method=FixedGrid(41), **settings)
    error = (got.nats - truth).abs()
    assert bool((error <= 3 * got.error).all())
    assert float((got.error / error).max()) < 30
    assert float(bits(error, 784).max()) < 1e-3


def test_two_phases_take_few_divergences() -> None:
    """More accurate than one method of 74 divergences, with half of them, counted apart."""
    model = digits64(VPSDE(t_min=1e-5))
    frame = estimate_frame(model.sample(10_000, seed=5))
    x = model.sample(16, 1e-5, seed=1)
    calls, method = [], TwoPhase(3e-5, max_step=1.5)

    class Seen(Plain):
        def divergence(self, x, knot):
            calls.extend([1] * len(x))
            return self.model.divergence(x, knot)

    got = log_likelihood(
        Seen(model), x, method=method, frame=frame, divergence=Exact(), prior=model
    )
    error = bits(got.nats - model.log_prob(x, 1e-5), 64)
    divergences = got.divergences
    plain = got.nfe - divergences
    assert float(error.mean()) < 3e-4
    assert float(divergences.double().mean()) < 40
    assert float(plain.double().mean()) < 105
    assert int(divergences.sum()) == len(calls)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_the_continuous_extension_is_of_order_4(fraction: float) -> None:
    """States inside one step of y' = y, whose slopes are powers of the step."""
    errors = []
    for h in (0.2, 0.1):
        slopes = [1.0]
        for row in (*_A[1:], _B[:6]):
            slopes.append(1.0 + h * sum(w * k for w, k in zip(row, slopes, strict=True)))
        weights = _dense(fraction)
        state = 1.0 + h * sum(w * k for w, k in zip(weights, slopes, strict=True))
        errors.append(abs(state - math.exp(fraction * h)))
    assert errors[1] < 1e-7
    assert math.log2(errors[0] / errors[1]) > 4.7


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_weights_integrate_polynomials_exactly(order: int) -> None:
    taus = [0.0, 0.3, 0.4, 1.0, 1.7, 1.9, 2.5]
    weights = quadrature(taus, order)
    assert weights.shape == (6, 7)
    for power in range(order):
        values = torch.tensor(taus, dtype=torch.float64) ** power
        each = torch.as_tensor(weights) @ values
        want = [(b ** (power + 1) - a ** (power + 1)) / (power + 1) for a, b in pairwise(taus)]
        assert each.tolist() == pytest.approx(want)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_fixed_grid_converges_at_its_order(order: int) -> None:
    model = mixture(VPSDE(t_min=0.05), 2)
    x = model.sample(8, 0.05, seed=1)
    truth = model.log_prob(x, 0.05)
    errors = [
        float(
            (
                log_likelihood(
                    model, x, method=FixedGrid(n, order), divergence=Exact(), prior=model
                ).nats
                - truth
            ).norm()
        )
        for n in (161, 321)
    ]
    # The start is of lower order, at the end where nothing moves: it caps the order at 3.
    assert math.log2(errors[0] / errors[1]) > min(order, 3) - 0.4


# -- probes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [PerSample(1e-3), FixedGrid(41)])
def test_fresh_probes_are_unbiased_with_calibrated_errors(method) -> None:
    """3000 repeats: the mean within 4 standard errors, the stated variance within 12 %, which is
    4 times the scatter of a ratio of two variances.
    """
    model = mixture(VPSDE(), 5)
    point, repeats = model.sample(1, 1e-3, seed=4), 3000
    x = point.expand(repeats, -1)
    frame = Whitened(*model.moments())
    settings = {"method": method, "frame": frame, "prior": model}
    exact = log_likelihood(model, point, divergence=Exact(), **settings).nats
    got = log_likelihood(model, x, divergence=Hutchinson(probes=2), **settings)
    spread = float(got.nats.std())
    slack = float(got.error.mean())  # the paths are the same; rejections may differ
    assert abs(float(got.nats.mean() - exact)) < 4 * spread / math.sqrt(repeats) + slack
    assert float(got.stderr.square().mean()) / spread**2 == pytest.approx(1.0, abs=0.12)
    few = x[:400]
    kept = log_likelihood(model, few, divergence=Hutchinson(probes=2, fresh=False), **settings)
    # A step of the adaptive method keeps its probe, and few steps matter in this small problem.
    assert float(kept.nats.std()) > (1.3 if isinstance(method, FixedGrid) else 1.0) * spread


def test_fixed_probes_differ_only_by_the_integration() -> None:
    """The same probes and two methods: what is left is the ODE error."""
    model = mixture(VPSDE(), 5)
    x = model.sample(4, 1e-3, seed=4)
    rule = Hutchinson(probes=2, fresh=False)
    a = log_likelihood(model, x, divergence=rule, method=PerSample(1e-6))
    b = log_likelihood(model, x, divergence=rule, method=FixedGrid(201))
    assert float((a.nats - b.nats).abs().max()) < 3e-5  # and the probes differ by up to 2.4
    torch.testing.assert_close(a.stderr, b.stderr, rtol=0, atol=3e-5)
    assert float(a.stderr.max()) > 1


def test_forward_mode_gives_the_same_traces_and_counts_one_evaluation() -> None:
    model = mixture(VPSDE(), 2, 3)
    x = model.sample(4, 1e-3, seed=1)
    settings = {"method": FixedGrid(15), "frame": Whitened(0.0, 1.0)}
    a = log_likelihood(model, x, divergence=Hutchinson(3), **settings)
    b = log_likelihood(model, x, divergence=Hutchinson(3, forward=True), **settings)
    torch.testing.assert_close(a.nats, b.nats, rtol=1e-10, atol=1e-10)
    assert a.mean_nfe == b.mean_nfe == 15


def test_a_control_variate_is_taken_where_it_helps() -> None:
    """All the noise of a Gaussian goes, some of a mixture's whose parts are alike, and none is
    taken of a control that has nothing to do with the model."""
    settings = {"method": FixedGrid(31)}
    sde = VPSDE()
    factors = randn(1, 6, 2, seed=3)
    model = Gaussian(sde, torch.zeros(6).double(), Covariance.low_rank(factors, 0.1))
    frame = Whitened(*model.moments())
    x = model.sample(16, 1e-3, seed=1)
    rule = chosen_control(model, x[:4], frame=frame)
    assert rule.control == pytest.approx(1.0, abs=1e-6)
    noisy = log_likelihood(model, x, divergence=Hutchinson(), frame=frame, **settings)
    got = log_likelihood(model, x, divergence=rule, frame=frame, prior=model, **settings)
    assert float(noisy.stderr.min()) > 0.05
    assert float((got.nats - model.log_prob(x, 1e-3)).abs().max()) < 1e-8

    near = mixture(sde, 5)
    frame = Whitened(*near.moments())
    point = near.sample(1, 1e-3, seed=4).expand(300, -1)
    rule = chosen_control(near, near.sample(32, 1e-3, seed=5), frame=frame)
    settings |= {"frame": frame, "prior": near}
    others = near.sample(200, 1e-3, seed=6)
    before, after = (
        log_likelihood(near, others, divergence=each, **settings).stderr.square().mean()
        for each in (Hutchinson(), rule)
    )
    assert 0.1 < rule.control < 1
    assert float(after) < 0.95 * float(before)
    got = log_likelihood(near, point, divergence=rule, **settings)
    exact = log_likelihood(near, point[:1], divergence=Exact(), **settings).nats
    spread = float(got.nats.std())
    assert abs(float(got.nats.mean() - exact)) < 4 * spread / math.sqrt(300)
    assert float(got.stderr.square().mean()) / spread**2 == pytest.approx(1.0, abs=0.25)

    strange = Whitened(torch.zeros(6), Covariance.low_rank(randn(1, 6, 2, seed=9), 0.1))
    diagonal = ScoreModel(lambda x, t: torch.tanh(x), sde, time="t")
    assert chosen_control(diagonal, x[:4], frame=strange).control == 0.0


# -- samples never meet ---------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(probes=2)])
@pytest.mark.parametrize("method", list(METHODS))
def test_neither_batch_mates_nor_their_order_matter(method: str, divergence) -> None:
    model = mixture(VPSDE(), 4)
    x = model.sample(5, 1e-3, seed=1)
    settings = {"method": METHODS[method], "divergence": divergence}
    together = log_likelihood(model, x, seeds=range(5), **settings)
    order = [3, 0]
    apart = log_likelihood(model, x[order], seeds=order, **settings)
    torch.testing.assert_close(apart.nats, together.nats[order], rtol=1e-11, atol=1e-11)
    nfe = together.nfe
    assert apart.nfe.tolist() == nfe[order].tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
@pytest.mark.parametrize("method", list(METHODS))
def test_a_nan_or_an_outlier_touches_nobody(method: str, value: float) -> None:
    model = mixture(VPSDE(), 3)
    x = model.sample(4, 1e-3, seed=1)
    settings = {"method": METHODS[method], "divergence": Exact()}
    clean = log_likelihood(model, x, **settings)
    bad = x.clone()
    bad[2, 1] = value
    # From so far out the adaptive methods run out of evaluations.
    fine = math.isfinite(value) and method == "fixed"
    told = nullcontext() if fine else pytest.warns(NonFiniteWarning, match="1 of 4")
    with told:
        got = log_likelihood(model, bad, **settings)
    good = [0, 1, 3]
    assert got.nats[good].tolist() == pytest.approx(clean.nats[good].tolist(), rel=1e-11)
    if not math.isfinite(value):
        assert got.nats[2].isnan()
        assert "not finite" in got.failures[2]
    assert torch.isfinite(got.nats[good]).all()


class Plain:
    """A model by its network alone."""

    def __init__(self, model) -> None:
        self.model, self.sde = model, model.sde

    def __call__(self, x, knot):
        return self.model(x, knot)

    def rows(self, index):
        return type(self)(self.model.rows(index))


class Poisoned:
    """NaN from the network for samples that pass a point of their way."""

    def __init__(self, model) -> None:
        self.model, self.sde = model, model.sde

    def __call__(self, x, knot):
        prediction = self.model(x, knot)
        raw = prediction.raw.clone()
        late = torch.as_tensor(knot.t).flatten() > 0.3
        raw[(x[:, 0] > 0) & late] = math.nan
        return prediction.replace(raw)

    def rows(self, index):
        return self


@pytest.mark.parametrize("method", list(METHODS))
def test_a_network_that_fails_on_the_way(method: str) -> None:
    model = mixture(VPSDE(), 3)
    x = model.sample(12, 1e-3, seed=1)
    with pytest.warns(NonFiniteWarning, match="the network's output is not finite at t = 0.3"):
        got = log_likelihood(Poisoned(model), x, method=METHODS[method], divergence=Exact())
    bad = sorted(got.failures)
    # Those whose first coordinate is positive somewhere on the exact flow above t = 0.3.
    tight = ProbabilityFlow(TorchDiffEq(rtol=1e-5, atol=1e-5))
    ends = torch.linspace(0.31, 1.0, 8).tolist()
    flows = [mixture(replace(model.sde, t_max=end), 3) for end in ends]
    path = torch.stack([encode(flow, x, solver=tight)[:, 0] for flow in flows])
    assert bad == (path > 0).any(0).nonzero().flatten().tolist() == [0, 1, 2, 8, 9, 11]
    assert got.nats.isnan().nonzero().flatten().tolist() == bad
    assert all("not finite" in why for why in got.failures.values())


def test_there_is_a_cap_on_evaluations_per_sample() -> None:
    wild = ScoreModel(lambda x, t: torch.sin(300 * x), VPSDE(), time="t")
    with pytest.warns(NonFiniteWarning, match="2 of 2"):
        got = log_likelihood(wild, randn(2, 3), method=PerSample(1e-8, max_evals=50))
    assert got.nats.isnan().all()
    found = re.search(
        r"50 evaluations, at log rho = (\S+), (\d+)% of the way; write", got.failures[0]
    )
    low, high = (-float(wild.sde.at(t).lam) for t in (wild.sde.t_min, wild.sde.t_max))
    assert float(found[2]) == pytest.approx(100 * (float(found[1]) - low) / (high - low), abs=0.51)
    assert int(got.nfe.max()) <= 50


def test_conditions_follow_samples_that_leave() -> None:
    width = torch.tensor([0.1, 1.0, 0.5, 0.02], dtype=torch.float64)

    def net(x, t, width):
        return torch.tanh(x / width[:, None])

    model = ScoreModel(net, VPSDE(), time="t").bind(width=width)
    x = randn(4, 2)
    settings = {"divergence": Exact(), "method": PerSample(1e-6)}
    got = log_likelihood(model, x, **settings)
    assert len(set(got.nfe.tolist())) > 1
    for k in range(4):
        alone = log_likelihood(model.rows(torch.tensor([k])), x[k : k + 1], **settings)
        assert float(alone.nats) == pytest.approx(float(got.nats[k]), rel=1e-11)


@pytest.mark.parametrize("method", list(METHODS))
def test_evaluations_are_counted_as_they_are(method: str) -> None:
    calls = []

    def net(x, t):
        calls.extend([1] * len(x))
        return torch.tanh(3 * x)

    model = ScoreModel(net, VPSDE(), time="t")
    got = log_likelihood(model, randn(3, 2), method=METHODS[method])
    assert int(got.nfe.sum()) == len(calls)


def test_gradients_through_the_fixed_grid() -> None:
    weight = (0.3 * randn(3, 3, seed=2)).requires_grad_()
    model = ScoreModel(lambda x, t: torch.tanh(x @ weight), VPSDE(t_min=1e-2), time="t")
    x = randn(2, 3, seed=5)

    def value(grad: bool) -> torch.Tensor:
        return log_likelihood(
            model, x, divergence=Exact(), method=FixedGrid(15), grad=grad
        ).nats.sum()

    (slope,) = torch.autograd.grad(value(True), weight)
    with torch.no_grad():
        weight[0, 1] += 1e-5
        up = value(False)
        weight[0, 1] -= 2e-5
        down = value(False)
        weight[0, 1] += 1e-5
    assert float(slope[0, 1]) == pytest.approx(float((up - down) / 2e-5), rel=1e-5)


# -- at the door ----------------------------------------------------------------------------------


def test_nonsense_is_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match="2 nodes or more"):
        FixedGrid(1)
    with pytest.raises(ConfigError, match="ascending from 0 to 1"):
        FixedGrid(3, places=(0.0, 0.7, 0.9))
    with pytest.raises(ConfigError, match="tol > 0"):
        PerSample(0.0)
    with pytest.raises(ConfigError, match="max_step=-1"):
        TwoPhase(max_step=-1.0)
    with pytest.raises(ConfigError, match="from 1 to 5"):
        TwoPhase(nodes=0)
    with pytest.raises(ShapeError, match="two samples"):
        estimate_frame(randn(1, 3))
    with pytest.raises(ConfigError, match="all samples are equal"):
        estimate_frame(torch.ones(5, 3))
    with pytest.raises(ConfigError, match="did you mean 'diagonal'"):
        estimate_frame(randn(5, 3), "diagonel")
    model = mixture(VPSDE(), 3)
    with pytest.raises(NonFiniteError, match="pilot"):
        calibrated_grid(model, torch.full((2, 3), math.nan), 9)


def test_the_tolerance_follows_the_floor_of_a_network() -> None:
    exact = ring8(VPSDE())
    x = exact.sample(24, seed=0).double()
    wiggles = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).double()

    def net(x, t):
        # An error of .02 in eps that changes fast with time and place, as those of networks do.
        knot = exact.sde.at(t, like=x)
        wave = torch.sin(4 * x @ wiggles + 10 * knot.lam)
        return exact(x, knot).eps + 0.02 * 2**0.5 * wave

    model = ScoreModel(net, exact.sde, time="t", net_dtype=torch.float64)
    found = log_likelihood(model, x)
    said = log_likelihood(model, x, method=PerSample(tol=1e-3))
    assert torch.equal(found.nats, said.nats)
    fine = log_likelihood(model, x, method=PerSample(tol=1e-6))
    small = log_likelihood(model, x, method=PerSample())
    assert found.mean_nfe < 0.7 * small.mean_nfe
    assert float((found.nats - fine.nats).mean().abs()) < float(found.error.mean())
    # A closed form has no floor, and images keep their tolerance.
    closed = log_likelihood(exact, x)
    assert torch.equal(closed.nats, log_likelihood(exact, x, method=PerSample(tol=1e-4)).nats)
    assert suited(model, 784) == PerSample(tol=1e-4)
    assert suited(exact, 2) == PerSample(tol=1e-4)
    assert suited(model, 64) == PerSample(tol=1e-3)
