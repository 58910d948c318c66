"""Log-densities against closed forms."""

from __future__ import annotations

import math
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from support import CONTINUOUS, DISCRETE, gaussian, mixture, randn
from torch import Tensor

from scoresde import VPSDE, Covariance, FlowSDE, Gaussian, ScoreModel, sample, uniform_lambda
from scoresde.errors import ConfigError, DtypeError, ShapeError, TimeRangeError, ZeroSNRError
from scoresde.exact.problems import ring8
from scoresde.likelihood import (
    Exact,
    FixedGrid,
    Hutchinson,
    LogLikelihood,
    MomentMatched,
    NoFrame,
    PerSample,
    TimeRangeWarning,
    Whitened,
    log_likelihood,
)
from scoresde.likelihood.divergence import value_and_traces
from scoresde.ode import SciPy, TorchDiffEq
from scoresde.sampling.latents import decode, encode
from scoresde.sampling.run import NonFiniteWarning
from scoresde.solvers.probability_flow import ProbabilityFlow

TIGHT = TorchDiffEq(rtol=1e-7, atol=1e-7)


class Plain:
    """A model without the closed-form divergence that the analytic ones have."""

    def __init__(self, model) -> None:
        self.model = model

    @property
    def sde(self):
        return self.model.sde

    def __call__(self, x, knot):
        return self.model(x, knot)

    def rows(self, index):
        return Plain(self.model.rows(index))


def bits(nats: torch.Tensor, dim: int) -> float:
    return float(nats.abs().max()) / (dim * math.log(2))


@pytest.mark.parametrize("wrap", [Plain, lambda m: m])
def test_the_mixture_log_density_is_met_within_1e_5_bits_per_dim(wrap) -> None:
    sde = VPSDE(t_min=1e-5)
    model = ring8(sde)
    x = model.sample(6, 1e-5, seed=1)
    got = log_likelihood(wrap(model), x, method=TIGHT, divergence=Exact(), prior=model)
    assert bits(got.nats - model.log_prob(x, 1e-5), 2) < 1e-5
    assert got.stderr.tolist() == [0.0] * 6


@pytest.mark.parametrize("process", [*CONTINUOUS, "linear table", "cosine table"])
def test_every_process(process: str) -> None:
    sde = {**CONTINUOUS, **DISCRETE}[process]
    t_min = sde.t_min or 0.01 * sde.t_max
    model = mixture(sde, 3)
    x = model.sample(3, t_min, seed=1)
    settings = {"t_min": t_min, "method": TIGHT}
    got = log_likelihood(model, x, divergence=Exact(), prior=model, **settings)
    assert bits(got.nats - model.log_prob(x, t_min), 3) < 1e-5


def test_scipy_agrees() -> None:
    sde = VPSDE()
    model = ring8(sde)
    x = model.sample(3, 1e-3, seed=1)
    got = log_likelihood(
        model, x, method=SciPy(rtol=1e-8, atol=1e-8), divergence=Exact(), prior=model
    )
    assert bits(got.nats - model.log_prob(x, 1e-3), 2) < 1e-5


def test_a_moment_matched_prior_is_the_exact_one_for_a_gaussian() -> None:
    sde = VPSDE()
    model = gaussian(sde, 2, 3)
    mean, covariance = model.moments()
    x = model.sample(4, 1e-3, seed=1)
    variances = covariance.diagonal().reshape(2, 3)
    for prior in (MomentMatched(mean, covariance), MomentMatched(mean, variances)):
        got = log_likelihood(model, x, method=TIGHT, divergence=Exact(), prior=prior)
        assert bits(got.nats - model.log_prob(x, 1e-3), 6) < 1e-5
    # N(0, sigma^2) is a little off, by the density ratio of the two at the latent.
    rough = log_likelihood(model, x, method=TIGHT, divergence=Exact())
    end = sde.at(sde.t_max)
    gap = sde.prior_log_prob(got.z) - model.log_prob(got.z, end)
    torch.testing.assert_close(rough.nats - got.nats, gap, rtol=1e-6, atol=1e-8)
    assert float(gap.abs().max()) > 1e-4


