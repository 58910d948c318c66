"""Losses against closed forms: a Gaussian's error at each noise level, and exact identities."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scoresde import EDMSDE, SDE, VESDE, VPSDE, CosineVPSDE, FlowSDE, Gaussian, Knot, SubVPSDE
from scoresde.errors import ConfigError, DtypeError, ShapeError, ZeroSNRError
from scoresde.exact.mixtures import Covariance
from scoresde.prediction import Prediction, PredictsF, parametrization
from scoresde.training.losses import (
    Likelihood,
    LogNormalRho,
    MinSNR,
    Mixed,
    Simple,
    TimeDraw,
    UniformLambda,
    UniformT,
    from_dict,
    loss_per_noise_level,
    score_matching_loss,
    to_dict,
    weighted_error,
)

VP = VPSDE(t_min=1e-5)
SDES = [VP, SubVPSDE(), VESDE(), EDMSDE(), CosineVPSDE(t_max=0.99), FlowSDE(t_max=0.99)]
DRAWS = [
    UniformT(),
    UniformLambda(),
    LogNormalRho(-0.5, 1.5),
    Mixed(UniformLambda(), LogNormalRho(0.3, 1.2), 0.3),
]
MEAN, STD, OFF = 0.7, 0.6, 0.5  # of the data, and how far off the wrong model's mean is


def gaussian(sde: SDE, mean: float = MEAN, dim: int = 3) -> Gaussian:
    return Gaussian(
        sde, torch.full((dim,), mean, dtype=torch.float64), Covariance.isotropic(STD**2)
    )


def data(n: int, dim: int = 3, seed: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return MEAN + STD * torch.randn(n, dim, dtype=torch.float64, generator=g)


class Restated:
    """A model that says the same in another parametrization."""

    def __init__(self, model: Gaussian, predicts: str | PredictsF) -> None:
        self.model, self.predicts, self.sde = model, parametrization(predicts), model.sde

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        p = self.model(x, knot)
        return Prediction(x, knot, self.predicts.target(p.x0, p.eps, knot), self.predicts)

    def rows(self, index: Tensor) -> Restated:
        return self


def optimal(rho: Tensor | float) -> Tensor | float:
    """E|eps - E[eps | x]|^2 a dimension, for data of deviation STD."""
    return STD**2 / (STD**2 + rho**2)


def excess(rho: Tensor | float) -> Tensor | float:
    """What a mean that is off by OFF adds to that."""
    return (OFF * rho / (STD**2 + rho**2)) ** 2


# -- weightings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", [Simple("eps"), Simple("x0"), Simple("v"), MinSNR(3.0),
                                       Likelihood()])  # fmt: skip
def test_a_weighting_of_one_variable_is_the_same_loss_in_every_parametrization(weighting) -> None:
    """Pointwise, for a wrong model, from nearly clean to nearly pure noise."""
    sde = FlowSDE(t_max=0.999)
    x0, g = data(64), torch.Generator().manual_seed(0)
    eps = torch.randn(64, 3, dtype=torch.float64, generator=g)
    knot = sde.at(torch.linspace(1e-3, 0.999, 64), like=x0)
    wrong = gaussian(sde, MEAN + OFF)
    density = UniformT().density(sde, knot)
    values = [
        weighted_error(Restated(wrong, predicts), x0, eps, knot, weighting, density)
        for predicts in ("eps", "x0", "score", "v", "flow", PredictsF(0.5))
    ]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("lam", [-4.0, -0.3, 0.8, 5.0])
def test_weights_of_the_literature(lam: float) -> None:
    """VP closed forms: Hang et al. 2023, section 3.4; Salimans & Ho 2022; EDM's table 1."""
    knot, snr, gamma = VP.at_lambda(lam), math.exp(2 * lam), 5.0
    eps, x0, v = (parametrization(name) for name in ("eps", "x0", "v"))
    low = min(snr, gamma)
    assert MinSNR(gamma)(x0, knot, 1.0) == pytest.approx(low, rel=1e-9)
    assert MinSNR(gamma)(eps, knot, 1.0) == pytest.approx(low / snr, rel=1e-9)
    assert MinSNR(gamma)(v, knot, 1.0) == pytest.approx(low / (snr + 1), rel=1e-9)
    assert Simple()(x0, knot, 1.0) == 1.0
    # "v" in terms of x0 is SNR + 1 (Salimans & Ho, section 4); F in terms of D is EDM's lambda.
    assert Simple("v")(x0, knot, 1.0) == pytest.approx(snr + 1, rel=1e-9)
    sigma = math.exp(-lam)
    edm = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    at = EDMSDE().at_lambda(lam)
    assert Simple("F")(x0, at, 1.0) == pytest.approx(edm, rel=1e-9)
    # Song et al. 2021: lambda(t) = g^2 on the score, per unit of t; here half of it, as an
    # integral over lam instead, dlam/dt = g^2 / (2 sigma^2).
    g2 = VP.g2(knot.t)
    per_time = Likelihood()(parametrization("score"), knot, 1.0) * g2 / (2 * knot.sigma**2)
    assert per_time == pytest.approx(g2 / 2, rel=1e-9)


