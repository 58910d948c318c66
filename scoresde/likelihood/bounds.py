r"""Variational bounds of the likelihood, by Monte Carlo.

With q the noising of x0 and p the model's generation, backwards in time from a prior,

    E_q[-log p(x_s)] <= H(q(x_s | x0)) + KL(q(x_T | x0) || prior) + sum or integral of KLs between

and for integers k the reconstruction -log P(k | x_s) takes the place of the entropy. The times are
cut into T steps in `ddpm_bound` (Ho et al., "Denoising Diffusion Probabilistic Models", 2020, eq.
5: L_0, ..., L_T), or infinitely many in `variational_bound`, where with lam = log(alpha/sigma) what
is between becomes

    integral of E |eps - eps_net|^2 dlam

(Kingma et al., "Variational Diffusion Models", 2021, eq. 17 and appendix K; Song et al., "Maximum
Likelihood Training of Score-Based Diffusion Models", 2021, theorem 1). Both bound the likelihood of
the model's SDE; `log_likelihood` is the density of its ODE. For a network that is the exact score
of some density the two densities agree, and the continuous bound is met.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ..door import check_model, check_tensor
from ..errors import ConfigError, ShapeError, unknown_name
from ..grid import Grid
from ..losses import Likelihood, TimeDraw, loss_per_noise_level, weighted_error
from ..model import Predictor
from ..scalar import Scalar, affine
from ..sde import SDE, DiscreteVPSDE
from ..sde.knot import Knot
from .dequantization import read_back
from .log_likelihood import likelihood_ends
from .pixels import Pixels
from .prior import prior_log_prob
from .seeds import NOISE, TIMES, derived, per_sample

_PILOT = 16  # samples that tell where the integrand is large
_FLOOR = 0.05  # share of the draws that stays even in lam


@dataclass(frozen=True, eq=False)
class Bound:
    """An upper bound of the negative log-likelihood of each sample, with its standard error.

    Attributes:
        per_sample: shape (B,), float64.
        terms: what it is the sum of, each of shape (B,): "prior", "diffusion", and
            "reconstruction" (of integers) or "entropy" (of the noised data).
        variance: of `per_sample` from times and noise, shape (B,); NaN for a single draw.
        unit: "nats" of a sample, or "bits/dim" of integers.
        nfe: network evaluations per sample; those of the pilot are not in it.
        per_step: L_0, ..., L_T of the discrete bound, means over samples, shape (T + 1,).
    """

    per_sample: Tensor
    terms: dict[str, Tensor]
    variance: Tensor
    unit: str
    nfe: int
    per_step: Tensor | None = None

    @property
    def mean(self) -> float:
        """Over the samples."""
        return float(self.per_sample.mean())

    @property
    def stderr(self) -> float:
        """Standard error of the mean, from the spread between samples (two or more)."""
        count = len(self.per_sample)
        return float(self.per_sample.std()) / math.sqrt(count) if count > 1 else math.nan

    @property
    def stderr_of_this_set(self) -> float:
        """Standard error of the mean for these samples, from times and noise alone."""
        return math.sqrt(float(self.variance.sum())) / max(len(self.variance), 1)

    def __str__(self) -> str:
        return (
            f"<= {self.mean:.3f} +- {self.stderr:.3f} {self.unit} ({self.nfe} network "
            "evaluations a sample)"
        )


@dataclass(frozen=True)
class Measured(TimeDraw):
    """Half log-SNRs drawn from a histogram.

    Attributes:
        edges: of its bins, ascending.
        shares: of the draws in each, adding up to 1.
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
    """Times drawn where the bound's integrand is large: its root mean square over samples, which
    gives the least variance, measured on the edges of `bins` even bins of lam.

    It costs `bins + 1` evaluations for each sample given; a few, such as 16, are enough.

    Args:
        model: what predicts.
        x0: clean data, shape (N, *).
        t_min: as in `variational_bound`.
        bins: of the histogram.
        seed: of the noise.
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
    """The bound with infinitely many steps, of -log P(x) for integers in bits/dim, or of
    E[-log p(alpha x + sigma eps)] at t_min in nats.

    Args:
        model: what predicts, under any process with alpha > 0 at t_max.
        x: integers, shape (B, *), where `pixels` says how they are laid out; else clean data in
            floating point.
        pixels: such as `Pixels()`.
        t_min: where reconstruction takes over; the process's own by default.
        times: how times are drawn; `measured_times` of the first 16 samples by default, or any
            of `scoresde.losses`, such as `UniformLambda()`.
        evaluations: times of a draw, stratified.
        draws: independent draws of all times; two or more give a standard error for each sample.
        prior: see `log_likelihood`.
        batch_size: samples at a time; all by default.
        seeds: of times and noise, one a sample; a number s stands for s, s + 1, ...
    """
    if evaluations < 1 or draws < 1:
        raise ConfigError(
            f"need evaluations and draws of 1 or more, got {evaluations!r}, {draws!r}"
        )
    low, high = likelihood_ends(model.sde, t_min)
    sde = replace(model.sde, t_min=float(low.t))
    x0 = _clean(model, x, pixels)
    if times is None:
        few = torch.arange(min(_PILOT, len(x)), device=x.device)
        times = measured_times(model.rows(few), x0[few], t_min=t_min)
    parts = []
    for rows, own in _batches(x, batch_size, seeds):
        part = model.rows(rows), x[rows], x0[rows], pixels, low, high, prior
        found = [_Draw(*part, derived(own, NOISE, k)) for k in range(draws)]
        for k, draw in enumerate(found):
            clock = derived(own, TIMES, k).open((len(rows), 1), torch.float64, x.device)
            draw.integrate(sde, times, evaluations, clock)
        parts.append([draw.terms for draw in found])
    return _bound(parts, x, pixels, evaluations * draws)


def ddpm_bound(
    model: Predictor,
    x: Tensor,
    *,
    pixels: Pixels | None = None,
    grid: Grid | None = None,
    variance: str = "small",
    draws: int = 1,
    prior: Any = None,
    batch_size: int | None = None,
    seeds: int | Sequence[int] = 0,
) -> Bound:
    """The bound of a sampler with finitely many Gaussian steps, L_0 + ... + L_T.

    Every step's mean is that of q(x_s | x_t, x0) at the network's x0. The decoder's variance is
    that of the second step, as in DDPM; integers outside the outer bins count to these
    (Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, section 2.1;
    their learned variances are not covered).

    Args:
        model: what predicts.
        x: integers, shape (B, *), where `pixels` says how they are laid out (DDPM's own
            convention is "centres"): the bound of -log P(x) in bits/dim. Else clean data in
            floating point: the bound of -log p(x) in nats.
        pixels: such as `Pixels(256, "centres")`.
        grid: the steps, to which the clean end is added; all indices of a `DiscreteVPSDE` by
            default.
        variance: of a step: "small", that of q(x_s | x_t, x0), or "large", that of q(x_t | x_s).
        draws: of the noise of all steps; two or more give a standard error for each sample.
        prior, batch_size, seeds: see `variational_bound`.
    """
    if variance not in ("small", "large"):
        raise unknown_name("variance of a step", variance, ("small", "large"))
    if draws < 1:
        raise ConfigError(f"need draws of 1 or more, got {draws!r}")
    knots = _knots(model.sde, grid)
    x0 = _clean(model, x, pixels)
    parts, steps = [], torch.zeros(len(knots) + 1, dtype=torch.float64)
    for rows, own in _batches(x, batch_size, seeds):
        part = model.rows(rows)
        found = [
            _Draw(
                part, x[rows], x0[rows], pixels, knots[0], knots[-1], prior, derived(own, NOISE, k)
            )
            for k in range(draws)
        ]
        for draw in found:
            steps += draw.step_through(knots, variance == "large").cpu() / draws
        parts.append([draw.terms for draw in found])
    bound = _bound(parts, x, pixels, len(knots) * draws)
    return replace(bound, per_step=steps * _unit(x, pixels) / max(len(x), 1))


# -- helpers -----------------------------------------------------------------------------------


class _Draw:
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
        self.noise = seeds.open(x0.shape, torch.float64, x0.device)
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
        """Of N(alpha x0, sigma^2 I)."""
        return self.size * (0.5 * math.log(2 * math.pi * math.e) + float(knot.log_sigma))

    def integrate(self, sde: SDE, times: TimeDraw, count: int, clock: Any) -> None:
        """The terms of the continuous bound."""
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

    def step_through(self, knots: Sequence[Knot], large: bool) -> Tensor:
        """The terms of the discrete bound; sums over the batch of L_0, ..., L_T."""
        steps = []
        for s, t in pairwise(knots):
            # |x0 - x0_net|^2 (SNR_s - SNR_t) / 2, through the error of eps.
            gain = 0.5 * math.expm1(2 * (float(s.lam) - float(t.lam)))
            loss = gain * (self._predict(t)[1]).flatten(1).square().sum(1)
            if large:
                log_r = 2 * (float(s.log_sigma) - float(t.log_sigma))
                loss = math.exp(log_r) * loss
                loss = loss + 0.5 * self.size * (math.expm1(log_r) - log_r)
            steps.append(loss)
        guess, _ = self._predict(knots[0])
        _, b = SDE.transition(knots[0], knots[1])
        log_std = math.log(float(b)) + float(knots[0].log_sigma) - float(knots[1].log_sigma)
        self.terms["diffusion"] = torch.stack(steps).sum(0)
        self.terms["reconstruction"] = -self._decoded(guess, log_std)
        every = [self.terms["reconstruction"], *steps, self.terms["prior"]]
        return torch.stack([term.sum() for term in every])

    def _predict(self, knot: Knot) -> tuple[Tensor, Tensor]:
        """The network's x0 at a noised state, and the error of its eps."""
        eps = self.noise.normal()
        with torch.no_grad():
            prediction = self.model(affine(knot.alpha, self.x0, knot.sigma, eps), knot)
        return prediction.x0, eps - prediction.eps

    def _decoded(self, mean: Tensor, log_std: float) -> Tensor:
        """log of N(x0; mean, std^2), or of its mass in the bins of the integers."""
        inverse = math.exp(-log_std)
        if self.pixels is None:
            square = (inverse * (self.x0 - mean)).square().flatten(1).sum(1)
            return -0.5 * square - self.size * (log_std + 0.5 * math.log(2 * math.pi))
        edge = self.pixels.lower_edge(self.x)
        below = torch.where(self.x == 0, -math.inf, inverse * (edge - mean))
        last = self.x == self.pixels.levels - 1
        above = torch.where(last, math.inf, inverse * (edge + self.pixels.width - mean))
        # log(Phi(above) - Phi(below)) in the lower tail, where nothing cancels.
        flip = below + above > 0
        low, high = torch.where(flip, -above, below), torch.where(flip, -below, above)
        log_high: Tensor = torch.special.log_ndtr(high)
        mass: Tensor = log_high + torch.log1p(-(torch.special.log_ndtr(low) - log_high).exp())
        return mass.flatten(1).sum(1)