def test_a_prior_of_the_users_own() -> None:
    sde = VPSDE()
    model = gaussian(sde, 3)
    x = model.sample(4, 1e-3, seed=1)
    sigma = sde.at(sde.t_max).sigma
    own = torch.distributions.Independent(
        torch.distributions.Normal(torch.zeros(3).double(), sigma), 1
    )
    a = log_likelihood(model, x, divergence=Exact(), prior=own)
    b = log_likelihood(model, x, divergence=Exact())
    torch.testing.assert_close(a.nats, b.nats)
    with pytest.raises(ShapeError, match="Independent"):
        log_likelihood(model, x, divergence=Exact(), prior=own.base_dist)
    with pytest.raises(ConfigError, match="MomentMatched"):
        log_likelihood(model, x, divergence=Exact(), prior="normal")


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_hutchinson_is_unbiased_and_its_variance_is_the_closed_form(distribution: str) -> None:
    """The Jacobians along a Gaussian's flow commute, so fixed probes v give v^T B v, where B is
    half the logarithm of the ratio of the covariances of y = x/alpha at both ends. Its variance
    is 2 tr B^2 for normal entries; signs leave out the diagonal of B.
    """
    sde = VPSDE()
    factors = randn(1, 4, 2, seed=3)
    model = Gaussian(sde, 0.5 * randn(4, seed=1), Covariance.low_rank(factors, 0.1))
    values, columns = torch.linalg.eigh(model.moments()[1])
    low, high = (values + sde.at(t).rho ** 2 for t in (sde.t_min, sde.t_max))
    b = columns @ torch.diag(0.5 * (high / low).log()) @ columns.T
    if distribution == "rademacher":
        b = b - torch.diag(b.diagonal())
    repeats, probes = 16_384, 2
    variance = 2 * float(b.square().sum()) / probes
    point = model.sample(1, 1e-3, seed=4)
    got = log_likelihood(
        model, point.expand(repeats, -1), divergence=Hutchinson(probes, distribution),
        prior=model, method=TorchDiffEq(rtol=1e-5, atol=1e-6),
    )  # fmt: skip
    bias = float(got.nats.mean() - model.log_prob(point, 1e-3))
    assert abs(bias) < 4 * math.sqrt(variance / repeats)
    # Both have a relative spread of less than 2 %, as five other seeds showed.
    assert float(got.nats.var()) == pytest.approx(variance, rel=0.07)
    assert float(got.stderr.square().mean()) == pytest.approx(variance, rel=0.07)


def test_one_probe_has_no_standard_error() -> None:
    """And of a diagonal Jacobian it is exact all the same."""
    model = gaussian(VPSDE(), 4)
    x = model.sample(3, 1e-3, seed=1)
    got = log_likelihood(model, x, divergence=Hutchinson(probes=1), prior=model, method=TIGHT)
    assert got.stderr.isnan().all()
    torch.testing.assert_close(got.nats, model.log_prob(x, 1e-3), rtol=1e-6, atol=1e-6)


def test_rademacher_is_exact_for_a_diagonal_jacobian() -> None:
    model = gaussian(VPSDE(), 4)
    x = model.sample(3, 1e-3, seed=1)
    a = log_likelihood(model, x, divergence=Hutchinson(), method=TIGHT)
    b = log_likelihood(model, x, divergence=Exact(), method=TIGHT)
    torch.testing.assert_close(a.nats, b.nats, rtol=1e-6, atol=1e-6)
    assert float(a.stderr.max()) < 1e-9


@pytest.mark.parametrize("event", [(5,), (2, 3), (1, 2, 3), (2, 1, 2, 2)])
def test_any_event_shape(event: tuple[int, ...]) -> None:
    model = gaussian(VPSDE(), *event)
    x = model.sample(2, 1e-3, seed=1)
    truth = model.log_prob(x, 1e-3)
    for chunk in (1, 4, 100):
        got = log_likelihood(
            Plain(model), x, divergence=Exact(chunk=chunk), prior=model, method=TIGHT
        )
        assert got.z.shape == x.shape
        torch.testing.assert_close(got.nats, truth, rtol=1e-6, atol=1e-6)


def test_one_forward_serves_the_field_and_its_divergence() -> None:
    calls = []

    def net(x, t):
        calls.append(len(x))
        return 0.3 * x

    model = ScoreModel(net, VPSDE(), time="t")
    for rule in (Exact(), Hutchinson(probes=3)):
        calls.clear()
        got = log_likelihood(model, randn(2, 4), divergence=rule)
        assert int(got.nfe.sum()) == sum(calls)


