"""The error budget of bits/dim: each part against a truth."""

from __future__ import annotations

import math

import pytest
import torch
from support import gaussian, generator

from scoresde import VPSDE, Covariance, Gaussian, ScoreModel
from scoresde.likelihood import (
    AccuracyWarning,
    Exact,
    FixedGrid,
    Hutchinson,
    NoDequantization,
    Pixels,
    Reconstruction,
    Uniform,
    Whitened,
    bits_per_dim,
)
from scoresde.likelihood.error_budget import Estimates, summarize
from scoresde.likelihood.truncation import truncation

SDE = VPSDE(t_min=1e-5)


def test_truncation_is_the_first_order_of_the_change_to_noise_zero() -> None:
    """What first order leaves out falls with the square of the noise's variance."""
    model = gaussian(SDE, 5)
    x = model.sample(200, seed=3)
    left = []
    for t_min in (2e-2, 1e-2):
        exact = model.log_prob(x, SDE.clean) - model.log_prob(x, t_min)
        got = truncation(model, x, t_min=t_min, divergence=Exact(), seeds=range(200))
        left.append(float((got - exact).square().mean().sqrt()))
    rho2 = [SDE.at(t_min).rho ** 2 for t_min in (2e-2, 1e-2)]
    assert left[0] / left[1] == pytest.approx((rho2[0] / rho2[1]) ** 2, rel=0.1)


def test_truncation_is_reported_where_the_state_is_clean_data() -> None:
    model = Gaussian(SDE, torch.zeros(4).double(), Covariance.isotropic(0.05))
    images = torch.randint(0, 64, (12, 4), generator=generator())
    settings = {"pixels": Pixels(64), "divergence": Exact(), "method": FixedGrid(21)}
    clean = bits_per_dim(model, images, t_min=1e-3, **settings, dequantize=NoDequantization())
    x = Pixels(64).lower_edge(images) + Pixels(64).width / 2
    nats = truncation(model, x, t_min=1e-3, divergence=Exact(), seeds=range(12))
    want = float(nats.mean()) / (4 * math.log(2))
    assert clean.parts["truncation"] == pytest.approx(want, rel=1e-9)
    state = bits_per_dim(model, images, t_min=1e-3, **settings, dequantize=Reconstruction())
    assert state.parts["truncation"] == 0.0


def gap(std: float, levels: int) -> torch.Tensor:
    """Bits by which the uniform bound lies above -log2 P of every level, by quadrature."""
    layout = Pixels(levels)
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    x = layout.lower_edge(torch.arange(levels))[:, None] + layout.width * u
    log_p = -0.5 * (x / std) ** 2
    return (log_p.exp().mean(1).log() - log_p.mean(1)) / math.log(2)


@pytest.mark.parametrize("divergence", [Exact(), Hutchinson(2)])
def test_the_gap_of_the_bound_is_found_from_the_variance_of_the_draws(divergence) -> None:
    """The standard error of the variance is 2 % (6000 degrees of freedom), the second-order
    formula's own error 2 %.
    """
    std, levels = 0.15, 16
    model = Gaussian(SDE, torch.zeros(16).double(), Covariance.isotropic(std**2))
    x = model.sample(400, seed=1)
    images = ((x.clamp(-0.99, 0.99) + 1) * levels / 2).floor().long()
    got = bits_per_dim(
        model, images, pixels=Pixels(levels), dequantize=Uniform(16), divergence=divergence,
        method=FixedGrid(11), frame=Whitened(0.0, std**2), prior=model,
    )  # fmt: skip
    want = float(gap(std, levels)[images].mean())
    assert got.parts["dequantization"] == pytest.approx(want, rel=0.06)
    if divergence.exact:  # importance weighting closes part of the gap, never all of it
        closed = float((got.per_image - got.importance_weighted).mean())
        assert 0.1 * want < closed < want


