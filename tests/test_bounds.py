"""Variational bounds against closed forms of a Gaussian."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support import gaussian, generator

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    Covariance,
    DiscreteVPSDE,
    FlowSDE,
    Gaussian,
    cosine_betas,
    uniform_lambda,
)
from scoresde.errors import ConfigError, DtypeError, ShapeError
from scoresde.likelihood import (
    Pixels,
    Reconstruction,
    ddpm_bound,
    measured_times,
    variational_bound,
)
from scoresde.training.losses import UniformLambda, UniformT

SDE = VPSDE(t_min=1e-3)


def cross_entropy(model, x0, knot):
    """E[-log p(alpha x0 + sigma eps)] of a Gaussian model at a knot, shape (B,)."""
    mean, covariance = model.moments()
    alpha2, sigma2 = float(knot.alpha) ** 2, float(knot.sigma) ** 2
    v = alpha2 * covariance.diagonal() + sigma2
    square = alpha2 * (x0 - mean) ** 2 + sigma2
    return 0.5 * (square / v + (2 * math.pi * v).log()).sum(1)


@pytest.mark.parametrize(
    "sde", [SDE, VESDE(), EDMSDE(), FlowSDE(t_max=0.99)], ids=lambda s: type(s).__name__
)
def test_the_continuous_bound_is_met_by_an_exact_network(sde) -> None:
    """For every x0, not only on average: squared z-scores have the mean 7/5 of Student's t with 7
    degrees of freedom (300 samples: a standard error of some 12 %).
    """
    model = gaussian(sde, 3)
    x0 = model.sample(300, seed=1)
    got = variational_bound(model, x0, prior=model, evaluations=24, draws=8)
    want = cross_entropy(model, x0, sde.at(sde.t_min))
    assert got.mean == pytest.approx(float(want.mean()), abs=4 * got.stderr_of_this_set)
    assert got.stderr_of_this_set < 0.03 * float(want.abs().mean())
    z = (got.per_sample - want) / got.variance.sqrt()
    assert float(z.square().mean()) == pytest.approx(7 / 5, rel=0.5)
    assert got.mean_nfe == 192
    assert got.unit == "nats"
    total = sum(got.terms[name] for name in ("prior", "diffusion", "entropy"))
    torch.testing.assert_close(total, got.per_sample)
    entropy = 3 * (0.5 * math.log(2 * math.pi * math.e) + float(sde.log_sigma(sde.t_min)))
    assert got.terms["entropy"].tolist() == pytest.approx([entropy] * 300)


def test_the_standard_prior_term_is_its_kl() -> None:
    model = gaussian(SDE, 3)
    x0 = model.sample(5, seed=1)
    got = variational_bound(model, x0, evaluations=1, draws=1)
    end = SDE.at(1.0)
    p = torch.distributions.Normal(end.alpha * x0, torch.tensor(end.sigma, dtype=x0.dtype))
    q = torch.distributions.Normal(torch.zeros_like(x0), torch.tensor(end.sigma, dtype=x0.dtype))
    want = torch.distributions.kl_divergence(p, q).sum(1)
    torch.testing.assert_close(got.terms["prior"], want)
    assert got.variance.isnan().all()  # one draw says nothing about its own spread


class Shifted:
    """A Gaussian's exact eps, plus a constant."""

    def __init__(self, model, by) -> None:
        self.model, self.by, self.sde = model, by, model.sde

    def __call__(self, x, knot):
        prediction = self.model(x, knot)
        return prediction.replace(prediction.raw + self.by)

    def rows(self, index):
        return self


