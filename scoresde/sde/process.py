r"""`SDE`: a linear Gaussian diffusion process.

    dx = f(t) x dt + g(t) dw        x_t = alpha(t) x_0 + sigma(t) eps,  eps ~ N(0, I)

Two functions of time define a process: log(alpha) and log(sigma). Everything else follows from
the moments of a linear SDE (Song et al., "Score-Based Generative Modeling through Stochastic
Differential Equations", 2021, appendix B; Kingma et al., "Variational Diffusion Models", 2021,
section 3):

    f = dlog(alpha)/dt              g^2 = 2 sigma^2 d(log sigma - log alpha)/dt
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from .._internal.plain_data import to_plain
from ..errors import ShapeError, TimeRangeError
from ..scalar import Scalar, affine, derivative, exp, expm1, log, scale, sqrt, widest
from .knot import CLEAN, Knot

if TYPE_CHECKING:
    from ..noise import NoiseStream


_HALVINGS = 80  # enough to reduce any bracket to two neighbouring floats


@dataclass(frozen=True)
class SDE(ABC):
    """A linear Gaussian diffusion, as a frozen value made of floats.

    A subclass defines `log_alpha` and `log_sigma`. Everything else is derived from them; override
    a method if it has a closed form. A process has no device and no parameters: it can be hashed,
    compared, pickled and written as JSON.

    Attributes:
        t_min: smallest time at which a network is evaluated: the end of the range it was
            trained on, and the default end of grids and likelihoods.
        t_max: largest time, where sampling starts.
    """

    t_min: float = field(default=1e-3, kw_only=True)
    t_max: float = field(default=1.0, kw_only=True)

    own_time: ClassVar[str] = ""
    """The time convention of `ScoreModel(time=None)`, if all networks of this process use the same
    one: a name of `scoresde.time_input`. Else empty."""

    clean: ClassVar[Knot] = CLEAN
    """The noiseless end, alpha = 1 and sigma = 0: only ever the last target of a solver."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.t_min < self.t_max < math.inf:
            raise TimeRangeError(
                f"{type(self).__name__} needs 0 <= t_min < t_max, "
                f"got t_min={self.t_min!r}, t_max={self.t_max!r}"
            )

    # -- what a subclass defines -----------------------------------------------------------

    @abstractmethod
    def log_alpha(self, t: Scalar) -> Scalar:
        """The log of alpha, the scale of the signal, at t (a float or a float64 tensor)."""

    @abstractmethod
    def log_sigma(self, t: Scalar) -> Scalar:
        """The log of sigma, the standard deviation of the noise, at t (float or float64 tensor)."""

    # -- coefficients of the SDE ------------------------------------------------------------

    def f(self, t: Scalar) -> Scalar:
        """Coefficient of the linear drift, dlog(alpha)/dt."""
        return derivative(self.log_alpha, t)

    def g2(self, t: Scalar) -> Scalar:
        """Squared diffusion coefficient, 2 sigma^2 d(log sigma - log alpha)/dt."""
        rate = derivative(lambda u: self.log_sigma(u) - self.log_alpha(u), t)
        return 2.0 * exp(2.0 * self.log_sigma(t)) * rate

    def rates(self, t: Scalar) -> tuple[Scalar, Scalar]:
        """The derivatives d alpha / dt and d sigma / dt.

        The velocity of the path alpha x0 + sigma eps is their combination of x0 and eps. They are
        not finite at alpha = 0, unless a subclass has a closed form.
        """
        f, alpha, sigma = self.f(t), exp(self.log_alpha(t)), exp(self.log_sigma(t))
        return alpha * f, sigma * f + 0.5 * self.g2(t) / sigma

    def drift(self, x: Tensor, t: Scalar) -> Tensor:
        """The drift f(t) x, shape (B, *). `t` is a float or a tensor of shape (B,)."""
        return scale(self.f(self.at(t, like=x).t), x)

    def diffusion(self, t: Scalar) -> Scalar:
        """The diffusion coefficient g(t), the same for every coordinate."""
        return sqrt(self.g2(t))

    # -- times and noise levels --------------------------------------------------------------

    def at(self, t: Scalar, like: Tensor | None = None) -> Knot:
        """The knot at time t.

        Args:
            t: a float, or a tensor of shape (B,), one time per sample.
            like: the state for which the knot is used, shape (B, *). A tensor of times is
                reshaped to (B, 1, ...), so that it cannot broadcast along another axis.

        Raises:
            TimeRangeError: for a float outside [0, t_max].
            ShapeError: if there is not one time per sample.
        """
        if isinstance(t, Tensor):
            t = t.to(widest(t.device))
            if like is not None and t.ndim > 0:
                t = per_sample(t, like)
        else:
            t = float(t)
            if not 0.0 <= t <= self.t_max * (1 + 1e-12):
                raise TimeRangeError(
                    f"t = {t:g} lies outside {type(self).__name__}'s range [0, {self.t_max:g}]; "
                    f"write a time between t_min = {self.t_min:g} and t_max = {self.t_max:g}"
                )
        return Knot(t, self.log_alpha(t), self.log_sigma(t))

    def lam(self, t: Scalar) -> Scalar:
        """Half log-SNR log(alpha/sigma) at t; it falls as t grows."""
        return self.log_alpha(t) - self.log_sigma(t)

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """The time at which the half log-SNR is `lam`.

        Without a closed form in a subclass it is found by bisection, down to two neighbouring
        floats: exact to round-off for every monotone process.
        """
        if not isinstance(lam, Tensor):
            low, high = 0.0, self.t_max
            for _ in range(_HALVINGS):
                middle = 0.5 * (low + high)
                low, high = (middle, high) if self.lam(middle) > lam else (low, middle)
            return 0.5 * (low + high)
        lows, highs = torch.zeros_like(lam), torch.full_like(lam, self.t_max)
        for _ in range(_HALVINGS):
            middles = 0.5 * (lows + highs)
            early = torch.as_tensor(self.lam(middles)) > lam  # not noisy enough yet
            lows, highs = torch.where(early, middles, lows), torch.where(early, highs, middles)
        return 0.5 * (lows + highs)

    def at_lambda(self, lam: Scalar) -> Knot:
        """The knot whose half log-SNR is `lam`.

        Raises:
            TimeRangeError: for a float that is not the half log-SNR of a time in (0, t_max].
        """
        if isinstance(lam, Tensor):
            lam = lam.to(torch.float64)
        else:
            lowest = self.lam(self.t_max)
            if math.isnan(lam) or lam == math.inf or lam < float(lowest) - 1e-9 * (1 + abs(lam)):
                raise TimeRangeError(
                    f"the half log-SNR of {type(self).__name__} is finite and at least "
                    f"{float(lowest):.6g} (at t_max = {self.t_max:g}), not {lam:g}"
                )
            if lam <= lowest:
                return self.at(self.t_max)
        t = self.t_at_lambda(lam)
        return Knot(t, self.log_alpha(t), self.log_sigma(t))

    def at_rho(self, rho: Scalar) -> Knot:
        """The knot whose noise-to-signal ratio sigma / alpha is `rho`; see `at_lambda`."""
        return self.at_lambda(-log(rho))

    # -- the forward process -----------------------------------------------------------------

    def marginal(self, x0: Tensor, t: Scalar) -> tuple[Tensor, Scalar]:
        """Mean alpha x0, shape (B, *), and standard deviation sigma of x_t given x0."""
        knot = self.at(t, like=x0)
        return scale(knot.alpha, x0), knot.sigma

    def perturb(self, x0: Tensor, t: Scalar, eps: Tensor) -> Tensor:
        """The noisy state alpha x0 + sigma eps, shape (B, *); t: a float or shape (B,)."""
        knot = self.at(t, like=x0)
        return affine(knot.alpha, x0, knot.sigma, eps)

    @staticmethod
    def transition(s: Knot, t: Knot) -> tuple[Scalar, Scalar]:
        """(a, b) of the exact forward step x_t = a x_s + b z, z ~ N(0, I), from s to t.

        b^2 = sigma_t^2 - a^2 sigma_s^2 is computed from the log-SNR, without cancellation.
        """
        a = exp(t.log_alpha - s.log_alpha)
        if s.is_clean:
            return a, t.sigma
        # sigma_t^2 (1 - SNR_t / SNR_s)
        return a, t.sigma * sqrt(-expm1(2.0 * (t.lam - s.lam)))

    def simulate(
        self, x0: Tensor, times: Sequence[float], noise: NoiseStream
    ) -> Iterator[tuple[Knot, Tensor]]:
        """Simulate the forward SDE from clean data through ascending times.

        Each step draws from the exact transition, so each state has the exact marginal law, however
        few times there are.

        Args:
            x0: clean data, shape (B, *).
            times: ascending times in (0, t_max].
            noise: an open stream of noise of x0's shape, such as `SampleSeeds(...).open(...)`.

        Yields:
            Each knot, and the state there, shape (B, *).
        """
        if any(b <= a for a, b in pairwise(times)):
            raise TimeRangeError(
                f"a forward simulation needs ascending times, got {list(times)}; "
                "write sorted(times)"
            )
        x, here = x0, self.clean
        for time in times:
            there = self.at(time)
            a, b = self.transition(here, there)
            x = affine(a, x, b, noise.increment(there, here))
            here = there
            yield here, x

    # -- the prior ------------------------------------------------------------------------------

    def prior_sample(self, noise: NoiseStream) -> Tensor:
        """A draw from N(0, sigma(t_max)^2 I) of the stream's shape."""
        return scale(self.at(self.t_max).sigma, noise.start())

    def prior_log_prob(self, z: Tensor, knot: Knot | None = None) -> Tensor:
        """log N(z; 0, sigma^2 I) in nats, shape (B,), for z of shape (B, *).

        Args:
            z: the state.
            knot: the knot that gives sigma, with float fields; that of t_max by default.
        """
        log_sigma = float((knot or self.at(self.t_max)).log_sigma)
        flat = z.reshape(len(z), z.shape[1:].numel())
        square = (flat * flat).sum(1) * math.exp(-2 * log_sigma)
        return -0.5 * square - flat.shape[1] * (log_sigma + 0.5 * math.log(2 * math.pi))

    # -- as plain data ----------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """The process as JSON-able data; `scoresde.sde.from_dict` is the inverse."""
        data: dict[str, Any] = to_plain(self)
        return data


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, ...) with the rank of `like`, or raise ShapeError."""
    if t.ndim == like.ndim and t.shape[0] == like.shape[0] and t[0:1].numel() <= 1:
        return t
    if t.shape != like.shape[:1]:
        raise ShapeError(
            f"expected one time per sample, shape ({like.shape[0]},) for a state of shape "
            f"{tuple(like.shape)}, got times of shape {tuple(t.shape)}"
        )
    return t.reshape(-1, *[1] * (like.ndim - 1))