def test_float64_is_kept_and_a_float32_network_stays_one() -> None:
    net = torch.nn.Linear(3, 3)
    seen = set()

    def call(x, t):
        seen.add(x.dtype)
        return net(x)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x, t):
            return call(x, t)

    model, found = ScoreModel(Net(), VPSDE(), time="t"), []
    for dtype in (torch.float32, torch.float64):
        got = log_likelihood(model, randn(2, 3, dtype=dtype), divergence=Exact())
        assert got.nats.dtype == torch.float64
        assert got.z.dtype == torch.float64
        found.append(got)
    assert seen == {torch.float32}
    net.double()
    whole = log_likelihood(model, randn(2, 3), divergence=Exact())
    assert seen == {torch.float32, torch.float64}
    for got in found:  # the same numbers but for the rounding of x and of the network
        torch.testing.assert_close(got.nats, whole.nats, rtol=0, atol=2e-5)
        torch.testing.assert_close(got.z, whole.z, rtol=0, atol=2e-5)


def test_seeds_decide_and_batch_mates_do_not() -> None:
    model = mixture(VPSDE(), 4)
    x = model.sample(4, 1e-3, seed=1)
    settings = {"divergence": Hutchinson(probes=2), "method": TIGHT}
    together = log_likelihood(model, x, seeds=[5, 6, 7, 8], **settings)
    order = [2, 0]
    apart = log_likelihood(model, x[order], seeds=[7, 5], **settings)
    # The step size is shared by the batch, so equality holds to the tolerance only.
    torch.testing.assert_close(apart.nats, together.nats[order], rtol=1e-5, atol=1e-5)
    other = log_likelihood(model, x, seeds=9, **settings)
    assert float((other.nats - together.nats).abs().min()) > 1e-4


def test_a_nan_or_an_outlier_does_not_touch_the_others() -> None:
    model = mixture(VPSDE(), 3)
    x = model.sample(5, 1e-3, seed=1)
    clean = log_likelihood(model, x, divergence=Exact(), method=TIGHT)
    for value in (math.nan, math.inf, 1e4):
        bad = x.clone()
        bad[2, 1] = value
        told = (
            nullcontext()
            if math.isfinite(value)
            else pytest.warns(NonFiniteWarning, match="1 of 5")
        )
        with told:
            got = log_likelihood(model, bad, divergence=Exact(), method=TIGHT)
        good = [0, 1, 3, 4]
        torch.testing.assert_close(got.nats[good], clean.nats[good], rtol=1e-5, atol=1e-5)
        if not math.isfinite(value):
            assert got.nats[2].isnan()
            assert "not finite" in got.failures[2]


def test_per_sample_conditions_follow_their_rows() -> None:
    shift = torch.tensor([0.0, 1.0, math.nan, 3.0], dtype=torch.float64)
    model = ScoreModel(lambda x, t, m: 0.3 * (x - m[:, None]), VPSDE(), time="t").bind(m=shift)
    x = randn(4, 3)
    with pytest.warns(NonFiniteWarning, match="1 of 4"):
        got = log_likelihood(model, x, divergence=Exact(), method=TIGHT)
    assert list(got.failures) == [2]
    for k in (0, 1, 3):
        alone = log_likelihood(
            model.rows(torch.tensor([k])), x[k : k + 1], divergence=Exact(), method=TIGHT
        )
        torch.testing.assert_close(got.nats[k : k + 1], alone.nats, rtol=1e-5, atol=1e-5)


def test_gradients_with_respect_to_data_and_parameters() -> None:
    net = TanhNet()
    model = ScoreModel(net, VPSDE(t_min=1e-2), time="t")
    x = randn(2, 3, seed=5)
    method = TorchDiffEq(method="rk4", steps=12)

    def value(point: torch.Tensor, grad: bool = False) -> torch.Tensor:
        return log_likelihood(model, point, divergence=Exact(), method=method, grad=grad).nats.sum()

    point = x.clone().requires_grad_()
    by_x, by_w = torch.autograd.grad(value(point, grad=True), [point, net.w])
    step = 1e-5
    for i, j in [(0, 0), (1, 2)]:
        nudge = torch.zeros_like(x)
        nudge[i, j] = step
        slope = (value(x + nudge) - value(x - nudge)) / (2 * step)
        assert float(by_x[i, j]) == pytest.approx(float(slope), rel=1e-5)
        with torch.no_grad():
            net.w[i, j] += step
            up = value(x)
            net.w[i, j] -= 2 * step
            down = value(x)
            net.w[i, j] += step
        assert float(by_w[i, j]) == pytest.approx(float((up - down) / (2 * step)), rel=1e-5)