def test_an_error_of_the_network_costs_its_square_and_more_than_the_likelihood() -> None:
    """eps + d costs |d|^2 + 2 d.E[eps_net - eps | x0] per unit of lam. The SDE it generates by ends
    in a Gaussian of the right covariance, off by d (v + rho^2) (2 / sqrt v) [atan(rho / sqrt v)] in
    y = x/alpha: the bound's gap is known too.
    """
    model = gaussian(SDE, 3)
    x0, by = model.sample(800, seed=1), 0.4
    got = variational_bound(Shifted(model, by), x0, prior=model, evaluations=24, draws=4)
    mean, covariance = model.moments()
    low, high, root = SDE.at(1e-3), SDE.at(1.0), covariance.diagonal().sqrt()
    turn = (torch.tensor(high.rho) / root).atan() - (torch.tensor(low.rho) / root).atan()
    extra = 3 * by**2 * (low.lam - high.lam) + (2 * by * (x0 - mean) * turn / root).sum(1)
    met = cross_entropy(model, x0, low)
    assert got.mean == pytest.approx(float((met + extra).mean()), abs=4 * got.stderr_of_this_set)
    assert 4 * got.stderr_of_this_set < 0.05 * float(extra.mean())
    variance = root**2 + low.rho**2
    off = by * variance * 2 / root * turn
    likelihood = met + (((x0 - mean) * off + 0.5 * off**2) / variance).sum(1)
    gap = 3 * by**2 * (low.lam - high.lam) - float((0.5 * off**2 / variance).sum())
    above = got.mean - float(likelihood.mean())
    assert above == pytest.approx(gap, abs=4 * got.stderr_of_this_set + 0.05 * gap)
    assert above > 10 * got.stderr_of_this_set


def test_bits_per_dim_of_integers_lie_above_the_exact_ones_by_the_gap() -> None:
    """One pixel: -log2 P(k) is exact by quadrature, and the bound is the model's cross entropy
    plus the reconstruction, each known.
    """
    sde = VPSDE(t_min=0.02)
    model = Gaussian(sde, torch.zeros(1).double(), Covariance.isotropic(0.15**2))
    layout, low = Pixels(8), sde.at(0.02)
    k = torch.tensor([2, 3, 4, 5])
    got = variational_bound(
        model, k.repeat_interleave(100)[:, None], pixels=layout, prior=model,
        evaluations=16, draws=4,
    )  # fmt: skip
    std = math.sqrt(float(low.alpha) ** 2 * 0.15**2 + float(low.sigma) ** 2)
    x = torch.linspace(-1.2, 1.2, 100_001, dtype=torch.float64)[:, None]
    middles = layout.lower_edge(torch.arange(8)) + layout.width / 2
    read = torch.log_softmax(-0.5 * ((x - low.alpha * middles) / low.sigma) ** 2, 1)[:, k]
    log_p = -0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
    cell = 2.4 / 100_000
    exact = -((read + log_p).exp().sum(0) * cell).log2()
    log_q = -0.5 * ((x - low.alpha * middles[k]) / low.sigma) ** 2
    log_q = log_q - math.log(float(low.sigma) * math.sqrt(2 * math.pi))
    bound = -(log_q.exp() * (read + log_p - log_q)).sum(0) * cell / math.log(2)
    values = got.per_sample.reshape(4, 100)
    z = (values.mean(1) - bound) / (values.std(1) / 10)
    assert float(z.abs().max()) < 4
    assert (bound > exact + 0.02).all()
    assert (values.mean(1) > exact).all()
    assert got.unit == "bits/dim"
    assert str(got).startswith(f"<= {got.mean:.3f} +- ")


def test_times_drawn_where_the_integrand_is_have_less_variance() -> None:
    model = gaussian(VPSDE(t_min=1e-5), 3)
    x0 = model.sample(100, seed=1)
    law = measured_times(model, x0[:16])
    assert sum(law.shares) == pytest.approx(1)
    spread = {
        name: float(
            variational_bound(model, x0, times=times, evaluations=8, draws=4).variance.mean()
        )
        for name, times in {"measured": law, "lam": UniformLambda(), "t": UniformT()}.items()
    }
    assert spread["measured"] < 0.7 * spread["lam"] < 0.1 * spread["t"]


