r"""Denoising score matching: how a network is trained, and how good it is at each noise level.

For clean data x0, noise eps and a time, the network sees x = alpha x0 + sigma eps. Its output is
compared with that of a perfect network, `Parametrization.target`. Two frozen values define the
loss: a `Weighting` multiplies the squared error, and a `TimeDraw` is the distribution of training
times (`Mixed` combines two). Both can be written in a recipe.

Errors in different parametrizations differ only by a factor: if `raw` has the error e, eps has the
error eps_raw e and x0 has the error x0_raw e (the table in `scoresde.prediction`). So a weighting
that is stated for one variable holds for all, exactly and for every sample.

Sources: Vincent, "A Connection Between Score Matching and Denoising Autoencoders", 2011; Song et
al., "Maximum Likelihood Training of Score-Based Diffusion Models", 2021; Kingma et al.,
"Variational Diffusion Models", 2021; Karras et al. 2022; Hang et al., "Efficient Diffusion
Training via Min-SNR Weighting Strategy", 2023.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._internal.checks import check_batch, check_kind, check_model
from .._internal.plain_data import from_plain, to_plain
from ..errors import ConfigError, ZeroSNRError
from ..model import Predictor
from ..noise import source
from ..prediction import Parametrization, Prediction, parametrization
from ..scalar import Scalar, affine, exp, widest
from ..sde import SDE
from ..sde.knot import Knot
from ..sde.process import per_sample
from ..wrapper import begin

# -- which error counts how much ---------------------------------------------------------------


@dataclass(frozen=True)
class Weighting(ABC):
    """The factor of the squared error of the raw output, as a function of time."""

    @abstractmethod
    def __call__(self, predicts: Parametrization, knot: Knot, density: Scalar) -> Scalar:
        """The factor at a knot.

        Args:
            predicts: what the raw output means.
            knot: the time.
            density: density of the drawn half log-SNR at the knot, for a weighting that defines an
                integral.
        """

    def extra(
        self, prediction: Prediction, x0: Tensor, eps: Tensor, sde: SDE, density: Scalar
    ) -> Tensor | None:
        """A term beside the squared error, shape (B,), such as that of `Hybrid`; None for none."""
        return None


@dataclass(frozen=True)
class Simple(Weighting):
    """Weight 1 for the squared error of one variable: "simple" of Ho et al. 2020 if that is eps.

    Attributes:
        of: "eps", "x0", "score", "v", "flow", "F", or a `Parametrization`; None for what the
            network predicts. "flow" is the velocity of the model's process.
    """

    of: str | Parametrization | None = None

    def __post_init__(self) -> None:
        if self.of is not None:
            parametrization(self.of)

    def __call__(self, predicts: Parametrization, knot: Knot, density: Scalar) -> Scalar:
        """(eps_raw of the network / eps_raw of the variable)^2.

        If the variable's eps_raw is 0, as at alpha = 0, the coefficients x0_raw replace both.
        """
        if self.of is None:
            return 1.0
        ours = predicts.coefficients(knot)
        theirs = parametrization(self.of).coefficients(knot)
        if isinstance(theirs.eps_raw, Tensor) or isinstance(theirs.x0_raw, Tensor):
            blind = torch.as_tensor(theirs.eps_raw) == 0
            whole = torch.where(blind, 1.0, torch.as_tensor(theirs.eps_raw))
            of_x0 = torch.where(blind, torch.as_tensor(theirs.x0_raw), 1.0)
            return torch.where(blind, ours.x0_raw / of_x0, ours.eps_raw / whole) ** 2
        if theirs.eps_raw == 0:
            return (ours.x0_raw / theirs.x0_raw) ** 2
        return (ours.eps_raw / theirs.eps_raw) ** 2


@dataclass(frozen=True)
class Likelihood(Weighting):
    """Squared error of eps, per unit of half log-SNR: the integrand of the variational bound.

    The expected loss is the diffusion term of the negative bound, in nats per dimension: the
    integral of E|eps - eps_net|^2 / D over lam (losses here are means over the D dimensions).
    Song et al., 2021, theorem 1 with lambda(t) = g(t)^2, in the form of Kingma et al., 2021,
    eq. 17 (there half the integral over log-SNR = 2 lam). The loss is divided by the density of
    the `TimeDraw`, so it is unbiased for any of them; `UniformLambda` has the smallest variance at
    the start of training.
    """

    def __call__(self, predicts: Parametrization, knot: Knot, density: Scalar) -> Scalar:
        """eps_raw^2 / density."""
        return predicts.coefficients(knot).eps_raw ** 2 / density


@dataclass(frozen=True)
class MinSNR(Weighting):
    """min(SNR, gamma) for the squared error of x0 (Hang et al., 2023, section 3.4)."""

    gamma: float = 5.0

    def __post_init__(self) -> None:
        if not self.gamma > 0:
            raise ConfigError(f"MinSNR needs gamma > 0, got {self.gamma!r}")

    def __call__(self, predicts: Parametrization, knot: Knot, density: Scalar) -> Scalar:
        """min(SNR, gamma) x0_raw^2, computed from eps_raw, so that it does not overflow."""
        # x0_raw^2 SNR = eps_raw^2, since alpha x0 + sigma eps = x.
        ours, lam = predicts.coefficients(knot).eps_raw ** 2, knot.lam
        if isinstance(lam, Tensor):
            return ours * (math.log(self.gamma) - 2.0 * lam).clamp(max=0.0).exp()
        return ours * min(1.0, float(exp(math.log(self.gamma) - 2.0 * lam)))


# -- which times are drawn ---------------------------------------------------------------------


@dataclass(frozen=True)
class TimeDraw(ABC):
    """A distribution of training times, as a quantile function and a density in lam."""

    @abstractmethod
    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """Times in [t_min, t_max] for u in [0, 1), float64 of the same shape."""

    @abstractmethod
    def density(self, sde: SDE, knot: Knot) -> Scalar:
        """Density of the half log-SNR at a knot."""

    def draw(
        self, sde: SDE, n: int, generator: torch.Generator, *, stratified: bool = True
    ) -> Tensor:
        """n times, float64, shape (n,); on the CPU where the generator's device has no float64.

        Args:
            stratified: draw n evenly spaced quantiles with one random offset. This lowers the
                variance of the mean over a batch (Kingma et al., 2021, appendix I.1). Each single
                time has the same distribution as an independent draw.
        """
        device = generator.device
        wide = widest(device)
        if stratified:
            start = torch.rand((), dtype=wide, device=device, generator=generator)
            u = (start + torch.arange(n, dtype=wide, device=device) / max(n, 1)) % 1.0
        else:
            u = torch.rand(n, dtype=wide, device=device, generator=generator)
        return self.quantile(sde, u if wide == torch.float64 else u.cpu().double())


@dataclass(frozen=True)
class UniformT(TimeDraw):
    """Uniform in t (Ho et al. 2020, Song et al. 2021)."""

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """Times t_min + u (t_max - t_min)."""
        return sde.t_min + u * (sde.t_max - sde.t_min)

    def density(self, sde: SDE, knot: Knot) -> Scalar:
        """|dt/dlam| / (t_max - t_min), with dlam/dt = -g^2 / (2 sigma^2)."""
        return 2.0 * knot.sigma**2 / sde.g2(knot.t) / (sde.t_max - sde.t_min)


@dataclass(frozen=True)
class UniformLambda(TimeDraw):
    """Uniform in half log-SNR between t_max and t_min."""

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """Times whose half log-SNR is linear in u, by the inverse of the log-SNR.

        Raises:
            ZeroSNRError: if the log-SNR is not finite at one end of the process.
        """
        low, high = _lam_range(sde)
        return _clamped(sde, high - u * (high - low))

    def density(self, sde: SDE, knot: Knot) -> Scalar:
        """1 / (lam range)."""
        low, high = _lam_range(sde)
        return 1.0 / (high - low)


@dataclass(frozen=True)
class LogNormalRho(TimeDraw):
    """log(rho) normal, truncated to the range of the process (Karras et al. 2022, table 1).

    Attributes:
        mean: mean of log(rho); EDM uses -1.2 for data of standard deviation 0.5.
        std: standard deviation of log(rho).
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ConfigError(f"LogNormalRho needs std > 0, got {self.std!r}")

    def _cut(self, sde: SDE) -> tuple[Tensor, Tensor]:
        knots = [sde.at(t) for t in (sde.t_min, sde.t_max)]
        ends = [-math.inf if knot.is_clean else -float(knot.lam) for knot in knots]
        low, high = (torch.tensor((z - self.mean) / self.std, dtype=torch.float64) for z in ends)
        return torch.special.ndtr(low), torch.special.ndtr(high)

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """Times from the inverse of the normal distribution function of log(rho)."""
        low, high = (edge.to(u.device) for edge in self._cut(sde))
        z = torch.special.ndtri(low + u * (high - low))
        return _clamped(sde, -(self.mean + self.std * z))

    def density(self, sde: SDE, knot: Knot) -> Scalar:
        """Density of the truncated normal distribution."""
        low, high = self._cut(sde)
        z = (-knot.lam - self.mean) / self.std
        mass = float(high - low) * self.std * math.sqrt(2.0 * math.pi)
        return exp(-0.5 * z * z) / mass