class TanhNet(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.nn.Parameter(randn(3, 3, seed=2) * 0.3)

    def forward(self, x, t):
        return torch.tanh(x @ self.w)


class Box:
    """A saved tensor that can be counted as long as somebody holds it."""

    def __init__(self, value) -> None:
        self.value = value


@pytest.mark.parametrize("steps", [None, 30], ids=["dopri5", "rk4"])
def test_gradients_by_the_adjoint(steps: int | None) -> None:
    """Those of backpropagation to the tolerance, and no memory that grows with the steps."""
    net = TanhNet()
    model = Plain(ScoreModel(net, VPSDE(t_min=1e-2), time="t"))
    x = randn(2, 3, seed=5).requires_grad_()

    def run(adjoint: bool, steps: int | None) -> tuple[Tensor, int]:
        rule = (
            TorchDiffEq(rtol=1e-7, atol=1e-7, adjoint=adjoint)
            if steps is None
            else TorchDiffEq(method="rk4", steps=steps, adjoint=adjoint)
        )
        kept: weakref.WeakSet[Box] = weakref.WeakSet()

        def pack(value: Tensor) -> Box:
            box = Box(value.detach())  # an output with its graph would hold itself
            kept.add(box)
            return box

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.value):
            nats = log_likelihood(model, x, divergence=Exact(), method=rule, grad=True).nats
        return nats.sum(), len(kept)

    plain, _ = run(False, steps)
    value, kept = run(True, steps)
    for got, want in zip(
        torch.autograd.grad(value, [x, net.w]), torch.autograd.grad(plain, [x, net.w]), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=1e-3 if steps else 1e-5, atol=1e-4)
    if steps:
        assert run(True, 3 * steps)[1] == kept
        assert run(False, 3 * steps)[1] > 2 * run(False, steps)[1] > 4 * kept


def test_a_field_that_does_not_depend_on_the_state() -> None:
    model = ScoreModel(lambda x, t: torch.zeros_like(x) + 0 * x, VPSDE(), time="t")
    x = randn(2, 3)
    for rule in (Exact(), Hutchinson()):
        got = log_likelihood(model, x, divergence=rule, frame=NoFrame())
        ratio = model.sde.at(1.0).alpha / model.sde.at(1e-3).alpha
        torch.testing.assert_close(got.z, x * ratio, rtol=1e-7, atol=1e-9)
        nats = model.sde.prior_log_prob(x * ratio) + 3 * math.log(ratio)
        torch.testing.assert_close(got.nats, nats, rtol=1e-7, atol=1e-7)
        probes = torch.ones(2, 2, 3).double() if rule.columns > 1 else None
        value, traces = value_and_traces(
            lambda x: torch.full_like(x, 2.0) + 0 * x, x, rule, probes, grad=False
        )
        assert value.tolist() == [[2.0] * 3] * 2
        assert traces.tolist() == [[0.0] * rule.columns] * 2


# -- at the door ----------------------------------------------------------------------------------


def test_alpha_zero_is_refused_with_advice() -> None:
    model = gaussian(FlowSDE())
    with pytest.raises(ZeroSNRError, match=r"dataclasses.replace\(sde, t_max=0.999\)"):
        log_likelihood(model, randn(2, 3))


def test_times_below_the_trained_range_warn_and_zero_is_refused() -> None:
    model = gaussian(VPSDE(t_min=1e-3))
    with pytest.warns(TimeRangeWarning, match=r"VPSDE\(t_min=1e-05\)"):
        log_likelihood(model, randn(2, 3), t_min=1e-5)
    with pytest.raises(TimeRangeError, match="1e-5"):
        log_likelihood(model, randn(2, 3), t_min=0.0)
    with pytest.raises(TimeRangeError, match="below the end"):
        log_likelihood(model, randn(2, 3), t_min=1.0)


def test_states_that_cannot_be_right() -> None:
    model = gaussian(VPSDE())
    with pytest.raises(DtypeError, match="bits_per_dim"):
        log_likelihood(model, torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(ShapeError, match=r"x\[None\]"):
        log_likelihood(model, torch.zeros(3))
    with pytest.raises(DtypeError, match=r"torch.as_tensor\(x\)"):
        log_likelihood(model, np.zeros((2, 3)))
    with pytest.raises(ShapeError, match="2 seeds for a batch of 3"):
        log_likelihood(model, randn(3, 3), seeds=[1, 2])


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"divergence": "exact"}, r"divergence=Exact\(\)"),
        ({"divergence": 8}, r"divergence=Hutchinson\(probes=8\)"),
        ({"divergence": Exact}, r"the class Exact; write divergence=Exact\(\)"),
        ({"method": "dopri5"}, r"method=TorchDiffEq\(method='dopri5'\)"),
        ({"method": ProbabilityFlow(SciPy())}, r"got ProbabilityFlow; write method=SciPy\("),
        ({"method": PerSample}, r"method=PerSample\(\)"),
        ({"frame": randn(5, 3)}, r"frame=estimate_frame\(data\)"),
    ],
)
def test_settings_of_the_wrong_kind_are_told_what_to_write(settings, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint):
        log_likelihood(gaussian(VPSDE()), randn(2, 3), **settings)


