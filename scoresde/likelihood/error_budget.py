"""Bits per dimension with their error budget, from estimates of log-probabilities."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._internal.counted import mean_nfe
from ..errors import ScoreSDEWarning
from ..sampling.run import NonFiniteWarning
from .pixels import Pixels

_CHANCE = ("images", "trace", "draws")


class AccuracyWarning(ScoreSDEWarning):
    """A likelihood is less accurate than its standard error suggests."""


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Negative log-probability of integer data, in bits per dimension.

    `parts` are the parts of its error, in bits/dim, for the mean. The first three are standard
    errors; the sum of their squares is the square of `stderr`. The others estimate systematic
    errors, 0 at best. A part is NaN if it is unknown.

    | part | meaning | known with |
    | --- | --- | --- |
    | "images" | standard error from the spread between images | two images |
    | "trace" | standard error from the probes | two probes, or the exact divergence (0) |
    | "draws" | standard error from the draws of the dequantization; with one draw, "images" \
includes it | two draws |
    | "ode" | mean of the integration's error estimates | a method that estimates its error |
    | "dequantization" | gap between the bound and -log2 P, to second order: half the variance \
between draws, an overestimate | two draws and two probes, or the exact divergence |
    | "prior" | cost of the library's prior relative to the Gaussian with the data's moments | a \
frame of the data |
    | "end" | cost of that Gaussian at a trusted end, from half its noise level on | a noise range |
    | "truncation" | effect of the noise at t_min, to first order in its variance | always |

    "end" is measured on the first 16 images at half the noise level of the end, where the data are
    less Gaussian, and holds what the network errs between the two. What it errs below half the
    level is in no part.

    Attributes:
        mean: mean over the images; NaN if any image failed.
        stderr: standard error of `mean` as an estimate for the population of images. It comes from
            the spread between images, which includes the estimator's own noise.
        per_image: bits/dim of each image, shape (B,), float64.
        parts: see above.
        nfe: network evaluations of each image, all draws together, shape (B,), int64, on the
            CPU. It does not count the pilots for "truncation" and "end", 1 and 9 evaluations for
            each of the first 16 images.
        pixels: the convention.
        importance_weighted: another, tighter bound for each image, shape (B,): the log of the
            mean over draws of p/q (Burda et al., "Importance Weighted Autoencoders", 2016), if the
            divergence is exact and there are two draws or more. It is not comparable with published
            bits/dim, which average in log space.
        failures: reason of each failure, by index in the batch.
    """

    mean: float
    stderr: float
    per_image: Tensor
    parts: dict[str, float]
    nfe: Tensor
    pixels: Pixels
    importance_weighted: Tensor | None = None
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def standard_errors(self) -> dict[str, float]:
        """The random parts, which more images, probes or draws reduce."""
        return {name: value for name, value in self.parts.items() if name in _CHANCE}

    @property
    def systematic(self) -> dict[str, float]:
        """The systematic parts, which more images, probes or draws do not reduce."""
        return {name: value for name, value in self.parts.items() if name not in _CHANCE}

    @property
    def stderr_of_this_set(self) -> float:
        """Standard error of the mean of this fixed set of images.

        It comes from probes and draws only, since the spread between the images is not an error
        here. It is NaN if one of the two parts is unknown.
        """
        return math.hypot(self.parts["trace"], self.parts["draws"])

    @property
    def mean_nfe(self) -> float:
        """Mean of `nfe` over the images."""
        return mean_nfe(self.nfe)

    def __str__(self) -> str:
        if self.failures:
            place, reason = next(iter(sorted(self.failures.items())))
            return (
                f"{len(self.failures)} of {len(self.per_image)} images failed; image {place}: "
                f"{reason}"
            )
        digits, spread, ode = 3, "", ""
        if self.stderr > 0:
            digits = max(3, math.ceil(-math.log10(self.stderr)))
            spread = f" +- {self.stderr:.{digits}f}"
        error = self.parts["ode"]
        if error > 0.1 * self.stderr or (error > 0 and not self.stderr > 0):
            ode = f", ODE error {error:.1g}"
        cost = f"{self.mean_nfe:.0f} network evaluations a sample"
        return f"{self.mean:.{digits}f}{spread} bits/dim{ode} ({cost})"

    def __repr__(self) -> str:
        return f"BitsPerDim({self})"

    @property
    def doubts(self) -> list[str]:
        """Reasons why the result is less accurate than it looks, one sentence each."""
        error, below = self.parts["ode"], int((self.per_image < 0).sum())
        found = []
        if error > self.stderr:
            found.append(
                f"the integration's error, about {error:.1g} bits/dim, exceeds the standard error "
                f"of {self.stderr:.1g}"
            )
        if below:
            found.append(
                f"{below} of {len(self.per_image)} images have less than 0 bits/dim, which is "
                "impossible for a probability (but not for a density without dequantization, nor "
                f"for a single noisy draw): check that the model was trained with {self.pixels}"
            )
        return found

    def warn(self) -> None:
        """Warn of failures, or of a result that is less accurate than it looks."""
        if self.failures:
            warnings.warn(str(self), NonFiniteWarning, stacklevel=3)
            return
        advice = (
            "write method=FixedGrid(...) with more nodes, or PerSample(tol=...) with a smaller tol"
        )
        for doubt in self.doubts:
            warnings.warn(f"{doubt}; {advice}", AccuracyWarning, stacklevel=3)


