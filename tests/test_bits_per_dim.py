"""Bits per dimension: offsets, bounds, error parts."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from support import generator, mixture

from scoresde import VPSDE, Covariance, Gaussian, ScoreModel
from scoresde.errors import ConfigError, DtypeError, ShapeError
from scoresde.likelihood import (
    AccuracyWarning,
    Exact,
    FixedGrid,
    Hutchinson,
    NoDequantization,
    PerSample,
    Pixels,
    Reconstruction,
    TruncatedNormal,
    Uniform,
    Variational,
    Whitened,
    bits_per_dim,
    log_likelihood,
)
from scoresde.ode import TorchDiffEq
from scoresde.sampling.run import NonFiniteWarning

TIGHT = TorchDiffEq(rtol=1e-6, atol=1e-7)


def wide(levels: int, value_range=(-1.0, 1.0), shape=(2, 2)) -> Gaussian:
    """A Gaussian so wide that its density is flat over the value range."""
    middle = 0.5 * sum(value_range)
    return Gaussian(
        VPSDE(t_min=1e-5),
        torch.full(shape, middle).double(),
        Covariance.isotropic(1e4 * (value_range[1] - value_range[0]) ** 2),
    )


def integers(levels: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, levels, shape, generator=generator(seed))


@pytest.mark.parametrize("value_range", [(-1.0, 1.0), (0.0, 1.0), (-2.0, 6.0)])
@pytest.mark.parametrize("levels", [2, 32, 256])
@pytest.mark.parametrize("pixels", ["edges", "centres"])
def test_the_offset_is_the_width_of_a_bin_and_nothing_else(pixels, levels, value_range) -> None:
    """A flat density over the range of "edges" would give log2(levels) bits: here it is wider by a
    known factor, so the answer is known to round-off for every convention.
    """
    model = wide(levels, value_range)
    got = bits_per_dim(
        model, integers(levels, 3, 2, 2), pixels=Pixels(levels, pixels, value_range),
        method=TIGHT, divergence=Exact(), prior=model,
    )  # fmt: skip
    low, high = value_range
    steps = levels if pixels == "edges" else levels - 1
    at = model.sde.at(1e-5)
    std = math.sqrt(at.alpha**2 * 1e4 * (high - low) ** 2 + at.sigma**2)
    # -log2 of (density at the middle x bin width); the density varies by 1e-4 over the range
    want = -math.log2((high - low) / steps / (std * math.sqrt(2 * math.pi)))
    assert got.mean == pytest.approx(want, abs=2e-4)


def test_edges_and_centres_place_integers_where_they_say() -> None:
    k = torch.tensor([0, 255])
    edges, centres = Pixels(256, "edges"), Pixels(256, "centres")
    assert edges.lower_edge(k).tolist() == [-1.0, 1.0 - 2 / 256]
    middle = centres.lower_edge(k) + 0.5 * centres.width
    assert middle.tolist() == pytest.approx([-1.0, 1.0], abs=1e-15)
    assert edges.width == 2 / 256
    assert centres.width == 2 / 255


def test_the_bound_lies_above_the_exact_bits_and_below_it_plus_the_gap() -> None:
    """One pixel and a narrow Gaussian: P(k) is a difference of error functions. The uniform bound
    is off by exactly KL(uniform || p within the bin), known by quadrature.
    """
    levels, std = 8, 0.15
    sde = VPSDE(t_min=1e-5)
    model = Gaussian(sde, torch.zeros(1).double(), Covariance.isotropic(std**2))
    layout = Pixels(levels, "edges")
    at = sde.at(1e-5)
    spread = math.sqrt(at.alpha**2 * std**2 + at.sigma**2)
    k = torch.tensor([3, 4, 5])
    low = layout.lower_edge(k)
    cdf = lambda v: torch.special.ndtr(v / spread)  # noqa: E731
    exact = -(cdf(low + layout.width) - cdf(low)).log2()
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    x = low[:, None] + layout.width * u
    density = -0.5 * (x / spread) ** 2 - math.log(spread * math.sqrt(2 * math.pi))
    bound = layout.bits_per_dim(density.mean(1), 1)
    assert (bound > exact).all()
    draws = 400
    got = bits_per_dim(
        model, k.repeat_interleave(draws)[:, None], pixels=Pixels(levels),
        method=TorchDiffEq(rtol=1e-7, atol=1e-7), divergence=Exact(), prior=model,
    )  # fmt: skip
    values = got.per_image.reshape(3, draws)
    z = (values.mean(1) - bound) / (values.std(1) / math.sqrt(draws))
    assert float(z.abs().max()) < 4
    assert float((bound - exact).max()) > 20 * float(values.std(1).max()) / math.sqrt(draws) / 20


def test_draws_are_averaged_in_log_space_and_depend_on_the_seed_alone() -> None:
    sde = VPSDE(t_min=1e-5)
    model = Gaussian(sde, torch.zeros(2, 2).double(), Covariance.isotropic(0.2))
    images = integers(16, 4, 2, 2)
    settings = {"pixels": Pixels(16), "method": TIGHT, "divergence": Exact(), "prior": model}
    many = bits_per_dim(model, images, dequantize=Uniform(draws=3), seeds=[4, 5, 6, 7], **settings)
    again = bits_per_dim(
        model, images[[2, 0]], dequantize=Uniform(draws=3), seeds=[6, 4], **settings
    )
    torch.testing.assert_close(again.per_image, many.per_image[[2, 0]], rtol=1e-5, atol=1e-5)
    chunked = bits_per_dim(
        model, images, dequantize=Uniform(draws=3), seeds=[4, 5, 6, 7], batch_size=3, **settings
    )
    torch.testing.assert_close(chunked.per_image, many.per_image, rtol=1e-5, atol=1e-5)
    assert math.isfinite(many.parts["draws"])
    one = bits_per_dim(model, images, seeds=[4, 5, 6, 7], **settings)
    assert math.isnan(one.parts["draws"])
    assert bool((many.nfe > 2 * one.nfe).all())


def test_without_noise_it_is_the_density_at_the_middle_of_the_bin() -> None:
    model = Gaussian(VPSDE(t_min=1e-5), torch.zeros(3).double(), Covariance.isotropic(0.3))
    images = integers(256, 4, 3)
    got = bits_per_dim(
        model, images, dequantize=NoDequantization(), method=TIGHT, divergence=Exact(), prior=model
    )
    layout = Pixels()
    x = layout.lower_edge(images) + layout.width / 2
    want = layout.bits_per_dim(
        log_likelihood(model, x, method=TIGHT, divergence=Exact(), prior=model).nats, 3
    )
    torch.testing.assert_close(got.per_image, want)


def test_the_parts_add_up() -> None:
    model = mixture(VPSDE(t_min=1e-3), 3)
    images = integers(4, 32, 3)
    got = bits_per_dim(
        model, images, pixels=Pixels(4), dequantize=Uniform(draws=2), divergence=Hutchinson(2)
    )
    squares = sum(got.parts[k] ** 2 for k in ("images", "trace", "draws"))
    assert squares == pytest.approx(got.stderr**2, rel=1e-9)
    assert got.stderr == pytest.approx(float(got.per_image.std()) / math.sqrt(32))
    assert got.parts["trace"] > 0
    assert 0 < got.parts["ode"] < 0.05
    assert math.isnan(got.parts["prior"])  # the default frame is a guess, and knows no moments


def one_pixel(levels: int, std: float, t_min: float):
    """A narrow Gaussian for one pixel, and the exact -log2 P of every level under p_{t_min}."""
    sde = VPSDE(t_min=t_min)
    model = Gaussian(sde, torch.zeros(1).double(), Covariance.isotropic(std**2))
    return model, Pixels(levels, "edges")


@pytest.mark.parametrize("rule", [Uniform, TruncatedNormal, Reconstruction])
def test_every_dequantizer_is_a_bound_and_its_weighted_mean_is_exact(rule) -> None:
    """P(k) is an integral known exactly. The log of the mean over many draws reaches it, so the
    densities and entropies are right; the mean of the logs lies above.
    """
    # At this t_min the noise is a third of a bin wide: the choice of state matters.
    model, layout = one_pixel(8, 0.15, 0.02)
    low = model.sde.at(0.02)
    k = torch.tensor([2, 3, 4, 5])
    edge = layout.lower_edge(k)
    std = math.sqrt(float(low.alpha) ** 2 * 0.15**2 + float(low.sigma) ** 2)
    if rule is Uniform:  # x itself is the state at t_min
        ends = (edge / std, (edge + layout.width) / std)
        exact = -(torch.special.ndtr(ends[1]) - torch.special.ndtr(ends[0])).log2()
    elif rule is TruncatedNormal:  # the state's bin is alpha times x's
        ends = (float(low.alpha) * edge / std, float(low.alpha) * (edge + layout.width) / std)
        exact = -(torch.special.ndtr(ends[1]) - torch.special.ndtr(ends[0])).log2()
    else:  # the probability of reading k back from the state
        x = torch.linspace(-1.2, 1.2, 200_001, dtype=torch.float64)[:, None]
        middles = layout.lower_edge(torch.arange(8)) + layout.width / 2
        read = torch.softmax(-0.5 * ((x - low.alpha * middles) / low.sigma) ** 2, 1)
        density = torch.exp(-0.5 * (x / std) ** 2) / (std * math.sqrt(2 * math.pi))
        exact = -(density * read * 2.4 / 200_000).sum(0)[k].log2()
    draws = 300
    settings = {
        "pixels": Pixels(8),
        "divergence": Exact(),
        "prior": model,
        "method": PerSample(1e-4),
    }
    # A single draw of a Gaussian proposal may count for more than 1 / probability.
    said = pytest.warns(AccuracyWarning, match="less than 0 bits/dim, which")
    with said if rule is TruncatedNormal else nullcontext():
        got = bits_per_dim(
            model, k.repeat_interleave(draws)[:, None], dequantize=rule(), **settings
        )
    values = got.per_image.reshape(4, draws)
    chance = (-values * math.log(2)).exp()
    z = (chance.mean(1) - (-exact * math.log(2)).exp()) / (chance.std(1) / math.sqrt(draws))
    assert float(z.abs().max()) < 4
    assert (values.mean(1) > -chance.mean(1).log2()).all()
    few = bits_per_dim(model, k[:, None], dequantize=rule(3), **settings)
    assert few.importance_weighted is not None
    assert (few.importance_weighted < few.per_image).all()


def test_a_dequantizer_of_ones_own_that_is_the_models_density_leaves_no_gap() -> None:
    """q is the model's Gaussian cut to the bin: every single draw is the exact -log2 P."""
    model, layout = one_pixel(8, 0.15, 1e-5)
    low = model.sde.at(1e-5)
    std = math.sqrt(float(low.alpha) ** 2 * 0.15**2 + float(low.sigma) ** 2)

    def within_bin(images, noise):
        edge = layout.lower_edge(images)
        below, above = (torch.special.ndtr(e / std) for e in (edge, edge + layout.width))
        x = std * torch.special.ndtri(below + (above - below) * torch.special.ndtr(noise))
        density = -0.5 * (x / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))
        log_q = density - (above - below).log() + math.log(layout.width)
        return (x - edge) / layout.width, log_q.sum(1)

    k = torch.tensor([2, 3, 4, 5, 3, 4])[:, None]
    settings = {
        "pixels": Pixels(8),
        "divergence": Exact(),
        "prior": model,
        "method": PerSample(1e-7),
    }
    got = bits_per_dim(model, k, dequantize=Variational(sample=within_bin), **settings)
    edge = layout.lower_edge(k[:, 0])
    ends = (edge / std, (edge + layout.width) / std)
    exact = -(torch.special.ndtr(ends[1]) - torch.special.ndtr(ends[0])).log2()
    torch.testing.assert_close(got.per_image, exact, rtol=1e-4, atol=1e-4)
    assert repr(got.pixels) == repr(layout)


