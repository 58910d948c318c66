"""Bits per dimension of integer data, with the parts of its error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._internal.checks import check_kind, check_model
from .._internal.integers import whole_numbers
from ..errors import ConfigError, DtypeError, ScoreSDEError, ShapeError
from ..model import Predictor, event_shape_of
from ..ode import Backend
from ..sampling.run import NonFiniteWarning
from ..scalar import widest
from ..sde.knot import Knot
from .dequantization import Dequantization, Uniform
from .divergence import Divergence
from .end import EndLike, end_of, settled
from .end_gap import end_gap, prior_gap
from .error_budget import BitsPerDim, Estimates, summarize
from .frame import Frame
from .inputs import check_frame, check_method
from .log_density import TimeRangeWarning, likelihood_ends, log_likelihood
from .method import Method
from .pixels import EDGES, Pixels
from .streams import PIXELS, PROBES, derived, per_sample
from .truncation import truncation

_PILOT = 16  # images from which the effect of the noise at t_min is estimated


def bits_per_dim(
    model: Predictor,
    images: Tensor,
    *,
    pixels: Pixels = EDGES,
    dequantize: Dequantization | None = None,
    t_min: float | None = None,
    method: Method | Backend | str | None = None,
    divergence: Divergence | None = None,
    prior: Any = None,
    end: EndLike = None,
    frame: Frame | None = None,
    batch_size: int | None = None,
    seeds: int | Sequence[int] = 0,
) -> BitsPerDim:
    """Bits per dimension, -log2 P(image) / D.

    It is NLL / (D ln 2) - log2(width of a bin), without corrections. `scoresde.likelihood.pixels`
    defines the bins; `docs/bits_per_dim.md` lists the corrections that papers add.

    Args:
        model: the model.
        images: integers 0 .. levels-1, shape (B, *).
        pixels: the convention with which the model was trained; 256 levels in (-1, 1) by default.
        dequantize: `Uniform(draws=1)` by default.
        t_min, method, divergence, prior, end, frame: see `log_likelihood`.
        batch_size: number of images in one batch; all by default.
        seeds: seeds of dequantization and probes, one for each image; a number s means
            s, s + 1, ...

    Warns:
        AccuracyWarning: if the integration's error exceeds the standard error, or an image has
            less than 0 bits/dim.
        NonFiniteWarning: if images failed.

    Raises:
        DtypeError, ConfigError, ShapeError: for images that do not fit the levels or the model.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size!r}")
    settings = LikelihoodSettings(t_min, method, divergence, prior, frame, end)
    rule = Uniform() if dequantize is None else dequantize
    asked = Evaluation.of(model, images, pixels, rule, settings)
    images = whole_numbers(images)
    own = per_sample(seeds, len(images))
    known = asked.systematic(model, images, own)
    size = batch_size or max(len(images), 1)
    done = []
    for first in range(0, max(len(images), 1), size):
        rows = torch.arange(first, min(first + size, len(images)), device=images.device)
        part = model if len(rows) == len(images) else model.rows(rows)
        done.append(asked.estimate(part, images[rows], own[first : first + len(rows)]))
    result = summarize(Estimates.join(done), asked.layout, images[0:1].numel(), **known)
    result.warn()
    return result