@dataclass(frozen=True)
class Mixed(TimeDraw):
    """A mixture of two distributions of times.

    Attributes:
        first: the first distribution.
        second: the second distribution.
        share: probability of the first, between 0 and 1.
    """

    first: TimeDraw = field(default_factory=UniformLambda)
    second: TimeDraw = field(default_factory=LogNormalRho)
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise ConfigError(f"Mixed needs 0 < share < 1, got {self.share!r}")

    def quantile(self, sde: SDE, u: Tensor) -> Tensor:
        """A time of the first distribution for u below `share`, of the second above."""
        first = self.first.quantile(sde, (u / self.share).clamp(max=1.0))
        second = self.second.quantile(sde, ((u - self.share) / (1.0 - self.share)).clamp(min=0.0))
        return torch.where(u < self.share, first, second)

    def density(self, sde: SDE, knot: Knot) -> Scalar:
        """Density of the mixture."""
        first, second = self.first.density(sde, knot), self.second.density(sde, knot)
        return self.share * first + (1.0 - self.share) * second


def _lam_range(sde: SDE) -> tuple[float, float]:
    low = float(sde.lam(sde.t_max))
    high = float(sde.lam(sde.t_min)) if sde.at(sde.t_min).log_sigma != -math.inf else math.inf
    if not math.isfinite(low) or not math.isfinite(high):
        raise ZeroSNRError(
            f"the half log-SNR of {type(sde).__name__} goes from {low:g} to {high:g} over "
            f"[{sde.t_min:g}, {sde.t_max:g}], so it cannot be drawn uniformly; write "
            f"{type(sde).__name__}(t_min=..., t_max=...) with both ends finite, or UniformT()"
        )
    return low, high