@pytest.mark.parametrize(
    ("sample", "error", "says"),
    [
        (lambda k, noise: (noise, noise.sum(1)), ConfigError, r"torch\.sigmoid"),
        (lambda k, noise: (noise.sigmoid(), noise), ShapeError, r"flatten\(1\)\.sum\(1\)"),
    ],
)
def test_a_dequantizer_that_leaves_the_bin_is_refused(sample, error, says) -> None:
    model, _ = one_pixel(8, 0.15, 1e-5)
    k = torch.arange(8)[:, None]
    with pytest.raises(error, match=says):
        bits_per_dim(model, k, pixels=Pixels(8), dequantize=Variational(sample=sample))


def test_the_prior_part_is_the_kl_of_the_moment_matched_prior() -> None:
    sde = VPSDE()
    model = Gaussian(sde, torch.full((3,), 0.5).double(), Covariance.isotropic(0.3))
    frame = Whitened(*model.moments())
    got = bits_per_dim(model, integers(256, 4, 3), divergence=Exact(), frame=frame)
    end = sde.at(sde.t_max)
    spread = math.sqrt(end.alpha**2 * 0.3 + end.sigma**2)
    zero = torch.zeros((), dtype=torch.float64)
    p = torch.distributions.Normal(zero + end.alpha * 0.5, zero + spread)
    q = torch.distributions.Normal(zero, zero + end.sigma)
    kl = float(torch.distributions.kl_divergence(p, q)) / math.log(2)
    assert got.parts["prior"] == pytest.approx(kl, rel=1e-3)


