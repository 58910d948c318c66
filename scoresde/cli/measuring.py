"""True samples, features and metrics by their names on the command line."""

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
"""Metrics that are distances to true samples: lower is better, 0 is perfect."""


TRUTHS = 4000
"""Largest number of true samples used, unless --truths is given."""


def at_hand(model: str, truth: str, features: str, metrics: Sequence[str] = ()) -> tuple[str, str]:
    """Names of true samples and features; for `mnist` with defaults that its metrics need.

    Args:
        model, truth, features: names as given on the command line.
        metrics: names of metrics; empty for the default ones, which use both.

    Raises:
        ConfigError: for true samples or features that no metric uses.
    """
    named = [ALIASES.get(name.lower(), name.lower()) for name in metrics]
    compared = [name for name in named if name not in ENDPOINTS]
    mapped = [name for name in named if name in FEATURES]
    if truth and metrics and not compared:
        raise ConfigError(
            f"--truth {truth} is not used by the metric {', '.join(metrics)}; leave it out, or add "
            "--metric energy"
        )
    if features and metrics and not mapped:
        raise ConfigError(
            f"--features {features} is not used by the metric {', '.join(metrics)}; leave it out, "
            "or add --metric frechet"
        )
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
    """A metric by name, or your own metric or maker of one: `module:name` or `file.py:name`."""
    found: Wanted = specs.lookup("metric", spec, {}, own=True) if ":" in spec else spec
    return found


def images(spec: str, most: int | None, seed: int) -> Tensor:
    """True samples by name, the first `most` of them; integers are dequantized."""
    found = read_images(spec)[:most]
    if found.is_floating_point():
        return found.to(torch.float32)
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) <= 255:
        raise ConfigError(
            f"integers are read as images with levels 0..255, but {spec!r} has {int(found.min())}.."
            f"{int(found.max())}; save other data as floats"
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
    """A distance by name, or your own, to at most `truths` true samples.

    True samples are a random subset of a file, without its first `skipped` samples. A closed-form
    model draws its own.

    Raises:
        ConfigError: for an unknown name, for a distance whose data are not given, and for true
            samples of another shape than the model's.
    """
    wanted = metric(name)
    if isinstance(wanted, str) and ALIASES.get(name.lower(), name.lower()) not in DISTANCES:
        raise unknown_name("distance", name, DISTANCES, ALIASES)
    true = None
    if truth:
        true = images(truth, None, seed)[skipped:]
        if true.shape[1:] != shape:
            raise ConfigError(
                f"samples of the model have shape {shape}, those of --truth {truth} have shape "
                f"{tuple(true.shape[1:])}; both must be the same"
            )
        order = torch.randperm(len(true), generator=generator(seed))
        true = true[order[:truths]]
    elif isinstance(model, GaussianMixture):
        true = model.sample(truths, seed=seed)
    extract = extractor(features, device) if features else None
    return AtHand(model, None, true, extract).make(wanted)
