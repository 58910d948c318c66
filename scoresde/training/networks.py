"""Small networks: U-Nets for images and MLPs for points.

`ImageUNet` and `FourierMLP` predict the noise. Their time input is log(rho), which is smooth over
the whole range of every process (`ScoreModel(..., time="log_rho")`). `PatchUNet` and `PlainMLP` are
plain networks for any output and any time input. All store their arguments in `config`, so that a
checkpoint can describe them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._internal.plain_data import from_plain
from ..errors import ConfigError, require

MOST_NUMBERS = 2**28
"""Largest number of weights of a network built from a file: 1 GiB, four times that to train."""


def damped_waves(x: Tensor, omega: Tensor, log_rho: Tensor) -> Tensor:
    """Sines and cosines of each coordinate, damped by the noise.

    Noise of standard deviation rho multiplies the mean of a wave of angular frequency w by
    exp(-(w rho)^2 / 2). The features are multiplied by the same factor, so at high noise they add
    no fine structure.

    Args:
        x: points, shape (B, *).
        omega: angular frequencies, shape (F,).
        log_rho: shape (B,).

    Returns:
        Shape (B, 2, F, *).
    """
    ones = [1] * (x.ndim - 1)
    phase = x.unsqueeze(1) * omega.to(x.dtype).reshape(1, -1, *ones)
    damp = (-0.5 * (omega * log_rho.exp().unsqueeze(1)) ** 2).exp().to(x.dtype)
    return torch.stack([phase.sin(), phase.cos()], 1) * damp.reshape(len(x), 1, -1, *ones)


class ImageUNet(nn.Module):
    r"""diffusers' `UNet2DModel` with two additions that make a small network accurate.

    At high noise, a skip: the output is sin(a) x + cos(a) net, with a = atan(rho). So an untrained
    network, net = 0, is right where x is all noise. For a variance-preserving process, `net` is
    then v, as in Salimans & Ho, 2022.

    At low noise, features: eps is the difference of nearly equal numbers, divided by sigma.
    Convolutions with normalised inputs do not learn such a large factor. So the `damped_waves` of
    x are additional inputs, at octaves up to one period per grey level (after Kingma et al.,
    "Variational Diffusion Models", 2021, appendix C, whose features are not damped).

    Args:
        size: height and width of the images.
        channels: channels of the images.
        widths: channels of the network at each resolution; each resolution is half of the one
            before.
        layers: residual blocks at each resolution.
        patch: side of the pixel blocks that are folded into channels at the input.
        frequencies: frequencies of the sines, in periods per unit of x.
        time_scale: factor of log(rho) before the sinusoidal embedding.
    """

    omega: Tensor

    def __init__(
        self,
        size: int = 28,
        channels: int = 1,
        widths: Sequence[int] = (48, 64),
        layers: int = 1,
        patch: int = 2,
        frequencies: Sequence[float] = (2, 4, 8, 16, 32, 64, 128),
        time_scale: float = 10.0,
    ) -> None:
        super().__init__()
        _at_most(64, layers=layers, widths=len(widths), frequencies=len(frequencies))
        _at_most(2**16, size=size, channels=channels, patch=patch, width=max(widths))
        _check_halving(size, patch, len(widths))
        self.config: dict[str, Any] = {
            "size": size, "channels": channels, "widths": list(widths), "layers": layers,
            "patch": patch, "frequencies": list(frequencies), "time_scale": time_scale,
        }  # fmt: skip
        self.patch, self.time_scale = patch, time_scale
        self.register_buffer(
            "omega", 2 * math.pi * torch.tensor(list(frequencies)), persistent=False
        )
        inputs = channels * (1 + 2 * len(frequencies))
        self.unet = _unet(size // patch, inputs * patch**2, channels * patch**2, widths, layers)
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def forward(self, x: Tensor, log_rho: Tensor) -> Tensor:
        """The noise in x, shape (B, C, H, W), at log(rho) of shape (B,)."""
        angle = log_rho.exp().atan().to(x.dtype).reshape(-1, 1, 1, 1)
        waves = damped_waves(x, self.omega, log_rho).flatten(1, 3)
        features = functional.pixel_unshuffle(torch.cat([x, waves], 1), self.patch)
        out = self.unet(features, (self.time_scale * log_rho).to(x.dtype)).sample
        mixed: Tensor = angle.sin() * x + angle.cos() * functional.pixel_shuffle(out, self.patch)
        return mixed


def _check_halving(size: int, patch: int, resolutions: int) -> None:
    if size % (patch * 2 ** (resolutions - 1)):
        raise ConfigError(
            f"images of side {size} cannot be folded by patch={patch} and then halved "
            f"{resolutions - 1} times; choose a size divisible by {patch * 2 ** (resolutions - 1)}"
        )


def _unet(size: int, inputs: int, outputs: int, widths: Sequence[int], layers: int) -> Any:
    """diffusers' `UNet2DModel` with attention only in its middle block."""
    return require("diffusers", "diffusers").UNet2DModel(
        sample_size=size,
        in_channels=inputs,
        out_channels=outputs,
        block_out_channels=tuple(widths),
        layers_per_block=layers,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=8,
        attention_head_dim=16,
    )


