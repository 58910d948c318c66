"""What `scoresde check` does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..diagnose import check_model
from ..errors import ConfigError
from ..noise import generator
from ..training.data import Dataset
from . import models
from .work import check_device, read_images

_MOST = 2048


def check(*, model: str, data: str, value_range: str, seed: int, process: str, device: str) -> bool:
    """`scoresde check`: print what was found, and return whether nothing is wrong."""
    found = models.load(model, process=process, device=check_device(device))
    values = read_images(data)[:_MOST]
    if values.is_floating_point():
        if value_range:
            raise ConfigError(f"{data} has floats, which are used as they are; leave --range out")
    else:
        values = _as_floats(values, value_range, found.description, seed)
    result = check_model(found.model, values, seed=seed, progress=True)
    print(result)
    return result.ok


def _as_floats(images: Tensor, value_range: str, about: dict[str, Any], seed: int) -> Tensor:
    """Integer images in the range asked for, or in that of the model's recipe, dequantized."""
    recipe = about.get("recipe") or {}
    low, high = recipe.get("data", {}).get("value_range", (-1.0, 1.0))
    if value_range:
        try:
            low, high = (float(part) for part in value_range.split(","))
        except ValueError:
            raise ConfigError(f"a range is written as 0,1, got {value_range!r}") from None
    if not low < high:
        raise ConfigError(f"a range runs from low to high, got {low:g},{high:g}; write -1,1")
    draw = generator("check", seed)
    if about.get("pixels") == "centres":
        made: Tensor = (low + (high - low) * (images.double() / 255.0)).float()
        return made
    whole = Dataset(images, levels=256, value_range=(low, high))
    return whole.batch(torch.arange(len(images)), draw)
