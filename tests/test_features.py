"""The accuracy of the shipped digit classifier, and its features."""

from __future__ import annotations

import pytest
import torch

import scoresde as sd
from scoresde.errors import CheckpointError, ShapeError
from scoresde.metrics import FrechetDistance
from scoresde.metrics.features import (
    DigitClassifier,
    digit_features,
    inception_features,
    load_digit_classifier,
)
from scoresde.training.checkpoint import save_model
from scoresde.training.data import dequantize, heldout_digits


def test_digits_that_it_has_not_seen_are_told_apart():
    images, labels = (part[:1000] for part in heldout_digits())
    model = load_digit_classifier()
    assert sum(p.numel() for p in model.parameters()) < 100_000
    x = dequantize(images, torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(x)
    right = (logits.argmax(1) == labels).double().mean()
    assert right > 0.985  # 0.9944 on the test images, less 4 standard errors
    found = digit_features()(x)  # in several batches
    assert found.shape == (1000, 64)
    with torch.no_grad():  # they are what the last layer reads, row for row
        torch.testing.assert_close(model.head(found.float()), logits, rtol=1e-4, atol=1e-4)


def test_frechet_distance_sees_what_a_digit_is():
    """Other digits are nearer than the same digits with a patch gone, pixel for pixel closer."""
    x = dequantize(heldout_digits()[0][:1200], torch.Generator().manual_seed(0))
    distance = FrechetDistance(x[:600], digit_features(), resamples=5)
    broken = x[:600].clone()
    broken[:, :, 10:18, 10:18] = -1.0
    assert distance(broken).low > 3 * distance(x[600:]).value


def test_wrong_shapes_and_files(tmp_path):
    with pytest.raises(ShapeError, match=r"\(B, 1, 28, 28\), got \(2, 3, 32, 32\)"):
        DigitClassifier().features(torch.zeros(2, 3, 32, 32))
    save_model(tmp_path / "other.safetensors", sd.load_pretrained("swiss_roll"))
    with pytest.raises(CheckpointError, match="does not hold a digit classifier"):
        load_digit_classifier(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="no file"):
        inception_features(tmp_path / "inception.pth")