def test_what_is_not_known_is_nan() -> None:
    model = Gaussian(SDE, torch.zeros(4).double(), Covariance.isotropic(0.05))
    images = torch.randint(0, 64, (6, 4), generator=generator())
    parts = bits_per_dim(
        model, images, pixels=Pixels(64), divergence=Hutchinson(1), method=FixedGrid(21)
    ).parts
    assert {name for name, value in parts.items() if math.isnan(value)} == {
        "trace",
        "draws",
        "dequantization",
        "prior",
        "end",
    }
    assert list(parts) == [
        "images", "trace", "draws", "ode", "dequantization", "prior", "end", "truncation",
    ]  # fmt: skip


def test_an_integration_that_is_too_coarse_is_printed_and_warned_of() -> None:
    model = gaussian(SDE, 8)
    images = torch.randint(0, 8, (200, 8), generator=generator())
    settings = {"pixels": Pixels(8), "divergence": Exact()}
    with pytest.warns(AccuracyWarning, match="exceeds the standard error"):
        coarse = bits_per_dim(model, images, method=FixedGrid(4), **settings)
    assert coarse.parts["ode"] > coarse.stderr
    assert f"bits/dim, ODE error {coarse.parts['ode']:.1g} (4 " in str(coarse)
    fine = bits_per_dim(model, images, method=FixedGrid(61), **settings)
    assert "ODE" not in str(fine)
    assert fine.parts["ode"] < 0.05 * fine.stderr


def test_images_below_zero_bits_are_warned_of() -> None:
    """A network that claims an impossible density: every image at a few levels, far too sharp."""
    model = Gaussian(SDE, torch.full((4,), -0.875).double(), Covariance.isotropic(1e-6))
    images = torch.zeros(3, 4, dtype=torch.uint8)
    with (
        pytest.warns(AccuracyWarning, match="3 of 3 images have less than 0 bits/dim"),
        # Three equal images have no spread, so any error of the integration exceeds it.
        pytest.warns(AccuracyWarning, match="exceeds the standard error"),
    ):
        found = bits_per_dim(
            model, images, pixels=Pixels(8), dequantize=NoDequantization(), divergence=Exact(),
            method=FixedGrid(61),
        )  # fmt: skip
    x, width = torch.full((1, 4), -0.875).double(), 0.25
    want = -float(model.log_prob(x, SDE.t_min)) / (4 * math.log(2)) - math.log2(width)
    assert found.per_image.tolist() == pytest.approx([want] * 3, abs=1e-3)


def test_small_standard_errors_keep_their_digits() -> None:
    model = Gaussian(SDE, torch.zeros(2).double(), Covariance.isotropic(0.3))
    images = torch.full((4, 2), 128, dtype=torch.uint8)
    with pytest.warns(AccuracyWarning, match="exceeds the standard error"):
        got = bits_per_dim(model, images, divergence=Exact(), method=FixedGrid(41))
    assert 0 < got.stderr < 1e-3
    digits = math.ceil(-math.log10(got.stderr))
    assert str(got).startswith(f"{got.mean:.{digits}f} +- {got.stderr:.{digits}f} bits/dim")


def test_a_single_image_says_nothing_of_its_spread() -> None:
    model = ScoreModel(lambda x, t: 0.1 * x, SDE, time="t")
    got = bits_per_dim(model, torch.full((1, 3), 7), method=FixedGrid(41), divergence=Exact())
    assert math.isnan(got.stderr)
    assert "+-" not in str(got)


def test_probes_alone_leave_no_error_of_the_draws() -> None:
    """A variance clamped at 0 for each image, rather than in the sum, would make it 22 % more."""
    count = 4000
    noise = torch.randn(count, 2, generator=generator(1), dtype=torch.float64)
    found = Estimates(
        noise, torch.ones_like(noise), torch.zeros(count), torch.full((count,), 5), {}
    )
    parts = summarize(found, Pixels(256), 1)
    truth = math.sqrt(1 / (2 * count)) / math.log(2)
    assert parts.stderr_of_this_set == pytest.approx(truth, rel=0.03)
