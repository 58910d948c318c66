"""Bits per dimension of integer data, with what its error is made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..model import Predictor
from .dequantization import Dequantization, Uniform
from .log_likelihood import TimeRangeWarning, likelihood_ends, log_likelihood
from .pixels import Pixels
from .seeds import PIXELS, PROBES, derived, per_sample


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Negative log-probability of integer data, in bits per dimension.

    `parts`, all in bits/dim and for the mean, NaN where nothing is known:

    | part | what |
    | --- | --- |
    | "images" | standard error from the spread between images |
    | "trace" | standard error from the probes (two or more) |
    | "dequantization" | standard error from the draws (two or more) |
    | "ode" | mean of the integration's error estimates |
    | "dequantization gap" | least distance of the bound from -log2 P (exact divergence) |
    | "prior" | what N(0, sigma^2) costs against the moment-matched prior (a frame of the data) |

    The first three make up `stderr`; the second and third alone are the error for this fixed set
    of images.

    Attributes:
        mean: over the images; NaN if any of them failed.
        stderr: standard error of `mean` as an estimate for the population of images: their
            spread, which holds the estimator's own noise too.
        per_image: shape (B,), float64.
        parts: see above.
        nfe: network evaluations per image, all draws together: a number, or shape (B,).
        pixels: the convention.
        importance_weighted: another, tighter bound, for each image, shape (B,): the log of the
            mean over draws of p/q (Burda et al., "Importance Weighted Autoencoders", 2016), for
            the exact divergence and two draws or more. Not comparable with published bits/dim,
            which average in log space.
        failures: reasons, by place in the batch.
    """

    mean: float
    stderr: float
    per_image: Tensor
    parts: dict[str, float]
    nfe: int | Tensor
    pixels: Pixels
    importance_weighted: Tensor | None = None
    failures: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        nfe = round(float(torch.as_tensor(self.nfe, dtype=torch.float64).mean()))
        spread = "" if math.isnan(self.stderr) else f" +- {self.stderr:.3f}"
        return f"{self.mean:.3f}{spread} bits/dim ({nfe} network evaluations a sample)"


@dataclass(eq=False)
class Estimates:
    """What the draws for some images gave, in nats less the volume of the bins.

    Attributes:
        nats: log p - log q - D log(width), shape (B, draws).
        stderr, error: of each, shape (B, draws), see `LogLikelihood`.
        nfe: evaluations of all draws, shape (B,).
        failures: reasons, by place.
    """

    nats: Tensor
    stderr: Tensor
    error: Tensor
    nfe: Tensor
    failures: dict[int, str]

    @staticmethod
    def join(parts: Sequence[Estimates]) -> Estimates:
        """Those of several batches, one after another."""
        failures: dict[int, str] = {}
        first = 0
        for part in parts:
            failures |= {first + place: reason for place, reason in part.failures.items()}
            first += len(part.nats)
        return Estimates(
            torch.cat([p.nats for p in parts]),
            torch.cat([p.stderr for p in parts]),
            torch.cat([p.error for p in parts]),
            torch.cat([p.nfe for p in parts]),
            failures,
        )


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
    rule = dequantize if dequantize is not None else Uniform()
    if images.ndim < 2:
        raise ShapeError(f"images must have shape (B, *), got {tuple(images.shape)}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size!r}")
    layout.check(images)
    own = per_sample(seeds, len(images))
    size = batch_size or max(len(images), 1)
    done = []
    for first in range(0, max(len(images), 1), size):
        rows = torch.arange(first, min(first + size, len(images)), device=images.device)
        part = model if len(rows) == len(images) else model.rows(rows)
        chosen = own[first : first + len(rows)]
        done.append(estimate(part, images[rows], layout, rule, chosen, settings))
    return summarize(Estimates.join(done), layout, model, images[0:1].numel(), settings)


def estimate(
    model: Predictor,
    images: Tensor,
    layout: Pixels,
    rule: Dequantization,
    seeds: Sequence[int],
    settings: dict[str, Any],
) -> Estimates:
    """All draws for one batch of images."""
    low, _ = likelihood_ends(model.sde, settings.get("t_min"))
    runs, nats = [], []
    for k in range(rule.draws):
        stream = derived(seeds, PIXELS, k).open(images.shape, torch.float64, images.device)
        x, gain = rule.draw(images, layout, low, stream)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TimeRangeWarning)  # told above
            run = log_likelihood(model, x, seeds=derived(seeds, PROBES, k).seeds, **settings)
        runs.append(run)
        nats.append(run.nats.detach() + gain)
    failures: dict[int, str] = {}
    for run in runs:
        failures |= run.failures
    nfe = [torch.as_tensor(run.nfe).expand(len(images)) for run in runs]
    return Estimates(
        torch.stack(nats, 1),
        torch.stack([run.stderr for run in runs], 1),
        torch.stack([run.error for run in runs], 1),
        torch.stack(nfe, 1).sum(1),
        failures,
    )


def summarize(
    found: Estimates, layout: Pixels, model: Predictor, size: int, settings: dict[str, Any]
) -> BitsPerDim:
    """Bits per dimension, its error and parts, from estimates in nats of images of `size`."""
    count, draws = found.nats.shape
    unit = 1.0 / (max(size, 1) * math.log(2))
    per_image = layout.bits_per_dim(found.nats.mean(1), max(size, 1))
    total = float(per_image.std()) / math.sqrt(count) if count > 1 else math.nan
    # Variances of an image's mean over its draws.
    trace = found.stderr.square().mean(1) / draws
    within = found.nats.var(1) / draws if draws > 1 else torch.full_like(trace, math.nan)
    own = {
        "trace": unit * _root_sum(trace),
        "dequantization": unit * _root_sum((within - trace.nan_to_num()).clamp_min(0.0)),
    }
    known = sum(value**2 for value in own.values() if not math.isnan(value))
    weighted = None
    if draws > 1 and bool((found.stderr == 0).all()):
        mean = torch.logsumexp(found.nats, 1) - math.log(draws)
        weighted = layout.bits_per_dim(mean, max(size, 1))
    frame = settings.get("frame")
    high = model.sde.at(model.sde.t_max)
    standard = frame is not None and settings.get("prior") is None
    parts = {
        "images": math.sqrt(max(total**2 - known, 0.0)) if total == total else math.nan,
        **own,
        "ode": unit * float(found.error.mean()),
        "dequantization gap": math.nan
        if weighted is None
        else float((per_image - weighted).mean()),
        "prior": unit * frame.prior_gap(high, size) if standard and frame else math.nan,
    }
    same = count > 0 and bool((found.nfe == found.nfe[0]).all())
    return BitsPerDim(
        mean=float(per_image.mean()),
        stderr=total,
        per_image=per_image,
        parts=parts,
        nfe=int(found.nfe[0]) if same else found.nfe,
        pixels=layout,
        importance_weighted=weighted,
        failures=found.failures,
    )


def _root_sum(variances: Tensor) -> float:
    """Standard error of the mean from those of its terms."""
    return math.sqrt(float(variances.sum())) / max(len(variances), 1)