def unet_mnist() -> ImageUNet:
    """The architecture of the shipped network: 28 x 28 grey images, under 0.95 M parameters."""
    return ImageUNet()


class FourierMLP(nn.Module):
    """An MLP that predicts the noise in points of the plane, or in any vectors.

    The inputs are the point, its `damped_waves`, and sinusoids of log(rho) at frequencies 1/8,
    1/4, ... 4. The output has the same skip as `ImageUNet`.

    Args:
        dim: dimension of the data.
        width: width of the hidden layers.
        depth: number of hidden layers.
        frequencies: frequencies of the waves, in periods per unit of x.
    """

    omega: Tensor
    bands: Tensor

    def __init__(
        self,
        dim: int = 2,
        width: int = 96,
        depth: int = 3,
        frequencies: Sequence[float] = (0.5, 1, 2, 4),
    ) -> None:
        super().__init__()
        _at_most(256, depth=depth, frequencies=len(frequencies))
        _at_most(2**24, dim=dim, width=width)
        self.config: dict[str, Any] = {
            "dim": dim, "width": width, "depth": depth, "frequencies": list(frequencies),
        }  # fmt: skip
        omega = 2 * math.pi * torch.tensor(list(frequencies))
        self.register_buffer("omega", omega, persistent=False)
        self.register_buffer("bands", 2.0 ** torch.arange(-3.0, 3.0), persistent=False)
        inputs = dim * (1 + 2 * len(omega)) + 2 * len(self.bands)
        layers: list[nn.Module] = []
        for a, b in pairwise([inputs, *[width] * depth]):
            layers += [nn.Linear(a, b), nn.SiLU()]
        last = nn.Linear(width, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, log_rho: Tensor) -> Tensor:
        """The noise in x, shape (B, dim), at log(rho) of shape (B,)."""
        angle = log_rho.exp().atan().to(x.dtype).unsqueeze(1)
        phase = (log_rho.unsqueeze(1) * self.bands).to(x.dtype)
        waves = damped_waves(x, self.omega, log_rho).flatten(1)
        out = self.layers(torch.cat([x, waves, phase.sin(), phase.cos()], 1))
        mixed: Tensor = angle.sin() * x + angle.cos() * out
        return mixed