def _knots(sde: SDE, grid: Grid | None) -> list[Knot]:
    """Knots of a discrete bound from the cleanest with noise to the noisiest."""
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


def _clean(model: Predictor, x: Tensor, pixels: Pixels | None) -> Tensor:
    """Clean data in float64."""
    check_model(model)
    if pixels is None:
        check_tensor(x, "x")
        x0 = x.to(torch.float64)
    else:
        pixels.check(x)
        x0 = pixels.lower_edge(x) + 0.5 * pixels.width
    if x.ndim < 2 or len(x) == 0:
        raise ShapeError(f"x must have shape (B, *event) with B > 0, got {tuple(x.shape)}")
    return x0


def _batches(
    x: Tensor, size: int | None, seeds: int | Sequence[int]
) -> Iterator[tuple[Tensor, tuple[int, ...]]]:
    own = per_sample(seeds, len(x))
    for rows in torch.split(torch.arange(len(x), device=x.device), size or len(x)):
        first = int(rows[0])
        yield rows, own[first : first + len(rows)]


def _unit(x: Tensor, pixels: Pixels | None) -> float:
    return 1.0 if pixels is None else 1.0 / (x[0].numel() * math.log(2))


def _bound(
    parts: list[list[dict[str, Tensor]]], x: Tensor, pixels: Pixels | None, nfe: int
) -> Bound:
    """From the terms of each draw of each batch, in nats."""
    unit = _unit(x, pixels)
    terms = {
        name: unit * torch.cat([torch.stack([draw[name] for draw in part], 1) for part in parts])
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
        nfe=nfe,
    )