def _clamped(sde: SDE, lam: Tensor) -> Tensor:
    # Clamped, since round-off of the inverse can leave the range of the process.
    t = sde.t_at_lambda(lam)
    return torch.as_tensor(t).clamp(sde.t_min, sde.t_max)


# -- the loss ----------------------------------------------------------------------------------


def score_matching_loss(
    model: Predictor,
    x0: Tensor,
    *,
    generator: torch.Generator,
    weighting: Weighting = Simple(),
    times: TimeDraw = UniformT(),
    stratified: bool = True,
) -> Tensor:
    """The weighted squared error of the network's raw output, at one random time per sample.

    Args:
        model: a `ScoreModel`, or any predictor whose raw output has a parametrization.
        x0: clean data, shape (B, *).
        generator: the only source of randomness, on x0's device.
        weighting: `Simple()`, `Likelihood()` or `MinSNR()`; for networks that learn the variance of
            a step too, `Hybrid()` of `scoresde.training.hybrid`: nothing else trains the variance.
        times: `UniformT()`, `UniformLambda()`, `LogNormalRho()` or a `Mixed` of two.
        stratified: see `TimeDraw.draw`.

    Returns:
        The loss of each sample, a mean over its dimensions, shape (B,), in x0's dtype.

    Raises:
        ConfigError, DtypeError, ShapeError: for arguments of the wrong kind.
    """
    check_model(model)
    check_batch(x0, "x0")
    check_kind(generator, torch.Generator, "generator", "torch.Generator().manual_seed(0)")
    check_kind(weighting, Weighting, "weighting", "Simple(), Likelihood() or MinSNR()")
    check_kind(times, TimeDraw, "times", "UniformT(), UniformLambda() or LogNormalRho()")
    if isinstance(weighting, Simple) and weighting.of == "flow":
        weighting = replace(weighting, of=parametrization("flow", model.sde))
    t = times.draw(model.sde, x0.shape[0], generator, stratified=stratified)
    knot = model.sde.at(per_sample(t, x0))
    density = times.density(model.sde, knot)
    if widest(x0.device) != torch.float64:  # known to float64, and rounded on the way there
        knot = Knot(*(torch.as_tensor(v).to(x0.device, torch.float32) for v in knot))
        density = torch.as_tensor(density).to(x0.device, torch.float32)
    eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=x0.device)
    return weighted_error(model, x0, eps, knot, weighting, density)


