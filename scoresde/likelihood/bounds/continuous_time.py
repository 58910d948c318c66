"""The variational bound with infinitely many steps: an integral over noise levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..._internal.integers import whole_numbers
from ...errors import ConfigError
from ...model import Predictor
from ...noise import NoiseStream
from ...scalar import Scalar
from ...sde import SDE
from ...sde.knot import Knot
from ...training.losses import Likelihood, TimeDraw, loss_per_noise_level, weighted_error
from ...wrapper import begin
from ..dequantization import read_back
from ..log_density import likelihood_ends
from ..pixels import Pixels
from ..streams import NOISE, TIMES, derived
from .common import Bound, Draw, batches, clean, total

_PILOT = 16  # samples on which the size of the integrand is measured
_FLOOR = 0.05  # share of the draws that is always uniform in lam


@dataclass(frozen=True)
class Measured(TimeDraw):
    """Times whose half log-SNR is drawn from a histogram.

    Attributes:
        edges: edges of the bins, ascending.
        shares: share of the draws in each bin; their sum is 1.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """See `TimeDraw`."""
        edges, shares = (u.new_tensor(v) for v in (self.edges, self.shares))
        ends = torch.cat([shares.new_zeros(1), shares.cumsum(0)])
        k = torch.bucketize(u, ends[1:-1], right=True)
        lam = edges[k] + (u - ends[k]) / shares[k] * (edges[k + 1] - edges[k])
        return torch.as_tensor(sde.t_at_lambda(lam)).clamp(sde.t_min, sde.t_max)

    def density(self, sde: SDE, knot: Knot) -> Scalar:
        """See `TimeDraw`."""
        lam = torch.as_tensor(knot.lam, dtype=torch.float64)
        edges, shares = (lam.new_tensor(v) for v in (self.edges, self.shares))
        heights = shares / edges.diff()
        return heights[torch.bucketize(lam, edges[1:-1], right=True)]


def measured_times(
    model: Predictor, x0: Tensor, *, t_min: float | None = None, bins: int = 32, seed: int = 0
) -> Measured:
    """Distribution of times that gives the variational bound the smallest variance.

    Its density is proportional to the root mean square of the integrand over samples, measured at
    the edges of `bins` equal bins of lam. The cost is `bins + 1` evaluations for each sample; a few
    samples, such as 16, are enough.

    Args:
        model: the model.
        x0: clean data, shape (N, *).
        t_min: as in `variational_bound`.
        bins: number of bins of the histogram.
        seed: seed of the noise.
    """
    low, high = likelihood_ends(model.sde, t_min)
    edges = torch.linspace(float(high.lam), float(low.lam), bins + 1, dtype=torch.float64)
    index = torch.arange(max(len(x0), 8), device=x0.device) % max(len(x0), 1)
    found = loss_per_noise_level(model.rows(index), x0[index], edges, seed=seed)
    root = (found.loss.square() + len(index) * found.stderr.square()).sqrt()
    height = 0.5 * (root[1:] + root[:-1])
    shares = (1 - _FLOOR) * height / height.sum() + _FLOOR / bins
    return Measured(tuple(edges.tolist()), tuple((shares / shares.sum()).tolist()))


def variational_bound(
    model: Predictor,
    x: Tensor,
    *,
    pixels: Pixels | None = None,
    t_min: float | None = None,
    times: TimeDraw | None = None,
    evaluations: int = 32,
    draws: int = 2,
    prior: Any = None,
    batch_size: int | None = None,
    seeds: int | Sequence[int] = 0,
) -> Bound:
    """Upper bound of the negative log-likelihood, with infinitely many steps.

    For integers it bounds -log P(x), in bits/dim. For other data it bounds
    E[-log p(alpha x + sigma eps)] at t_min, in nats.

    Args:
        model: the model, with any process that has alpha > 0 at t_max.
        x: integers, shape (B, *), if `pixels` is given; else clean data in floating point.
        pixels: the pixel convention of integers, such as `Pixels()`.
        t_min: the time at which the reconstruction or entropy term is computed; the process's own
            by default.
        times: distribution of times; `measured_times` of the first 16 samples by default, or any
            of `scoresde.training.losses`, such as `UniformLambda()`.
        evaluations: number of times in one draw, stratified.
        draws: independent draws of all times; two or more give a standard error for each sample.
        prior: see `log_likelihood`.
        batch_size: number of samples in one batch; all by default.
        seeds: seeds of times and noise, one for each sample; a number s means s, s + 1, ...
    """
    if evaluations < 1 or draws < 1:
        raise ConfigError(
            f"evaluations and draws must be 1 or more, got {evaluations!r} and {draws!r}"
        )
    low, high = likelihood_ends(model.sde, t_min)
    sde = replace(model.sde, t_min=float(low.t))
    x0, x = clean(model, x, pixels), whole_numbers(x)
    with torch.no_grad():
        model = begin(model)
    if times is None:
        few = torch.arange(min(_PILOT, len(x)), device=x.device)
        times = measured_times(model.rows(few), x0[few], t_min=t_min)
    parts = []
    for rows, own in batches(x, batch_size, seeds):
        part = model.rows(rows), x[rows], x0[rows], pixels, low, high, prior
        found = [_Integrated(*part, derived(own, NOISE, k)) for k in range(draws)]
        for k, draw in enumerate(found):
            clock = derived(own, TIMES, k).open((len(rows), 1), torch.float64, x.device)
            draw.integrate(sde, times, evaluations, clock)
        parts.append([draw.terms for draw in found])
    return total(parts, x, pixels, evaluations * draws)


class _Integrated(Draw):
    """One draw of all terms, with random times."""

    def integrate(self, sde: SDE, times: TimeDraw, count: int, clock: NoiseStream) -> None:
        """Add the diffusion term, and the reconstruction or entropy term."""
        total = torch.zeros_like(self.terms["prior"])
        for k in range(count):
            u = (k + torch.special.ndtr(clock.normal())[:, 0]) / count
            knot = sde.at(times.quantile(sde, u), like=self.x0)
            density = times.density(sde, knot)
            with torch.no_grad():
                total += weighted_error(
                    self.model, self.x0, self.noise.normal(), knot, Likelihood(), density
                )
        self.terms["diffusion"] = self.size * total / count
        if self.pixels is None:
            self.terms["entropy"] = torch.full_like(total, self._entropy(self.low))
        else:
            read = read_back(self.x, self.pixels, self.low, self.noise.normal())
            self.terms["reconstruction"] = -read