def test_min_snr_is_the_same_for_floats_and_tensors() -> None:
    lams = [-5.0, 0.0, 0.79, 0.81, 6.0]
    for lam in lams:
        one = VP.at_lambda(lam)
        many = Knot(*(torch.tensor([[part]], dtype=torch.float64) for part in one))
        for predicts in ("eps", "x0", "v"):
            p = parametrization(predicts)
            assert MinSNR()(p, many, 1.0).item() == pytest.approx(MinSNR()(p, one, 1.0), rel=1e-12)


# -- distributions of times ----------------------------------------------------------------------


@pytest.mark.parametrize(("sde", "times"), list(itertools.product(SDES, DRAWS)), ids=str)
def test_density_belongs_to_the_quantiles(sde: SDE, times: TimeDraw) -> None:
    """E[h / density] over the draws is the integral of h, for an h with a closed form."""
    if isinstance(sde, VESDE) and isinstance(times, UniformT):
        times = UniformLambda()  # the same thing for this process, whose lam is linear in t
    n = 200_000
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    t = times.quantile(sde, u)
    assert t.min() >= sde.t_min
    assert t.max() <= sde.t_max
    knot = sde.at(t)
    # A smooth bump inside every process's range; a normal in lam.
    bump = torch.exp(-0.5 * (knot.lam - 0.4) ** 2 / 0.25) / math.sqrt(2 * math.pi * 0.25)
    total = (bump / times.density(sde, knot)).mean().item()
    assert total == pytest.approx(1.0, rel=2e-4)