def test_it_prints_as_a_number_with_its_error() -> None:
    model = Gaussian(VPSDE(t_min=1e-5), torch.zeros(3).double(), Covariance.isotropic(0.3))
    got = bits_per_dim(model, integers(256, 8, 3), divergence=Exact(), method=FixedGrid(38))
    assert str(got) == (
        f"{got.mean:.3f} +- {got.stderr:.3f} bits/dim (38 network evaluations a sample)"
    )


def test_a_failed_image_makes_the_mean_nan_and_is_named() -> None:
    class Poisoned:
        def __init__(self, model) -> None:
            self.model = model

        sde = VPSDE(t_min=1e-5)

        def __call__(self, x, knot):
            prediction = self.model(x, knot)
            raw = prediction.raw.clone()
            raw[x.flatten(1)[:, 0] > 0.9] = math.nan
            return prediction.replace(raw)

        def rows(self, index):
            return self

    model = Gaussian(Poisoned.sde, torch.zeros(3).double(), Covariance.isotropic(0.3))
    images = torch.tensor([[10, 20, 30], [255, 3, 4], [100, 100, 100]])
    with pytest.warns(NonFiniteWarning, match="1 of 3 images failed; image 1: "):
        got = bits_per_dim(Poisoned(model), images, divergence=Exact())
    assert str(got).startswith("1 of 3 images failed; image 1: the network's output is not finite")
    assert list(got.failures) == [1]
    assert got.per_image.isnan().tolist() == [False, True, False]
    assert math.isnan(got.mean)


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ({"levels": 1}, "2 or more"),
        ({"convention": "centers"}, "did you mean 'centres'"),
        ({"value_range": (1.0, -1.0)}, "low, high"),
    ],
)
def test_a_layout_that_means_nothing_is_refused(layout, says) -> None:
    with pytest.raises(ConfigError, match=says):
        Pixels(**layout)