@dataclass(frozen=True, eq=False)
class LikelihoodSettings:
    """Arguments of `log_likelihood` that have the same names; `method` is never a name here."""

    t_min: float | None = None
    method: Method | Backend | str | None = None
    divergence: Divergence | None = None
    prior: Any = None
    frame: Frame | None = None
    end: EndLike = None

    def __post_init__(self) -> None:
        """Replace the name of a method by the method, and set the end that goes with a prior.

        Raises:
            ConfigError: for a method or a frame of the wrong kind.
        """
        if self.method is not None:
            object.__setattr__(self, "method", check_method(self.method))
        check_frame(self.frame)
        object.__setattr__(self, "end", settled(self.end, self.prior))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Settings of an evaluation of bits per dimension, the same for all batches of images.

    Attributes:
        layout: the pixel convention.
        rule: the dequantization.
        low: the knot of t_min.
        settings: arguments of `log_likelihood`.
    """

    layout: Pixels
    rule: Dequantization
    low: Knot
    settings: LikelihoodSettings

    @classmethod
    def of(
        cls,
        model: Predictor,
        images: Tensor,
        layout: Pixels,
        rule: Dequantization,
        settings: LikelihoodSettings,
    ) -> Evaluation:
        """Check the arguments and make the evaluation."""
        check_model(model)
        hint = 'pixels=Pixels(levels=256, convention="edges", value_range=(-1, 1))'
        check_kind(layout, Pixels, "pixels", hint)
        if not isinstance(images, Tensor):
            hint = "from_numpy" if hasattr(images, "__array__") else "tensor"
            raise DtypeError(
                f"images must be a tensor of integers, got {type(images).__name__}; write "
                f"torch.{hint}(images)"
            )
        if images.ndim < 2:
            raise ShapeError(f"images must have shape (B, *), got {tuple(images.shape)}")
        event = event_shape_of(model)
        if event is not None and images.shape[1:] != event:
            wanted = ", ".join(map(str, event))
            raise _misshapen(images, f"the model takes (B, {wanted})", event)
        layout.check(images)  # of every integer dtype
        if not isinstance(rule, Dequantization):
            hint = "write Uniform(), TruncatedNormal(), Reconstruction() or Variational(sample=...)"
            raise ConfigError(f"dequantize must be a Dequantization, got {rule!r}; {hint}")
        low, _ = likelihood_ends(model.sde, settings.t_min, end_of(model, settings.end))
        return cls(layout, rule, low, settings)

    def systematic(
        self, model: Predictor, images: Tensor, seeds: Sequence[int]
    ) -> dict[str, float]:
        """Systematic errors in nats, for `summarize`; more draws do not reduce them.

        They are estimated from a pilot of the first images. This is the first call of the network,
        so it raises a `ShapeError` if the network cannot use the images.
        """
        few, seeds = images[:_PILOT], seeds[:_PILOT]
        size = images[0:1].numel()
        how = self.settings
        gap = prior_gap(model, how.frame, how.prior, how.end, size)
        if len(few) == 0:
            return {"truncation": 0.0, "prior_gap": gap}
        index = torch.arange(len(few), device=images.device)
        part = model if len(few) == len(images) else model.rows(index)
        x, _ = self._draw(few, seeds, 0)
        own = derived(seeds, PROBES, 0).seeds
        given: dict[str, Any] = {"t_min": how.t_min, "divergence": how.divergence, "end": how.end}
        try:
            cost = truncation(part, x, seeds=own, **given)
        except ScoreSDEError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            if images.ndim > 3:
                raise
            reason = str(error).partition("\n")[0]
            raise _misshapen(images, f"the network fails on them ({reason})") from error
        mean = 0.0 if self.rule.state_at_t_min else float(cost.mean())
        end = end_gap(part, x, seeds=own, **given) if how.prior is None else math.nan
        return {"truncation": mean, "prior_gap": gap, "end_gap": end}

    def estimate(self, model: Predictor, images: Tensor, seeds: Sequence[int]) -> Estimates:
        """Estimates from all draws, for one batch of images."""
        runs, nats = [], []
        for k in range(self.rule.draws):
            x, gain = self._draw(images, seeds, k)
            with warnings.catch_warnings():  # both warnings are given once for all batches
                warnings.simplefilter("ignore", TimeRangeWarning)
                warnings.simplefilter("ignore", NonFiniteWarning)
                probes = derived(seeds, PROBES, k).seeds
                run = log_likelihood(model, x, seeds=probes, **vars(self.settings))
            runs.append(run)
            nats.append(run.nats.detach() + gain)
        failures: dict[int, str] = {}
        for run in runs:
            failures |= run.failures
        return Estimates(
            torch.stack(nats, 1),
            torch.stack([run.stderr for run in runs], 1),
            torch.stack([run.error for run in runs], 1),
            torch.stack([run.nfe for run in runs], 1).sum(1),
            failures,
        )

    def _draw(self, images: Tensor, seeds: Sequence[int], k: int) -> tuple[Tensor, Tensor]:
        stream = derived(seeds, PIXELS, k).open(images.shape, widest(images.device), images.device)
        return self.rule.draw(images, self.layout, self.low, stream)


def _misshapen(images: Tensor, why: str, event: Sequence[int] = ()) -> ShapeError:
    """A `ShapeError` for flat images, or images without channels or batch, with what to write."""
    shape, side = tuple(images.shape), math.isqrt(images.shape[-1])
    if not event and images.ndim == 2 and side**2 == shape[1] != shape[0]:
        event = (1, side, side)
    hint = {2: "images[None, None] for one image", 3: "images[:, None] for (B, H, W)"}.get(
        images.ndim, ""
    )
    if len(event) > 1 and images.ndim == 2 and math.prod(event) == shape[1]:
        hint = f"images.reshape(-1, {', '.join(map(str, event))})"
    return ShapeError(f"images have shape {shape}, but {why}" + (f"; write {hint}" if hint else ""))
