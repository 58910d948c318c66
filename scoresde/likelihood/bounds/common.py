"""Shared by the two bounds: their result, and the draws from which it is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..._internal.checks import check_model, check_tensor
from ..._internal.counted import mean_nfe
from ...errors import ShapeError
from ...model import Predictor
from ...scalar import affine, widest
from ...sde.knot import Knot
from ..pixels import Pixels
from ..prior import prior_log_prob
from ..streams import per_sample


@dataclass(frozen=True, eq=False)
class Bound:
    """An upper bound of the negative log-likelihood of each sample, with its standard error.

    Attributes:
        per_sample: the bound of each sample, shape (B,), float64.
        terms: the terms of the sum, each of shape (B,): "prior", "diffusion", and
            "reconstruction" (of integers) or "entropy" (of the noised data).
        variance: variance of `per_sample` from random times and noise, shape (B,); NaN for a
            single draw.
        unit: "nats" per sample, or "bits/dim" of integers.
        nfe: network evaluations of each sample, shape (B,), int64, on the CPU, without those of the
            pilot.
        per_step: L_0, ..., L_T of the discrete bound, means over samples, shape (T + 1,).
    """

    per_sample: Tensor
    terms: dict[str, Tensor]
    variance: Tensor
    unit: str
    nfe: Tensor
    per_step: Tensor | None = None

    @property
    def mean_nfe(self) -> float:
        """Mean of `nfe` over the samples."""
        return mean_nfe(self.nfe)

    @property
    def mean(self) -> float:
        """Mean of the bound over the samples."""
        return float(self.per_sample.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean, from the spread between samples; NaN for a single one."""
        count = len(self.per_sample)
        return float(self.per_sample.std()) / math.sqrt(count) if count > 1 else math.nan

    @property
    def stderr_of_this_set(self) -> float:
        """Standard error of the mean of this fixed set of samples, from times and noise only."""
        return math.sqrt(float(self.variance.sum())) / max(len(self.variance), 1)

    def __str__(self) -> str:
        return (
            f"<= {self.mean:.3f} +- {self.stderr:.3f} {self.unit} ({self.mean_nfe:.0f} network "
            "evaluations a sample)"
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class Draw:
    """One draw of all terms for a batch, in nats, each of shape (B,)."""

    def __init__(
        self,
        model: Predictor,
        x: Tensor,
        x0: Tensor,
        pixels: Pixels | None,
        low: Knot,
        high: Knot,
        prior: Any,
        seeds: Any,
    ) -> None:
        self.model, self.x, self.x0, self.pixels = model, x, x0, pixels
        self.noise = seeds.open(x0.shape, x0.dtype, x0.device)
        self.size = x0[0:1].numel()
        self.low = low
        self.terms = {"prior": self._prior(prior, high)}

    def _prior(self, prior: Any, high: Knot) -> Tensor:
        """KL(q(x_T | x0) || prior)."""
        if prior is None:
            return 0.5 * math.exp(2 * float(high.lam)) * self.x0.flatten(1).square().sum(1)
        end = affine(high.alpha, self.x0, high.sigma, self.noise.normal())
        return -prior_log_prob(prior, self.model.sde, high, end) - self._entropy(high)

    def _entropy(self, knot: Knot) -> float:
        """Entropy of N(alpha x0, sigma^2 I), in nats."""
        return self.size * (0.5 * math.log(2 * math.pi * math.e) + float(knot.log_sigma))


def clean(model: Predictor, x: Tensor, pixels: Pixels | None) -> Tensor:
    """Clean data in float64: x itself, or the middle of the bins of integers."""
    check_model(model)
    if pixels is None:
        check_tensor(x, "x")
        x0 = x.to(widest(x.device))
    else:
        pixels.check(x)
        x0 = pixels.lower_edge(x) + 0.5 * pixels.width
    if x.ndim < 2 or len(x) == 0:
        raise ShapeError(f"x must have shape (B, *event) with B > 0, got {tuple(x.shape)}")
    return x0


def batches(
    x: Tensor, size: int | None, seeds: int | Sequence[int]
) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    """Batches of at most `size` rows, with their seeds."""
    own = per_sample(seeds, len(x))
    for rows in torch.split(torch.arange(len(x), device=x.device), size or len(x)):
        first = int(rows[0])
        yield rows, own[first : first + len(rows)]


def unit(x: Tensor, pixels: Pixels | None) -> float:
    """Factor from nats to the result's unit: 1 for nats, 1 / (D ln 2) for bits/dim."""
    return 1.0 if pixels is None else 1.0 / (x[0].numel() * math.log(2))


def total(
    parts: list[list[dict[str, Tensor]]], x: Tensor, pixels: Pixels | None, nfe: int
) -> Bound:
    """The bound, from the terms in nats of each draw of each batch."""
    per = unit(x, pixels)
    terms = {
        name: per * torch.cat([torch.stack([draw[name] for draw in part], 1) for part in parts])
        for name in parts[0][0]
    }
    values = torch.stack(list(terms.values())).sum(0)
    draws = values.shape[1]
    nothing = torch.full_like(values[:, 0], math.nan)
    return Bound(
        per_sample=values.mean(1),
        terms={name: value.mean(1) for name, value in terms.items()},
        variance=values.var(1) / draws if draws > 1 else nothing,
        unit="nats" if pixels is None else "bits/dim",
        nfe=torch.full((len(x),), nfe, dtype=torch.long),
    )
