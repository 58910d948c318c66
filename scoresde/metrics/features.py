"""Features of images, for distances between distributions of images.

A distance between distributions of images says little when it is computed from pixels. It is
computed from *features* instead: activations in a network that was trained on the same kind of
images. Any function that maps samples (B, *) to (B, F) can be used. The library has two.

| features | images in (-1, 1) | F |
| --- | --- | --- |
| `digit_features()` | handwritten digits, (B, 1, 28, 28), by a small classifier that ships | 64 |
| `inception_features(weights)` | any images, (B, 1 or 3, H, W), by the network of the FID | 2048 |
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ShapeError, require
from ..training.checkpoint import read

Features = Callable[[Tensor], Tensor]
"""Maps samples (B, *) to features (B, F)."""

_BATCH = 256


class DigitClassifier(nn.Module):
    """A convolutional network for 28 x 28 grey images, under 0.1 M parameters.

    `benchmarks/digit_classifier.py` trains it and measures its accuracy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_block(1, 16, 2), *_block(16, 32, 1), *_block(32, 48, 2), *_block(48, 64, 1)
        )
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """The input of the last layer: shape (B, 1, 28, 28) to (B, 64)."""
        if x.shape[1:] != (1, 28, 28):
            raise ShapeError(f"the digit classifier takes (B, 1, 28, 28), got {tuple(x.shape)}")
        pooled: Tensor = self.body(x).mean((2, 3))
        return pooled

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten digits, shape (B, 10)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def load_digit_classifier(path: str | Path | None = None) -> DigitClassifier:
    """Load the digit classifier from a file, in evaluation mode; by default the one that ships.

    Raises:
        CheckpointError: for a file that does not hold such a classifier.
    """
    if path is None:
        with as_file(files("scoresde") / "pretrained" / "features" / "digits.safetensors") as own:
            return load_digit_classifier(own)
    weights, description = read(path)
    classifier = DigitClassifier()
    try:
        classifier.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{path} does not hold a digit classifier ({sorted(description)}): {error}"
        ) from error
    return classifier.eval()


def digit_features(device: torch.device | str = "cpu") -> Features:
    """Features of handwritten digits, from the classifier that ships."""
    classifier = load_digit_classifier().to(device)
    return lambda x: _in_batches(classifier.features, x, device)


def inception_features(weights: str | Path, device: torch.device | str = "cpu") -> Features:
    """The 2048 features of the Inception network that define the FID, computed by torchmetrics.

    Args:
        weights: the file of weights, named `weights-inception-2015-12-05-6d40a5.pth` by
            torch-fidelity. Nothing is downloaded.
        device: where the network runs.

    Raises:
        CheckpointError: if there is no such file.
    """
    if not Path(weights).is_file():
        raise CheckpointError(f"there is no file {str(weights)!r} with the weights of Inception")
    fid = require("torchmetrics.image.fid", "metrics")
    require("torch_fidelity", "metrics")
    network: Any = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)

    def extract(x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise ShapeError(f"Inception takes images (B, 1 or 3, H, W), got {tuple(x.shape)}")
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        found: Tensor = network(pixels.expand(-1, 3, -1, -1))
        return found

    return lambda x: _in_batches(extract, x, device)


def _in_batches(extract: Features, x: Tensor, device: torch.device | str) -> Tensor:
    with torch.no_grad():
        parts = [
            extract(x[k : k + _BATCH].to(device=device, dtype=torch.float32)).cpu()
            for k in range(0, len(x), _BATCH)
        ]
    return torch.cat(parts)


def _block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.SiLU()]
