"""Bits per dimension of integer data, with what its error is made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._internal.checks import check_kind, check_model
from ..errors import ConfigError, DtypeError, ScoreSDEError, ShapeError
from ..model import Predictor, event_shape_of
from ..ode import Backend
from ..sampling.run import NonFiniteWarning
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

_PILOT = 16  # images that tell what the noise at t_min costs


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

    It is NLL / (D ln 2) - log2(width of a bin), with nothing added: `scoresde.likelihood.pixels`
    has the bin, `docs/bits_per_dim.md` what papers add.

    Args:
        model: what predicts.
        images: integers 0 .. levels-1, shape (B, *).
        pixels: how the model was shown integers; 256 levels in (-1, 1) by default.
        dequantize: `Uniform(draws=1)` by default.
        t_min, method, divergence, prior, end, frame: see `log_likelihood`.
        batch_size: images at a time; all by default.
        seeds: of pixels and probes, one an image; a number s stands for s, s + 1, ...

    Warns:
        AccuracyWarning: where the integration's error exceeds the standard error, or an image
            lies below 0 bits/dim.
        NonFiniteWarning: where images failed.

    Raises:
        DtypeError, ConfigError, ShapeError: for images that fit neither the stated levels nor the
            model.
    """
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size!r}")
    settings = LikelihoodSettings(t_min, method, divergence, prior, frame, end)
    rule = Uniform() if dequantize is None else dequantize
    asked = Evaluation.of(model, images, pixels, rule, settings)
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
    """How `log_likelihood` integrates: its arguments of the same names; a method is no name here,
    but the method itself.
    """

    t_min: float | None = None
    method: Method | Backend | str | None = None
    divergence: Divergence | None = None
    prior: Any = None
    frame: Frame | None = None
    end: EndLike = None

    def __post_init__(self) -> None:
        """The method of a name, and the end that goes with a prior.

        Raises:
            ConfigError: for a method or a frame that is none.
        """
        if self.method is not None:
            object.__setattr__(self, "method", check_method(self.method))
        check_frame(self.frame)
        object.__setattr__(self, "end", settled(self.end, self.prior))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What is asked of a batch of images, whichever they are.

    Attributes:
        layout: where the integers lie.
        rule: what draws states within the bins.
        low: the knot of t_min.
        settings: for `log_likelihood`.
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
        """The evaluation, or an error that says what to write if it cannot be."""
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
        layout.check(images)
        if not isinstance(rule, Dequantization):
            hint = "write Uniform(), TruncatedNormal(), Reconstruction() or Variational(sample=...)"
            raise ConfigError(f"dequantize must be a Dequantization, got {rule!r}; {hint}")
        low, _ = likelihood_ends(model.sde, settings.t_min, end_of(model, settings.end))
        return cls(layout, rule, low, settings)

    def systematic(
        self, model: Predictor, images: Tensor, seeds: Sequence[int]
    ) -> dict[str, float]:
        """What no number of draws averages out, in nats, for `summarize`; by a pilot.

        The pilot is the first that the network sees of the images, and tells if it cannot take
        them.
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
            raise _misshapen(images, f"the network does not take them ({reason})") from error
        mean = 0.0 if self.rule.state_at_t_min else float(cost.mean())
        end = end_gap(part, x, seeds=own, **given) if how.prior is None else math.nan
        return {"truncation": mean, "prior_gap": gap, "end_gap": end}

    def estimate(self, model: Predictor, images: Tensor, seeds: Sequence[int]) -> Estimates:
        """All draws for one batch of images."""
        runs, nats = [], []
        for k in range(self.rule.draws):
            x, gain = self._draw(images, seeds, k)
            with warnings.catch_warnings():  # both are told once, for all batches
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
        stream = derived(seeds, PIXELS, k).open(images.shape, torch.float64, images.device)
        return self.rule.draw(images, self.layout, self.low, stream)


def _misshapen(images: Tensor, why: str, event: Sequence[int] = ()) -> ShapeError:
    """The error, with what to write: pixels in a row, without channels, or without a batch."""
    shape, side = tuple(images.shape), math.isqrt(images.shape[-1])
    if not event and images.ndim == 2 and side**2 == shape[1] != shape[0]:
        event = (1, side, side)
    hint = {2: "images[None, None] for one image", 3: "images[:, None] for (B, H, W)"}.get(
        images.ndim, ""
    )
    if len(event) > 1 and images.ndim == 2 and math.prod(event) == shape[1]:
        hint = f"images.reshape(-1, {', '.join(map(str, event))})"
    return ShapeError(f"images have shape {shape}, but {why}" + (f"; write {hint}" if hint else ""))
