"""The variational bound of DDPM, with finitely many Gaussian steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..._internal.integers import whole_numbers
from ...errors import ConfigError, unknown_name
from ...grid import Grid
from ...model import Predictor
from ...prediction import Prediction
from ...scalar import affine
from ...sde import SDE, DiscreteVPSDE
from ...sde.knot import Knot
from ...wrapper import begin
from ..pixels import Pixels
from ..streams import NOISE, derived
from .common import Bound, Draw, batches, clean, total, unit

_VARIANCES = ("posterior", "forward", "learned")


def ddpm_bound(
    model: Predictor,
    x: Tensor,
    *,
    pixels: Pixels | None = None,
    grid: Grid | None = None,
    variance: str = "posterior",
    draws: int = 1,
    prior: Any = None,
    batch_size: int | None = None,
    seeds: int | Sequence[int] = 0,
) -> Bound:
    """Upper bound of the negative log-likelihood with finitely many Gaussian steps.

    It is the sum L_0 + ... + L_T of Ho et al., 2020.

    The mean of every step is that of q(x_s | x_t, x0) at the network's x0. The decoder's variance
    is that of the second step, as in DDPM. The two outer bins of integers are extended to infinity
    (Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, section 2.1).

    Args:
        model: the model.
        x: integers, shape (B, *), if `pixels` is given; the result bounds -log P(x), in bits/dim.
            Else clean data in floating point; the result bounds -log p(x), in nats.
        pixels: the pixel convention of integers, such as `Pixels(256, "centres")`, that of DDPM.
        grid: the steps; a last step to the clean end is added. By default all indices of a
            `DiscreteVPSDE`.
        variance: variance of a step: "posterior", that of q(x_s | x_t, x0), "forward", that of
            q(x_t | x_s) (DDPM's "fixedsmall" and "fixedlarge"), or "learned", between the two.
        draws: draws of the noise of all steps; two or more give a standard error for each sample.
        prior, batch_size, seeds: see `variational_bound`.
    """
    if variance not in _VARIANCES:
        raise unknown_name("variance of a step", variance, _VARIANCES)
    if draws < 1:
        raise ConfigError(f"draws must be 1 or more, got {draws!r}")
    knots = _knots(model.sde, grid)
    x0, x = clean(model, x, pixels), whole_numbers(x)
    with torch.no_grad():
        model = begin(model)
    parts, steps = [], torch.zeros(len(knots) + 1, dtype=torch.float64)
    for rows, own in batches(x, batch_size, seeds):
        part = model.rows(rows)
        found = [
            _Stepped(
                part, x[rows], x0[rows], pixels, knots[0], knots[-1], prior, derived(own, NOISE, k)
            )
            for k in range(draws)
        ]
        for draw in found:
            steps += draw.step_through(knots, variance).cpu() / draws
        parts.append([draw.terms for draw in found])
    bound = total(parts, x, pixels, len(knots) * draws)
    return replace(bound, per_step=steps * unit(x, pixels) / max(len(x), 1))


class _Stepped(Draw):
    """One draw of all terms, step by step."""

    def step_through(self, knots: Sequence[Knot], variance: str) -> Tensor:
        """Add the terms of all steps; returns L_0, ..., L_T, summed over the batch."""
        steps = []
        for s, t in pairwise(knots):
            prediction, eps = self._predict(t)
            # |x0 - x0_net|^2 (SNR_s - SNR_t) / 2, through the error of eps.
            gain = 0.5 * math.expm1(2 * (float(s.lam) - float(t.lam)))
            loss = gain * (eps - prediction.eps).square()
            if variance != "posterior":  # log of the posterior's variance over the step's own
                log_r = 2 * (float(s.log_sigma) - float(t.log_sigma)) * _share(prediction, variance)
                loss = log_r.exp() * loss + 0.5 * (log_r.expm1() - log_r)
            steps.append(loss.flatten(1).sum(1))
        first, second = knots[:2]
        prediction, _ = self._predict(first)
        # The posterior's standard deviation in the second step: in the first it is 0.
        log_std = torch.full_like(self.x0, math.log(float(SDE.transition(first, second)[1])))
        log_std += float(first.log_sigma) - float(second.log_sigma)
        if variance == "learned":
            log_std += _share(prediction, variance) * (float(first.log_sigma) - log_std)
        self.terms["diffusion"] = torch.stack(steps).sum(0)
        self.terms["reconstruction"] = -self._decoded(prediction.x0, log_std)
        every = [self.terms["reconstruction"], *steps, self.terms["prior"]]
        return torch.stack([term.sum() for term in every])

    def _predict(self, knot: Knot) -> tuple[Prediction, Tensor]:
        """The network's prediction at a noised state, and the noise."""
        eps = self.noise.normal()
        with torch.no_grad():
            return self.model(affine(knot.alpha, self.x0, knot.sigma, eps), knot), eps

    def _decoded(self, mean: Tensor, log_std: Tensor) -> Tensor:
        """Log of the density N(x0; mean, std^2), or of its mass in the bins of the integers."""
        inverse = (-log_std).exp()
        if self.pixels is None:
            square = (inverse * (self.x0 - mean)).square()
            each = -0.5 * square - log_std - 0.5 * math.log(2 * math.pi)
            return each.flatten(1).sum(1)
        edge = self.pixels.lower_edge(self.x)
        below = torch.where(self.x == 0, -math.inf, inverse * (edge - mean))
        last = self.x == self.pixels.levels - 1
        above = torch.where(last, math.inf, inverse * (edge + self.pixels.width - mean))
        # log(Phi(above) - Phi(below)), in the lower tail to avoid cancellation.
        flip = below + above > 0
        low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
        log_high: Tensor = torch.special.log_ndtr(high)
        mass: Tensor = log_high + torch.log1p(-(torch.special.log_ndtr(low) - log_high).exp())
        return mass.flatten(1).sum(1)


def _share(prediction: Prediction, variance: str) -> Tensor:
    """Log-variance of a step, as a number from 0 (the posterior's) to 1 (the forward's)."""
    if variance == "forward":
        return torch.ones_like(prediction.x)
    if prediction.share is None:
        raise ConfigError(
            "this model does not predict a variance; write ScoreModel(..., "
            "output=LearnedRange()) for a network with twice the channels, or variance='posterior'"
        )
    return prediction.share.to(prediction.x)


def _knots(sde: SDE, grid: Grid | None) -> list[Knot]:
    """Knots of a discrete bound, from the smallest noise above 0 to the largest."""
    if grid is not None:
        knots = [knot for knot in reversed(grid.knots) if not knot.is_clean]
    elif isinstance(sde, DiscreteVPSDE):
        knots = [sde.at(float(k)) for k in range(round(sde.t_max) + 1)]
    else:
        raise ConfigError(
            f"{type(sde).__name__} has no steps of its own; write grid=uniform_lambda(sde, n), or "
            "use variational_bound"
        )
    if len(knots) < 2 or knots[-1].is_zero_snr:
        raise ConfigError("a discrete bound needs two knots or more, with alpha > 0 at all")
    return knots
