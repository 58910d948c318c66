"""What estimates of log-probabilities add up to: bits per dimension with their error budget."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._internal.counted import mean_nfe
from ..sampling.run import NonFiniteWarning
from .pixels import Pixels

_CHANCE = ("images", "trace", "draws")


class AccuracyWarning(UserWarning):
    """A likelihood that is less accurate than its standard error makes it look."""


@dataclass(frozen=True, eq=False)
class BitsPerDim:
    """Negative log-probability of integer data, in bits per dimension.

    `parts`, all in bits/dim and for the mean. The first three are standard errors, which add up
    in squares to `stderr`; the others are what the number may be off by, 0 at best. A part is NaN
    where nothing is known of it.

    | part | what | known with |
    | --- | --- | --- |
    | "images" | standard error from the spread between images | two images |
    | "trace" | standard error from the probes | two probes, or the exact divergence (0) |
    | "draws" | standard error from the dequantization's draws; else within "images" | two draws |
    | "ode" | mean of the integration's error estimates | a method that estimates its error |
    | "dequantization" | gap of the bound from -log2 P: half the variance between draws, its \
second-order term, and too large rather than too small | two draws and two probes, or the exact \
divergence |
    | "prior" | what the library's prior costs against the Gaussian with the data's moments | a \
frame of the data |
    | "end" | what that Gaussian costs at a trusted end, from half its noise level on | a noise \
range |
    | "truncation" | what the noise at t_min costs, to first order in its variance | always |

    "end" is measured on the first 16 images at half the noise level of the end, where the data are
    less Gaussian, and holds what the network errs between the two. What it errs below half the
    level is in no part.

    Attributes:
        mean: over the images; NaN if any of them failed.
        stderr: standard error of `mean` as an estimate for the population of images: their
            spread, which holds the estimator's own noise too.
        per_image: shape (B,), float64.
        parts: see above.
        nfe: network evaluations of each image, all draws together, shape (B,), int64, on the
            CPU. The pilots for "truncation" and "end", 1 and 9 evaluations for each of the first 16
            images, are not in it.
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
    nfe: Tensor
    pixels: Pixels
    importance_weighted: Tensor | None = None
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def standard_errors(self) -> dict[str, float]:
        """The parts that more images, probes or draws make smaller."""
        return {name: value for name, value in self.parts.items() if name in _CHANCE}

    @property
    def systematic(self) -> dict[str, float]:
        """The parts that they do not."""
        return {name: value for name, value in self.parts.items() if name not in _CHANCE}

    @property
    def stderr_of_this_set(self) -> float:
        """Standard error of the mean for this fixed set of images, whose spread is no error: from
        the probes and the draws alone, NaN where one of the two is not known.
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
        """Why the number cannot be as accurate as it looks, a sentence each."""
        error, below = self.parts["ode"], int((self.per_image < 0).sum())
        found = []
        if error > self.stderr:
            found.append(
                f"the integration's error, about {error:.1g} bits/dim, exceeds the standard error "
                f"of {self.stderr:.1g}"
            )
        if below:
            found.append(
                f"{below} of {len(self.per_image)} images lie below 0 bits/dim, which a "
                "probability cannot (a density without dequantization can, and a single noisy "
                f"draw): check that the model was trained with {self.pixels}"
            )
        return found

    def warn(self) -> None:
        """Tell of failures, and of a number that cannot be as accurate as it looks."""
        if self.failures:
            warnings.warn(str(self), NonFiniteWarning, stacklevel=3)
            return
        advice = "write method=FixedGrid(...) with more nodes, or PerSample(tol=...) with less tol"
        for doubt in self.doubts:
            warnings.warn(f"{doubt}; {advice}", AccuracyWarning, stacklevel=3)


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
        """Those of several batches, one after another, on the CPU."""
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
        found: estimates in nats, of images of `size` numbers each.
        layout: where the integers lie.
        truncation: what the noise at t_min costs, in nats.
        prior_gap: what the prior costs against the moment-matched one, in nats.
        end_gap: what the Gaussian at a trusted end may cost beyond that, in nats.
    """
    count, draws = found.nats.shape
    size = max(size, 1)
    unit = 1.0 / (size * math.log(2))
    per_image = layout.bits_per_dim(found.nats.mean(1), size)
    total = float(per_image.std()) / math.sqrt(count) if count > 1 else math.nan
    # Variances of a draw: of its probes, and between draws, which has the probes' in it.
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
    # Estimated variances may fall below 0: each on its own is noise, only their sum is not.
    return math.sqrt(max(float(variances.sum()), 0.0)) / max(len(variances), 1)