def test_a_measured_law_has_the_density_it_says() -> None:
    law = measured_times(gaussian(SDE, 3), gaussian(SDE, 3).sample(8))
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    knot = SDE.at(law.quantile(SDE, u))
    lam, density = torch.as_tensor(knot.lam), law.density(SDE, knot)
    # dlam/du = 1/density, lam ascending in u.
    slope = lam.diff() * 200_000
    inside = (density[1:] == density[:-1]) & (u[1:] > 1e-3) & (u[1:] < 1 - 1e-3)
    torch.testing.assert_close(slope[inside], 1 / density[1:][inside], rtol=1e-4, atol=0)


def test_the_loss_against_log_snr_is_the_bound_as_a_picture(tmp_path) -> None:
    """Its area, over x0 and noise of its own, is the diffusion term; the picture says so."""
    from PIL import Image

    from scoresde.bench import figures
    from scoresde.training.losses import loss_per_noise_level

    model = gaussian(SDE, 3)
    x0 = model.sample(2000, seed=1)
    lams = torch.linspace(float(SDE.lam(1.0)), float(SDE.lam(1e-3)), 60, dtype=torch.float64)
    curve = loss_per_noise_level(model, x0, lams)
    area = 3 * float(torch.trapezoid(curve.loss, curve.lam))
    low, high = SDE.at(1e-3), SDE.at(1.0)
    want = cross_entropy(model, x0, low) - cross_entropy(model, x0, high)
    want = want + 3 * (float(high.log_sigma) - float(low.log_sigma))
    assert area == pytest.approx(float(want.mean()), rel=0.03)
    figures.loss_per_noise_level({"exact": curve, "half": curve._replace(loss=curve.loss / 2)},
                               tmp_path / "loss.png")  # fmt: skip
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "loss.png").convert("RGB"))).float()
    for color in figures.PALETTE[:2]:
        rgb = torch.tensor([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        assert ((pixels - rgb).abs().amax(-1) < 8).sum() > 300


def test_bounds_depend_on_own_seeds_alone() -> None:
    model = gaussian(SDE, 3)
    x0, law = model.sample(6, seed=1), UniformLambda()
    table = gaussian(DiscreteVPSDE.from_betas(cosine_betas(20)), 3)
    for call in (
        lambda x, **kw: variational_bound(model, x, times=law, evaluations=4, **kw),
        lambda x, **kw: ddpm_bound(table, x, **kw),
    ):
        whole = call(x0, seeds=7)
        some = call(x0[[4, 1]], seeds=[11, 8])
        torch.testing.assert_close(some.per_sample, whole.per_sample[[4, 1]])
        torch.testing.assert_close(call(x0, seeds=7, batch_size=4).per_sample, whole.per_sample)


# -- discrete steps ----------------------------------------------------------------------------


def step_losses(model, x0, knots, large):
    """KL of each step of an exact Gaussian network, closed form, means over x0."""
    mean, covariance = model.moments()
    v, losses = covariance.diagonal(), []
    for s, t in pairwise(knots):
        alpha, sigma, total = t.alpha, t.sigma, t.alpha**2 * v + t.sigma**2
        wrong = (x0 - mean) ** 2 * (sigma**2 / total) ** 2 + (alpha * v * sigma / total) ** 2
        loss = 0.5 * (s.rho**-2 - t.rho**-2) * wrong
        if large:
            r = s.sigma**2 / t.sigma**2
            loss = r * loss + 0.5 * (r - 1 - math.log(r))
        losses.append(loss.sum(1).mean())
    return torch.stack(losses)


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_every_term_of_the_discrete_bound(variance) -> None:
    """L_0, ..., L_T in closed form within 4 to 5 standard errors of 8000 samples; the sum lies
    above the exact negative log-density.
    """
    sde = DiscreteVPSDE.from_betas(cosine_betas(12, largest=0.9))
    model = gaussian(sde, 3)
    x0 = model.sample(8000, seed=1)
    got = ddpm_bound(model, x0, variance=variance)
    knots = [sde.at(float(k)) for k in range(12)]
    want = step_losses(model, x0, knots, variance == "forward")
    assert got.per_step.shape == (13,)
    torch.testing.assert_close(got.per_step[1:-1], want, rtol=0.05, atol=0)
    assert float(got.per_step.sum()) == pytest.approx(got.mean)
    torch.testing.assert_close(got.per_step[-1], got.terms["prior"].mean())
    mean, covariance = model.moments()
    v, first, second = covariance.diagonal(), knots[0], knots[1]
    total = first.alpha**2 * v + first.sigma**2
    wrong = (x0 - mean) ** 2 * (first.sigma**2 / total) ** 2
    wrong = wrong + (first.alpha * v * first.sigma / total) ** 2
    beta = 1 - (second.alpha / first.alpha) ** 2
    own = beta * first.sigma**2 / second.sigma**2
    decoder = 0.5 * (wrong / own + math.log(2 * math.pi * own)).sum(1).mean()
    assert float(got.per_step[0]) == pytest.approx(float(decoder), abs=0.05)
    exact = -model.log_prob(x0, sde.clean)
    assert got.mean > float(exact.mean()) + 4 * got.stderr


def test_learned_variances_lie_between_the_two_and_are_best_where_they_are_right() -> None:
    """Shares of 0 and 1 are the fixed ones. With the exact variance of a Gaussian's step back every
    KL is, on average over x0, half the log of its ratio to the posterior's.
    """
    sde = DiscreteVPSDE.from_betas(cosine_betas(12, largest=0.9))
    model = Gaussian(sde, torch.zeros(2).double(), Covariance.isotropic(0.3))
    x0 = model.sample(2000, seed=1)

    class Learned:
        def __init__(self, share) -> None:
            self.sde, self.share = sde, share

        def __call__(self, x, knot):
            share = self.share
            if share is None:  # that of the exact variance of x_s given x_t; any in the decoder
                share = self.exact(sde.at(knot.t - 1), knot) if knot.t > 0 else 0.0
            prediction = model(x, knot)
            prediction.share = torch.full_like(x, share)
            return prediction

        @staticmethod
        def exact(s, t):
            before, total = (u.alpha**2 * 0.3 + u.sigma**2 for u in (s, t))
            a, b = sde.transition(s, t)
            ratio = (before - (a * before) ** 2 / total) / (b * s.sigma / t.sigma) ** 2
            return math.log(ratio) / (2 * math.log(t.sigma / s.sigma))

        def rows(self, index):
            return self

    values = {name: ddpm_bound(model, x0, variance=name) for name in ("posterior", "forward")}
    for name, share in (("posterior", 0.0), ("forward", 1.0)):
        got = ddpm_bound(Learned(share), x0, variance="learned")
        torch.testing.assert_close(got.per_step[1:], values[name].per_step[1:])
    best = ddpm_bound(Learned(None), x0, variance="learned")
    assert (best.per_step[1:-1] < values["posterior"].per_step[1:-1]).all()
    assert (best.per_step[1:-1] < values["forward"].per_step[1:-1]).all()
    for k in range(1, 12):
        s, t = sde.at(float(k - 1)), sde.at(float(k))
        before, total = (u.alpha**2 * 0.3 + u.sigma**2 for u in (s, t))
        a, b = sde.transition(s, t)
        ratio = (before - (a * before) ** 2 / total) / (b * s.sigma / t.sigma) ** 2
        assert float(best.per_step[k]) == pytest.approx(math.log(ratio), abs=0.02)
    with pytest.raises(ConfigError, match="LearnedRange"):
        ddpm_bound(model, x0[:2], variance="learned")


def test_many_steps_reach_the_continuous_bound() -> None:
    """The gap of T steps is of first order in 1/T."""
    model = gaussian(SDE, 3)
    x0 = model.sample(50, seed=1)
    low, high = SDE.at(1e-3), SDE.at(1.0)
    limit = cross_entropy(model, x0, low) - cross_entropy(model, x0, high)
    limit = limit + 3 * (float(high.log_sigma) - float(low.log_sigma))  # KL at low less KL at high
    gaps = []
    for n in (200, 400):
        knots = list(reversed(uniform_lambda(SDE, n, clean=False).knots))
        gaps.append(float(step_losses(model, x0, knots, False).sum() - limit.mean()))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)
    got = ddpm_bound(model, x0, grid=uniform_lambda(SDE, 401), draws=8)
    # Steps of 0.03 in lam, each with a chi-square of 3 degrees of freedom: a standard error of 0.1.
    diffusion = float(got.terms["diffusion"].mean())
    assert diffusion == pytest.approx(float(limit.mean()) + gaps[1], abs=0.4)


def test_the_decoder_is_a_distribution_over_the_integers() -> None:
    """exp(-L_0) with the state held fixed sums to one over the levels, in both conventions."""
    sde = DiscreteVPSDE.from_betas(cosine_betas(12, largest=0.9))

    class Fixed:
        def __init__(self) -> None:
            self.sde = sde

        def __call__(self, x, knot):
            prediction = model(x, knot)
            return prediction.replace((x - knot.alpha * 0.3) / knot.sigma)  # x0 = 0.3

        def rows(self, index):
            return self

    model = gaussian(sde, 1)
    for layout in (Pixels(16, "centres"), Pixels(16)):
        k = torch.arange(16)[:, None]
        got = ddpm_bound(Fixed(), k, pixels=layout)
        chance = torch.exp2(-got.terms["reconstruction"])
        assert float(chance.sum()) == pytest.approx(1, abs=1e-9)
        middle = layout.lower_edge(k[:, 0]) + layout.width / 2
        assert int(chance.argmax()) == int((middle - 0.3).abs().argmin())


def test_the_reconstruction_is_that_of_the_dequantization() -> None:
    model = Gaussian(VPSDE(t_min=0.02), torch.zeros(2).double(), Covariance.isotropic(0.1))
    low, layout = model.sde.at(0.02), Pixels(8)
    k = torch.tensor([[2, 5], [7, 0]])
    got = variational_bound(model, k.repeat(400, 1), pixels=layout, evaluations=1)
    rule = Reconstruction()

    class Stream:
        def normal(self):
            return torch.randn(800, 2, generator=generator(3), dtype=torch.float64)

    x, gain = rule.draw(k.repeat(400, 1), layout, low, Stream())
    eps = (x - low.alpha * (layout.lower_edge(k.repeat(400, 1)) + layout.width / 2)) / low.sigma
    log_q = (-0.5 * eps**2 - math.log(low.sigma * math.sqrt(2 * math.pi))).sum(1)
    read = gain + log_q + 2 * math.log(layout.width)
    assert float(got.terms["reconstruction"].mean()) == pytest.approx(
        -float(read.mean()) / (2 * math.log(2)), rel=0.1
    )


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda m: variational_bound(m, torch.zeros(2, 3), evaluations=0),
            ConfigError,
            "1 or more",
        ),
        (lambda m: variational_bound(m, torch.zeros(2, 3).long()), DtypeError, "floating point"),
        (lambda m: variational_bound(m, torch.zeros(0, 3)), ShapeError, "B > 0"),
        (lambda m: ddpm_bound(m, torch.zeros(2, 3)), ConfigError, "grid=uniform_lambda"),
        (
            lambda m: ddpm_bound(m, torch.zeros(2, 3), variance="fixed"),
            ConfigError,
            "forward, learned, posterior",
        ),
    ],
)
def test_what_cannot_be_bounded_says_why(call, error, says) -> None:
    with pytest.raises(error, match=says):
        call(gaussian(SDE, 3))
