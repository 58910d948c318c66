"""Bits per dimension of integer data, with what its error is made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..model import Predictor
from .dequantization import Dequantization, Uniform
from .log_likelihood import LogLikelihood, log_likelihood
from .pixels import Pixels
from .seeds import PIXELS, PROBES, derived, per_sample


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Negative log-probability of integer data, in bits per dimension.

    Attributes:
        mean: over the images; NaN if any of them failed.
        stderr: standard error of `mean` as an estimate for the population of images: their
            spread, which holds the estimator's own noise too.
        per_image: shape (B,), float64.
        parts: what `stderr` is made of, each a standard error of the mean in bits/dim: "images"
            (spread between images), "trace" (probes) and "dequantization" (draws within an
            image); the last two are the error for this fixed set of images. NaN where one probe,
            or one draw, tells nothing.
        nfe: network evaluations per image, all draws together: a number, or shape (B,).
        pixels: the convention.
        failures: reasons, by place in the batch.
    """

    mean: float
    stderr: float
    per_image: Tensor
    parts: dict[str, float]
    nfe: int | Tensor
    pixels: Pixels
    failures: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        nfe = round(float(torch.as_tensor(self.nfe, dtype=torch.float64).mean()))
        spread = "" if math.isnan(self.stderr) else f" +- {self.stderr:.3f}"
        return f"{self.mean:.3f}{spread} bits/dim ({nfe} network evaluations a sample)"


def bits_per_dim(
    model: Predictor,
    images: Tensor,
    *,
    levels: int = 256,
    pixels: str = "edges",
    value_range: tuple[float, float] = (-1.0, 1.0),
    dequantize: Dequantization | None = None,
    batch_size: int | None = None,
    seeds: int | Sequence[int] = 0,
    **settings: Any,
) -> BitsPerDim:
    """Bits per dimension, -log2 P(image) / D.

    It is NLL / (D ln 2) - log2(width of a bin), with nothing added: `scoresde.likelihood.pixels`
    has the bin, `docs/bits_per_dim.md` what papers add.

    Args:
        model: what predicts.
        images: integers 0 .. levels-1, shape (B, *).
        levels, pixels, value_range: how the model was shown integers, see `Pixels`.
        dequantize: `Uniform(draws=1)` by default.
        batch_size: images at a time; all by default.
        seeds: of pixels and probes, one an image; a number s stands for s, s + 1, ...
        **settings: for `log_likelihood`: t_min, method, divergence, prior, frame.

    Raises:
        DtypeError, ConfigError, ShapeError: for images that do not fit the stated levels.
    """
    layout = Pixels(levels, pixels, value_range)
    layout.check(images)
    if images.ndim < 2:
        raise ShapeError(f"images must have shape (B, *), got {tuple(images.shape)}")
    rule = dequantize if dequantize is not None else Uniform()
    own = per_sample(seeds, len(images))
    size = batch_size or max(len(images), 1)
    nats, errors, nfes = [], [], []
    failures: dict[int, str] = {}
    for first in range(0, len(images), size):
        rows = torch.arange(first, min(first + size, len(images)), device=images.device)
        part = model if len(rows) == len(images) else model.rows(rows)
        chosen = [own[int(i)] for i in rows]
        runs = [
            _draw(part, images[rows], layout, rule, chosen, k, settings) for k in range(rule.draws)
        ]
        nats.append(torch.stack([value for value, _ in runs], 1))
        errors.append(torch.stack([run.stderr for _, run in runs], 1))
        nfes.append(sum(torch.as_tensor(run.nfe).expand(len(rows)) for _, run in runs))
        for _, run in runs:
            failures |= {first + place: reason for place, reason in run.failures.items()}
    return _collect(layout, images, nats, errors, nfes, failures)


def _draw(
    model: Predictor,
    images: Tensor,
    layout: Pixels,
    rule: Dequantization,
    seeds: list[int],
    k: int,
    settings: dict[str, Any],
) -> tuple[Tensor, LogLikelihood]:
    """log P of one draw for each image, in nats less the volume of the bins, and its run."""
    stream = derived(seeds, PIXELS, k).open(images.shape, torch.float64, images.device)
    x, gain = rule.draw(images, layout, stream)
    run = log_likelihood(model, x, seeds=derived(seeds, PROBES, k).seeds, **settings)
    return run.nats + gain, run


def _collect(
    layout: Pixels,
    images: Tensor,
    nats: list[Tensor],
    errors: list[Tensor],
    nfes: list[Any],
    failures: dict[int, str],
) -> BitsPerDim:
    count, size = len(images), images[0].numel() if len(images) else 1
    none = torch.zeros(0, 1, dtype=torch.float64)
    draws, stderr = torch.cat(nats or [none]), torch.cat(errors or [none])
    per_image = layout.bits_per_dim(draws.mean(1), size)
    unit = 1.0 / (size * math.log(2))
    k = draws.shape[1]
    trace = stderr.square().mean(1) / k  # variance of an image's mean over draws
    within = draws.var(1) / k if k > 1 else torch.full_like(trace, math.nan)
    total = float(per_image.std()) / math.sqrt(count) if count > 1 else math.nan
    parts = {
        "trace": unit * math.sqrt(float(trace.sum())) / max(count, 1),
        "dequantization": unit
        * math.sqrt(float((within - trace.nan_to_num()).clamp_min(0).sum()))
        / max(count, 1),
    }
    own = sum(value**2 for value in parts.values() if not math.isnan(value))
    parts = {"images": math.sqrt(max(total**2 - own, 0.0)) if total == total else total, **parts}
    nfe = torch.cat(nfes) if nfes else torch.zeros(0, dtype=torch.long)
    same = len(nfe) > 0 and bool((nfe == nfe[0]).all())
    return BitsPerDim(
        mean=float(per_image.mean()),
        stderr=total,
        per_image=per_image,
        parts=parts,
        nfe=int(nfe[0]) if same else nfe,
        pixels=layout,
        failures=failures,
    )