class PatchUNet(nn.Module):
    """A plain U-Net on images folded by `patch`, without the skip and waves of `ImageUNet`.

    Args:
        size: height and width of the images.
        channels: channels of the images.
        widths: channels of the network at each resolution; each resolution is half of the one
            before.
        layers: residual blocks at each resolution.
        patch: side of the pixel blocks that are folded into channels at the input.
        classes: number of classes, or None. With classes, the network takes labels `y`, shape (B,),
            int64; the label `classes` means "no class".
    """

    def __init__(
        self,
        size: int = 28,
        channels: int = 1,
        widths: Sequence[int] = (24, 48),
        layers: int = 1,
        patch: int = 2,
        classes: int | None = None,
    ) -> None:
        super().__init__()
        _at_most(64, layers=layers, widths=len(widths))
        _at_most(2**16, size=size, channels=channels, patch=patch, width=max(widths))
        _check_halving(size, patch, len(widths))
        self.config: dict[str, Any] = {
            "size": size, "channels": channels, "widths": list(widths), "layers": layers,
            "patch": patch, "classes": classes,
        }  # fmt: skip
        self.patch, self.classes = patch, classes
        self.unet = _unet(size // patch, channels * patch**2, channels * patch**2, widths, layers)
        if classes is not None:
            width = self.unet.time_embedding.linear_2.out_features
            self.unet.class_embedding = nn.Embedding(classes + 1, width)
            self.unet.config["class_embed_type"] = None

    def forward(self, x: Tensor, time: Tensor, y: Tensor | None = None) -> Tensor:
        """The raw output at x, shape (B, C, H, W), a time of shape (B,), and labels (B,)."""
        features = functional.pixel_unshuffle(x, self.patch)
        out = self.unet(features, time, class_labels=y).sample
        return functional.pixel_shuffle(out, self.patch)


class PlainMLP(nn.Module):
    """An MLP of points and a sinusoidal embedding of the time, with or without batch norm.

    Args:
        dim: dimension of the data.
        width: width of the hidden layers.
        depth: number of hidden layers.
        batch_norm: normalise each hidden layer over the batch. In training mode, the samples of a
            batch then depend on each other.
        period: longest period of the embedding; it distinguishes times up to about this number.
    """

    bands: Tensor

    def __init__(
        self,
        dim: int = 2,
        width: int = 128,
        depth: int = 3,
        batch_norm: bool = False,
        period: float = 1000.0,
    ) -> None:
        super().__init__()
        _at_most(256, depth=depth)
        _at_most(2**24, dim=dim, width=width)
        self.config: dict[str, Any] = {
            "dim": dim, "width": width, "depth": depth, "batch_norm": batch_norm,
            "period": period,
        }  # fmt: skip
        bands = math.pi / period * 2.0 ** torch.arange(10.0)
        self.register_buffer("bands", bands, persistent=False)
        layers: list[nn.Module] = []
        for a, b in pairwise([dim + 2 * len(bands), *[width] * depth]):
            layers += [nn.Linear(a, b), *([nn.BatchNorm1d(b)] if batch_norm else []), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """The raw output at x, shape (B, dim), and a time of shape (B,)."""
        phase = (time.unsqueeze(1) * self.bands).to(x.dtype)
        out: Tensor = self.layers(torch.cat([x, phase.sin(), phase.cos()], 1))
        return out


Network = ImageUNet | FourierMLP | PatchUNet | PlainMLP
"""The networks of this file."""

KINDS = get_args(Network)


def to_dict(net: object) -> dict[str, Any]:
    """A network's name and arguments as JSON-able data.

    Raises:
        ConfigError: for a network that is not one of this file.
    """
    if type(net) not in KINDS:
        raise ConfigError(
            f"{type(net).__name__} is not a network of scoresde.training.networks, so its "
            "arguments cannot be stored"
        )
    return {"name": type(net).__name__, **getattr(net, "config")}  # noqa: B009


def from_dict(data: dict[str, Any], seed: int = 0) -> Network:
    """The network that `to_dict` wrote, freshly initialised.

    Args:
        data: name and arguments.
        seed: seed of the initial weights; torch's global generator does not change.

    Raises:
        ConfigError: for an unknown name or argument, or a network of more than `MOST_NUMBERS`
            weights. It is raised before memory is allocated.
    """

    def build() -> Network:
        made: Network = from_plain("network", data, KINDS)
        return made

    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):  # sizes without numbers
                count = sum(p.numel() for p in build().parameters())
        except (RuntimeError, OverflowError) as error:
            raise ConfigError(f"no network has these sizes: {data!r:.200} ({error})") from error
        if count > MOST_NUMBERS:
            raise ConfigError(
                f"a network of {count:,} weights is too large to be built from a description; at "
                f"most {MOST_NUMBERS:,} are allowed"
            )
        torch.manual_seed(seed)
        return build()


def _at_most(most: int, **counts: int) -> None:
    for name, count in counts.items():
        if not 1 <= count <= most:
            raise ConfigError(f"{name} must be 1 to {most}, got {count}")