@pytest.mark.parametrize("times", DRAWS, ids=str)
def test_stratified_draws_fall_once_in_each_cell(times: TimeDraw) -> None:
    n = 37
    edges = times.quantile(VP, torch.arange(n + 1, dtype=torch.float64) / n * (1 - 1e-15))
    g = torch.Generator().manual_seed(3)
    for _ in range(20):
        drawn = times.draw(VP, n, g)
        # Cells of u; a mixture's quantile is monotone in each part only, so compare by u.
        if isinstance(times, Mixed):
            first = int((drawn[:, None] == drawn).sum())  # all different
            assert first == n
        else:
            low, high = edges[:-1], edges[1:]
            low, high = torch.minimum(low, high), torch.maximum(low, high)
            inside = (drawn[:, None] >= low) & (drawn[:, None] < high)
            assert torch.equal(inside.sum(0), torch.ones(n, dtype=torch.long))


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("times", [UniformT(), UniformLambda(), LogNormalRho(0.0, 1.0)], ids=str)
def test_each_single_time_has_the_stated_law(times: TimeDraw, stratified: bool) -> None:
    """Kolmogorov-Smirnov at 1%: the first of 5 times, over 1,000 batches."""
    g = torch.Generator().manual_seed(5)
    first = torch.stack([times.draw(VP, 5, g, stratified=stratified)[0] for _ in range(1000)])
    fine = times.quantile(VP, (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000).sort().values
    u = (torch.searchsorted(fine, first.sort().values).double()) / 4000
    rank = torch.arange(1000, dtype=torch.float64)
    distance = torch.maximum((u - rank / 1000).abs(), (u - (rank + 1) / 1000).abs()).max()
    assert distance < 1.63 / math.sqrt(1000) + 1 / 4000


# -- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)
def test_loss_per_noise_level_of_a_gaussian(sde: SDE) -> None:
    """The optimum c^2/(c^2 + rho^2), the excess of a wrong mean, and the standard error."""
    lams = [-2.0, -0.5, 0.5, 1.5, 3.0]
    rho = torch.tensor(lams, dtype=torch.float64).neg().exp()
    n, dim = 4000, 3
    for off, extra in ((0.0, torch.zeros(5)), (OFF, excess(rho))):
        found = loss_per_noise_level(
            gaussian(sde, MEAN + off), data(n), lams, seed=7, batch_size=1500
        )
        variance = optimal(rho)
        z = (found.loss - variance - extra) / found.stderr
        assert z.abs().max() < 4
        # Errors are normal with this variance and a bias: the mean of D squares has
        exact = ((2 * variance**2 + 4 * variance * extra) / (dim * n)).sqrt()
        torch.testing.assert_close(found.stderr, exact.double(), rtol=0.12, atol=0)


def test_noise_of_a_level_does_not_depend_on_the_batch() -> None:
    model, x0 = gaussian(VP), data(30)
    one = loss_per_noise_level(model, x0, [0.0, 2.0], batch_size=30)
    many = loss_per_noise_level(model, x0, [0.0, 2.0], batch_size=7)
    torch.testing.assert_close(one.loss, many.loss, rtol=1e-13, atol=0)


@pytest.mark.parametrize("times", DRAWS, ids=str)
@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score"])
def test_likelihood_loss_is_the_integral_over_lam(times: TimeDraw, predicts: str) -> None:
    """Diffusion term of the bound for a Gaussian, whatever is drawn and predicted.

    The integral of c^2/(c^2 + e^(-2 lam)) is (1/2) log(1 + c^2 e^(2 lam)), that of the excess
    is (OFF^2/2) / (c^2 + rho^2): over all noise levels the KL divergence OFF^2/(2 c^2).
    """
    sde = VPSDE(t_min=1e-2)
    low, high = sde.lam(1.0), sde.lam(1e-2)

    def term(lam: float) -> float:
        rest = STD**2 + math.exp(-2 * lam)
        return 0.5 * math.log1p(STD**2 * math.exp(2 * lam)) + 0.5 * OFF**2 / rest

    model = Restated(gaussian(sde, MEAN + OFF), predicts)
    g = torch.Generator().manual_seed(11)
    losses = score_matching_loss(
        model, data(120_000, dim=3), generator=g, weighting=Likelihood(), times=times,
        stratified=False,
    )  # fmt: skip
    stderr = losses.std().item() / math.sqrt(len(losses))
    expected = term(high) - term(low)
    assert stderr < 0.0125 * expected  # a 5% error would be 4 of these
    assert abs(losses.mean().item() - expected) < 4 * stderr


def test_simple_loss_uniform_in_t() -> None:
    """The plain DDPM loss: its expectation by quadrature over t."""
    sde = VPSDE()
    t = torch.linspace(sde.t_min, sde.t_max, 20_001, dtype=torch.float64)
    expected = torch.trapezoid(optimal(sde.at(t).rho), t).item() / (sde.t_max - sde.t_min)
    g = torch.Generator().manual_seed(2)
    losses = score_matching_loss(gaussian(sde, dim=8), data(20_000, dim=8), generator=g)
    stderr = losses.std().item() / math.sqrt(len(losses))  # stratified: an upper bound
    assert stderr < 0.0125 * expected
    assert abs(losses.mean().item() - expected) < 4 * stderr


def test_same_generator_same_loss_and_the_global_one_is_left_alone() -> None:
    x0, model = data(16).float(), gaussian(VP)
    before = torch.random.get_rng_state()
    one, two = (
        score_matching_loss(model, x0, generator=torch.Generator().manual_seed(4)) for _ in "ab"
    )
    assert torch.equal(one, two)
    assert one.dtype == torch.float32
    assert torch.equal(before, torch.random.get_rng_state())


def test_times_do_not_broadcast_over_an_axis_of_the_batch_size() -> None:
    """B = W = 4: each image must meet its own time."""
    x0 = data(4 * 16, dim=1).reshape(4, 1, 4, 4)
    model = Gaussian(
        VP, torch.full((1, 4, 4), MEAN, dtype=torch.float64), Covariance.isotropic(STD**2)
    )
    g = torch.Generator().manual_seed(9)
    whole = score_matching_loss(model, x0, generator=g, stratified=False)
    g = torch.Generator().manual_seed(9)
    t = UniformT().draw(VP, 4, g, stratified=False)
    eps = torch.randn(x0.shape, dtype=x0.dtype, generator=g)
    for i in range(4):
        row = slice(i, i + 1)
        alone = weighted_error(model, x0[row], eps[row], VP.at(float(t[i])))
        torch.testing.assert_close(whole[row], alone, rtol=1e-10, atol=0)


# -- plain data and bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [Simple(), Simple("v"), Likelihood(), MinSNR(3.0), *DRAWS], ids=str
)
def test_values_survive_json(value) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(value)))) == value