@dataclass(eq=False)
class Estimates:
    """Estimates of log-probabilities from all draws, in nats, without the volume of the bins.

    Attributes:
        nats: log p - log q - D log(width), shape (B, draws).
        stderr, error: errors of each estimate, shape (B, draws), see `LogLikelihood`.
        nfe: evaluations of all draws, shape (B,).
        failures: reason of each failure, by index.
    """

    nats: Tensor
    stderr: Tensor
    error: Tensor
    nfe: Tensor
    failures: dict[int, str]

    @staticmethod
    def join(parts: Sequence[Estimates]) -> Estimates:
        """Concatenate the estimates of several batches, on the CPU."""
        failures: dict[int, str] = {}
        first = 0
        for part in parts:
            failures |= {first + place: reason for place, reason in part.failures.items()}
            first += len(part.nats)
        return Estimates(
            torch.cat([p.nats.cpu() for p in parts]),
            torch.cat([p.stderr.cpu() for p in parts]),
            torch.cat([p.error.cpu() for p in parts]),
            torch.cat([p.nfe.cpu() for p in parts]),
            failures,
        )


def summarize(
    found: Estimates,
    layout: Pixels,
    size: int,
    *,
    truncation: float = 0.0,
    prior_gap: float = math.nan,
    end_gap: float = math.nan,
) -> BitsPerDim:
    """Bits per dimension, its error and parts.

    Args:
        found: estimates in nats.
        layout: the pixel convention.
        size: number of dimensions of an image.
        truncation: effect of the noise at t_min, in nats.
        prior_gap: cost of the prior relative to the moment-matched one, in nats.
        end_gap: cost of the Gaussian at a trusted end, in nats.
    """
    count, draws = found.nats.shape
    size = max(size, 1)
    unit = 1.0 / (size * math.log(2))
    per_image = layout.bits_per_dim(found.nats.mean(1), size)
    total = float(per_image.std()) / math.sqrt(count) if count > 1 else math.nan
    # Variances of a draw: from its probes, and between draws, which includes that of the probes.
    trace = found.stderr.square().mean(1)
    between = found.nats.var(1) if draws > 1 else torch.full_like(trace, math.nan)
    own = {
        "trace": unit * _root_sum(trace / draws),
        "draws": unit * _root_sum((between - trace.nan_to_num()) / draws),
    }
    known = sum(value**2 for value in own.values() if not math.isnan(value))
    weighted = None
    if draws > 1 and bool((found.stderr == 0).all()):
        mean = torch.logsumexp(found.nats, 1) - math.log(draws)
        weighted = layout.bits_per_dim(mean, size)
    return BitsPerDim(
        mean=float(per_image.mean()),
        stderr=total,
        per_image=per_image,
        parts={
            "images": math.sqrt(max(total**2 - known, 0.0)) if total == total else math.nan,
            **own,
            "ode": unit * float(found.error.mean()),
            "dequantization": _at_least_zero(0.5 * unit * float((between - trace).mean())),
            "prior": unit * prior_gap,
            "end": unit * end_gap,
            "truncation": unit * truncation,
        },
        nfe=found.nfe,
        pixels=layout,
        importance_weighted=weighted,
        failures=found.failures,
    )


def _at_least_zero(value: float) -> float:
    return value if math.isnan(value) else max(value, 0.0)


def _root_sum(variances: Tensor) -> float:
    """Standard error of the mean from those of its terms."""
    # Single estimates of variances can be negative; only their sum is clamped.
    return math.sqrt(max(float(variances.sum()), 0.0)) / max(len(variances), 1)
