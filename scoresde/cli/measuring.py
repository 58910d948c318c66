"""What samples are compared with, and where: true samples and features by name."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import names
from ..analytic import GaussianMixture
from ..bench.measures import AtHand
from ..data import dequantize
from ..errors import ConfigError
from ..features import Features, digit_features, inception_features
from ..metrics import Metric
from ..model import Predictor
from .work import read_images


def at_hand(model: str, truth: str, features: str) -> tuple[str, str]:
    """Names of true samples and features; those that are at hand for the shipped network."""
    if model != "mnist":
        return truth, features
    return truth or "heldout", features or "digits"


def extractor(spec: str, device: str) -> Features:
    """Features by name."""
    if spec == "digits":
        return digit_features(device)
    kind, _, rest = spec.partition(":")
    if kind == "inception":
        return inception_features(rest, device)
    made = names.lookup("features", spec, {})
    if not callable(made):
        raise ConfigError(f"{spec!r} is {made!r}, not a function of samples (B, *)")
    found: Features = made
    return found


def images(spec: str, most: int, seed: int) -> Tensor:
    """True samples by name, at most so many."""
    found = read_images(spec)[:most]
    if found.is_floating_point():
        return found.to(torch.float32)
    return dequantize(found, torch.Generator().manual_seed(seed))


def distance(
    name: str, model: Predictor, truth: str, truths: int, features: str, seed: int, device: str
) -> Metric:
    """A measure by name, to true samples; a closed form draws them itself.

    Raises:
        ConfigError: for a name that is none, or takes what is not given.
    """
    if name in ("rms", "median"):
        raise ConfigError(f"{name!r} is what is made small without --metric; leave it out")
    true = images(truth, truths, seed) if truth else None
    if true is None and isinstance(model, GaussianMixture):
        true = model.sample(truths, seed=seed)
    extract = extractor(features, device) if features else None
    return AtHand(model, None, true, extract).make(name)