def test_nonsense_is_refused_with_what_would_be_right() -> None:
    with pytest.raises(ConfigError, match="MinSNR"):
        from_dict({"name": "MinSRN"})
    with pytest.raises(ConfigError, match="gama"):
        from_dict({"name": "MinSNR", "gama": 5})
    with pytest.raises(ConfigError, match="gamma > 0"):
        MinSNR(0.0)
    with pytest.raises(ConfigError, match="std > 0"):
        LogNormalRho(0.0, -1.0)
    with pytest.raises(ConfigError, match="share"):
        Mixed(share=1.0)
    with pytest.raises(ConfigError, match="did you mean"):
        Simple("eqs")
    with pytest.raises(ZeroSNRError, match="FlowSDE"):
        UniformLambda().quantile(FlowSDE(), torch.rand(3, dtype=torch.float64))
    with pytest.raises(ConfigError, match="at least 2"):
        loss_per_noise_level(gaussian(VP), data(1), [0.0])


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"x0": torch.zeros(4, 2, dtype=torch.long)}, DtypeError, "x0 must be floating point"),
        ({"x0": np.zeros((4, 2))}, DtypeError, r"write torch\.as_tensor\(x\)"),
        ({"x0": torch.tensor(1.0)}, ShapeError, r"\(B, \*\)"),
        ({"generator": 0}, ConfigError, r"a Generator, got 0; write torch\.Generator"),
        ({"weighting": "simple"}, ConfigError, r"a Weighting, got 'simple'; write Simple\(\)"),
        ({"times": UniformT}, ConfigError, "a TimeDraw, got the class UniformT"),
        ({"model": torch.nn.Linear(2, 2)}, ConfigError, "wrap a network first"),
    ],
)
def test_the_loss_says_what_to_write(given, error, says):
    settings = {
        "model": gaussian(VP, dim=2),
        "x0": torch.zeros(4, 2),
        "generator": torch.Generator(),
        **given,
    }
    with pytest.raises(error, match=says):
        score_matching_loss(settings.pop("model"), settings.pop("x0"), **settings)


@pytest.mark.parametrize("of", ["x0", "v", "flow", "eps"])
@pytest.mark.parametrize("predicts", ["x0", "v", "flow"])
def test_weights_of_one_variable_have_their_limit_where_no_signal_is_left(predicts, of):
    """At alpha = 0 and sigma = 1, errors of x0, v and the flow are one; eps has none."""
    sde, rule = FlowSDE(), Simple(of)
    want = 0.0 if of == "eps" else 1.0
    knot = sde.at(torch.tensor([0.5, 1.0], dtype=torch.float64))
    near, at = rule(parametrization(predicts), knot, 1.0) * torch.ones(2, dtype=torch.float64)
    assert float(at) == want
    c, o = (parametrization(name).coefficients(sde.at(0.5)) for name in (predicts, of))
    assert float(near) == pytest.approx((c.eps_raw / o.eps_raw) ** 2, rel=1e-12)
    if of != "eps":
        assert float(rule(parametrization(predicts), sde.at(1.0), 1.0)) == want