def weighted_error(
    model: Predictor,
    x0: Tensor,
    eps: Tensor,
    knot: Knot,
    weighting: Weighting = Simple(),
    density: Scalar = 1.0,
) -> Tensor:
    """The loss at given noise and time: `weighting` times the mean squared error, shape (B,)."""
    prediction = model(affine(knot.alpha, x0, knot.sigma, eps), knot)
    error = prediction.raw - prediction.predicts.target(x0, eps, knot)
    square = (error * error).flatten(1).mean(1)
    weight = weighting(prediction.predicts, knot, density)
    if isinstance(weight, Tensor):
        weight = weight.flatten().to(square.dtype)
    extra = weighting.extra(prediction, x0, eps, model.sde, density)
    return square * weight if extra is None else square * weight + extra


class NoiseLevelLoss(NamedTuple):
    """Mean squared error of eps at each half log-SNR `lam`; float64, shape (L,)."""

    lam: Tensor
    loss: Tensor
    stderr: Tensor


@torch.no_grad()
def loss_per_noise_level(
    model: Predictor,
    x0: Tensor,
    lams: Sequence[float] | Tensor,
    *,
    seed: int = 0,
    batch_size: int = 256,
) -> NoiseLevelLoss:
    """The mean squared error of the predicted noise at each half log-SNR.

    Every level uses the same noise, so that the curve is smooth in lam. Its integral over lam is
    the diffusion term of the variational bound, in nats per dimension (`Likelihood`).

    Args:
        model: any predictor.
        x0: clean data, shape (N, *), N >= 2.
        lams: half log-SNRs within the range of the process, shape (L,).
        seed: seed of the noise; each sample has its own stream.
        batch_size: samples in one call of the network.

    Returns:
        The mean over samples of |eps - eps_net|^2 / D, and its standard error.
    """
    check_model(model)
    check_batch(x0, "x0")
    if x0.shape[0] < 2:
        raise ConfigError(f"a standard error needs at least 2 samples, got {x0.shape[0]}")
    model = begin(model)
    levels = [float(lam) for lam in lams]
    squares = torch.empty(len(levels), x0.shape[0], dtype=torch.float64)
    for start in range(0, x0.shape[0], batch_size):
        x = x0[start : start + batch_size]
        index = torch.arange(start, start + x.shape[0])
        seeds = [(seed << 32) + int(i) for i in index]
        eps = source(seeds).open(x.shape, x.dtype, x.device).normal()
        part = model.rows(index)
        for row, lam in zip(squares, levels, strict=True):
            error = weighted_error(part, x, eps, model.sde.at_lambda(lam), Simple("eps"))
            row[start : start + x.shape[0]] = error.double()
    stderr = squares.std(1) / math.sqrt(x0.shape[0])
    return NoiseLevelLoss(torch.tensor(levels, dtype=torch.float64), squares.mean(1), stderr)


# -- as plain data -----------------------------------------------------------------------------


def to_dict(value: Weighting | TimeDraw) -> dict[str, Any]:
    """A weighting or a distribution of times as JSON-able data."""
    data: dict[str, Any] = to_plain(value)
    return data


def from_dict(data: dict[str, Any], *, known: Sequence[type] = ()) -> Any:
    """The weighting or distribution of times that `to_dict` wrote.

    Args:
        data: name and fields.
        known: your own classes that may be named.

    Raises:
        ConfigError: for an unknown name or field.
    """
    from .hybrid import Hybrid  # it is made of what is here

    own = (Simple, Likelihood, MinSNR, Hybrid, UniformT, UniformLambda, LogNormalRho, Mixed)
    return from_plain("weighting or distribution of times", data, [*own, *known])