@pytest.mark.parametrize(
    ("images", "settings", "error", "says"),
    [
        (torch.zeros(1, 2), {}, DtypeError, "log_likelihood"),
        (torch.tensor([[0.0, 255.0]]), {}, DtypeError, r"write x\.round\(\)\.to\(torch\.uint8\)"),
        (torch.tensor([[0.0, 1.0]]), {}, DtypeError, r"write \(255 \* x\)\.round"),
        (torch.tensor([[-1.0, 1.0]]), {}, DtypeError, r"write \(\(x \+ 1\) \* 127\.5\)\.round"),
        (torch.tensor([[math.nan, 3.0]]), {}, DtypeError, "1 values that are NaN or infinite"),
        (torch.tensor([[True, False]]), {}, DtypeError, r"Pixels\(levels=2\)"),
        (np.zeros((1, 2), np.uint8), {}, DtypeError, r"torch\.from_numpy\(images\)"),
        ([[1, 2]], {}, DtypeError, r"torch\.tensor\(images\)"),
        (
            torch.tensor([[0, 256]]),
            {},
            ConfigError,
            r"write images with pixels=Pixels\(levels=257\)",
        ),
        (
            torch.tensor([[-3, 10]]),
            {},
            ConfigError,
            r"images - \(-3\) with .*levels=14",
        ),
        (torch.tensor([[0, 1]]), {"pixels": "centres"}, ConfigError, r"write pixels=Pixels\("),
        (torch.tensor([[0, 1]]), {"metod": "FixedGrid"}, TypeError, "metod"),
        (torch.tensor([[0, 1]]), {"frame": "whitened"}, ConfigError, "frame must be"),
        (torch.tensor([[0, 1]]), {"method": "dopri5"}, ConfigError, "method='dopri5'"),
        (torch.tensor([[0, 1]]), {"dequantize": Uniform}, ConfigError, r"write Uniform\(\)"),
        (torch.tensor([0, 1]), {}, ShapeError, r"\(B, \*\)"),
        (torch.zeros(2, 3, dtype=torch.uint8), {}, ShapeError, r"takes \(B, 2\)"),
    ],
)
def test_nonsense_is_refused_with_advice(images, settings, error, says) -> None:
    model = Gaussian(VPSDE(t_min=1e-5), torch.zeros(2).double(), Covariance.isotropic(0.3))
    with pytest.raises(error, match=says):
        bits_per_dim(model, images, **settings)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((28, 28), r"images\[None, None\]"),
        ((64, 64), r"images\[None, None\]"),
        ((5, 28, 28), r"images\[:, None\]"),
        ((3, 784), r"images\.reshape\(-1, 1, 28, 28\)"),
    ],
)
def test_images_that_a_network_cannot_take_say_what_to_write(shape, hint) -> None:
    model = ScoreModel(torch.nn.Conv2d(1, 1, 3, padding=1), VPSDE(t_min=1e-5), time="t")
    model.net.forward = lambda x, t: torch.nn.functional.conv2d(x, torch.ones(1, 1, 1, 1))
    with pytest.raises(ShapeError, match=hint):
        bits_per_dim(model, torch.zeros(*shape, dtype=torch.uint8))


def test_pixels_in_a_row_are_reshaped_to_the_models_own_shape() -> None:
    model = Gaussian(VPSDE(t_min=1e-5), torch.zeros(3, 2, 2).double(), Covariance.isotropic(0.3))
    with pytest.raises(ShapeError, match=r"write images\.reshape\(-1, 3, 2, 2\)"):
        bits_per_dim(model, torch.zeros(5, 12, dtype=torch.uint8))