def test_the_divergence_is_exact_by_default_where_that_is_cheap() -> None:
    def net(x, t):
        return torch.tanh(x.roll(1, 1))

    model = ScoreModel(net, VPSDE(), time="t")
    exact = log_likelihood(model, randn(2, 64), method=FixedGrid(9)).stderr
    assert exact.tolist() == [0.0, 0.0]
    assert float(log_likelihood(model, randn(2, 65), method=FixedGrid(9)).stderr.min()) > 0


def test_defaults_are_what_the_documentation_says() -> None:
    model = mixture(VPSDE(), 5)
    x = model.sample(3, 1e-3, seed=1)
    told = log_likelihood.__doc__ or ""
    for default in ("PerSample()", "Exact()", "Hutchinson()", "N(0, sigma^2 I)"):
        assert default in told
    plain = log_likelihood(model, x)
    said = log_likelihood(
        model,
        x,
        t_min=1e-3,
        method=PerSample(tol=1e-4, max_evals=2000, max_step=1.5),
        divergence=Exact(),
        prior=None,
        frame=Whitened(0.0, 1.0),
        seeds=range(3),
        grad=False,
    )
    assert said.nats.tolist() == plain.nats.tolist()


@pytest.mark.parametrize("backend", [TorchDiffEq(max_evals=20), SciPy(max_evals=20)])
def test_a_solver_that_gave_up_returns_no_number(backend) -> None:
    model = mixture(VPSDE(), 3)
    with pytest.warns(NonFiniteWarning, match="2 of 2"):
        got = log_likelihood(model, model.sample(2, 1e-3, seed=1), method=backend)
    assert got.nats.isnan().all()
    assert all("not done after 20 evaluations" in why for why in got.failures.values())


def test_an_empty_batch() -> None:
    got = log_likelihood(gaussian(VPSDE()), torch.zeros(0, 3))
    assert (got.nats.tolist(), got.z.shape, got.nfe.tolist()) == ([], (0, 3), [])
    assert got.failures == {}


# -- latents -----------------------------------------------------------------------------------


def test_encode_and_decode_are_inverse_and_exact() -> None:
    for sde, name in ((VPSDE(), "lambda"), (FlowSDE(t_min=0.01), "angle")):
        model = gaussian(sde)
        solver = ProbabilityFlow(TIGHT, name)
        x = model.sample(4, sde.t_min, seed=1)
        z = encode(model, x, solver=solver)
        near = sde.at(min(sde.t_max, 1 - 1e-12))
        torch.testing.assert_close(z, model.flow(x, sde.at(sde.t_min), near), rtol=1e-5, atol=5e-6)
        torch.testing.assert_close(decode(model, z, solver=solver), x, rtol=1e-5, atol=5e-6)


def test_the_latent_of_a_likelihood_is_the_encoding() -> None:
    model = gaussian(VPSDE())
    x = model.sample(3, 1e-3, seed=1)
    got = log_likelihood(model, x, divergence=Exact(), method=TIGHT)
    torch.testing.assert_close(got.z, encode(model, x, solver=ProbabilityFlow(TIGHT)))
    back = sample(model, ProbabilityFlow(TIGHT), uniform_lambda(model.sde, 2, clean=False), x=got.z)
    torch.testing.assert_close(back.x, x, rtol=1e-5, atol=1e-5)


def test_a_likelihood_prints_as_one_line():
    nats = torch.tensor([1.0, 3.0, math.nan], dtype=torch.float64)
    cost = torch.tensor([31, 31, 31])
    found = LogLikelihood(nats, nats, nats, nats, cost, cost, 1e-5, 1.0, {2: "not finite"})
    assert repr(found) == (
        "LogLikelihood(mean 2 +- 1 nats of 3 samples at t = 1e-05, "
        "31 network evaluations a sample, 1 failed)"
    )
    one = torch.tensor([7])
    none = LogLikelihood(nats[2:], nats[2:], nats[2:], nats[2:], one, one, 0.5, 1.0)
    assert repr(none) == (
        "LogLikelihood(no value of 1 samples at t = 0.5, 7 network evaluations a sample)"
    )
