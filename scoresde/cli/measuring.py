"""What samples are compared with, and where: true samples and features by name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .._internal import specs
from ..bench.named_metrics import ALIASES, ENDPOINTS, FEATURES, AtHand, Wanted
from ..errors import ConfigError, unknown_name
from ..exact.mixtures import GaussianMixture
from ..metrics import Metric
from ..metrics.features import Features, digit_features, inception_features
from ..model import Predictor
from ..noise import generator
from ..training.data import dequantize
from .work import read_images

DISTANCES = ("frechet", "kernel", "energy", "mmd", "sliced_w2", "w2")
"""Metrics of which less is better and 0 perfect, to true samples."""


TRUTHS = 4000
"""True samples that are taken, at most, unless --truths says otherwise."""


def at_hand(model: str, truth: str, features: str, metrics: Sequence[str] = ()) -> tuple[str, str]:
    """Names of true samples and features; for the shipped network, those that its metrics take.

    Args:
        model, truth, features: as they were given.
        metrics: names; none for the default ones, which take both.

    Raises:
        ConfigError: for true samples or features that no metric takes.
    """
    compared = [name for name in metrics if name not in ENDPOINTS]
    mapped = [name for name in metrics if name in FEATURES]
    if truth and metrics and not compared:
        raise ConfigError(f"--truth {truth} is not compared with in {', '.join(metrics)}")
    if features and metrics and not mapped:
        raise ConfigError(f"--features {features} are not taken by {', '.join(metrics)}")
    if model == "mnist":
        truth = truth or ("heldout" if compared or not metrics else "")
        features = features or ("digits" if mapped or not metrics else "")
    return truth, features


def extractor(spec: str, device: str) -> Features:
    """Features by name."""
    if spec == "digits":
        return digit_features(device)
    kind, _, rest = spec.partition(":")
    if kind == "inception":
        return inception_features(rest, device)
    made = specs.lookup("features", spec, {}, own=True)
    if not callable(made):
        raise ConfigError(f"{spec!r} is {made!r}, not a function of samples (B, *)")
    found: Features = made
    return found


def metric(spec: str) -> Wanted:
    """A metric by name; one of your own, or what makes one, as `module:name` or `file.py:name`."""
    found: Wanted = specs.lookup("metric", spec, {}, own=True) if ":" in spec else spec
    return found


def images(spec: str, most: int | None, seed: int) -> Tensor:
    """True samples by name, at most so many; integers are dequantized."""
    found = read_images(spec)[:most]
    if found.is_floating_point():
        return found.to(torch.float32)
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) <= 255:
        raise ConfigError(
            f"whole numbers are read as images of 0..255, and {spec!r} has {int(found.min())}.."
            f"{int(found.max())}; save floats"
        )
    return dequantize(found, generator(seed))


def distance(
    name: str,
    model: Predictor,
    shape: tuple[int, ...],
    *,
    truth: str,
    skipped: int,
    truths: int,
    features: str,
    seed: int,
    device: str,
) -> Metric:
    """A distance by name or of your own, to at most `truths` true samples. They are taken at random
    from a file without its first `skipped`; a closed form draws them itself.

    Raises:
        ConfigError: for a name that is none, or takes what is not given; for true samples of
            another shape than the model's.
    """
    wanted = metric(name)
    if isinstance(wanted, str) and ALIASES.get(name.lower(), name.lower()) not in DISTANCES:
        raise unknown_name("distance", name, DISTANCES, ALIASES)
    true = None
    if truth:
        true = images(truth, None, seed)[skipped:]
        if true.shape[1:] != shape:
            raise ConfigError(
                f"samples have shape {shape}, those of --truth {truth} {tuple(true.shape[1:])}"
            )
        order = torch.randperm(len(true), generator=generator(seed))
        true = true[order[:truths]]
    elif isinstance(model, GaussianMixture):
        true = model.sample(truths, seed=seed)
    extract = extractor(features, device) if features else None
    return AtHand(model, None, true, extract).make(wanted)
