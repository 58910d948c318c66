r"""The frame in which the log-density is integrated.

Let y = x/alpha and tau = log rho. The flow of Gaussian data with mean mu and covariance C is
linear. The whitened state

    z = S^(-1/2) (y - mu),   S = C + rho^2 I,   dz/dtau = S^(-1/2) rho eps - rho^2 S^(-1) z

is constant if the data are Gaussian. The change of variables is linear, so it changes the trace
only by the known part rho^2 tr S^(-1). What is integrated numerically is

    tr(d(rho eps)/dy) - rho^2 tr S^(-1).

The integral of the known part is half the change of log det S.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import ShapeError
from ..exact.mixtures import Covariance, Diagonal, Spectral
from ..scalar import Scalar
from ..sde.knot import Knot


class Frame(ABC):
    """A linear change of variables that depends on rho.

    States have shape (B, *), with `size` numbers each. The time is tau = log rho, a float or of
    shape (B,).
    """

    @abstractmethod
    def enter(self, y: Tensor, tau: Scalar) -> Tensor:
        """z from y."""

    @abstractmethod
    def leave(self, z: Tensor, tau: Scalar) -> Tensor:
        """y from z."""

    @abstractmethod
    def velocity(self, dy: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """dz/dtau from dy/dtau."""

    @abstractmethod
    def score(self, dz: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """Gradient of the log-density of z, from dz/dtau."""

    @abstractmethod
    def pull(self, v: Tensor, tau: Scalar) -> Tensor:
        """rho^2 S^(-1) v: the Jacobian of dy/dtau of the frame's Gaussian, times v."""

    @abstractmethod
    def trace(self, tau: Scalar, size: int) -> Scalar:
        """rho^2 tr S^(-1), the known part of the trace: a number, or shape (B,)."""

    @abstractmethod
    def half_log_det(self, tau: float, size: int) -> float:
        """(1/2) log det S, up to a constant: the integral of `trace`."""

    def prior_gap(
        self, high: Knot, size: int, mean: float | Tensor = 0.0, variance: float = 0.0
    ) -> float:
        """Cost of a prior in nats; NaN if the frame does not know the data's moments.

        It is the KL divergence from the Gaussian with the data's moments to the one of this mean
        and one variance, both noised to the noisy end: N(0, sigma^2) by default.
        """
        return math.nan


class NoFrame(Frame):
    """No change of variables: z = y."""

    def enter(self, y: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return y

    def leave(self, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return z

    def velocity(self, dy: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return dy

    def score(self, dz: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`: dy/dtau is -rho^2 times the score of y."""
        return -_times(1.0 / _rho2(tau, z), dz)

    def pull(self, v: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`; it is 0, since this frame has no Gaussian."""
        return torch.zeros_like(v)

    def trace(self, tau: Scalar, size: int) -> Scalar:
        """See `Frame`."""
        return torch.zeros_like(tau) if isinstance(tau, Tensor) else 0.0

    def half_log_det(self, tau: float, size: int) -> float:
        """See `Frame`."""
        return 0.0


class Whitened(Frame):
    """The frame that whitens Gaussian data of given mean and covariance.

    Args:
        mean: mean of the data, shape (*event), or a number.
        covariance: covariance of the data: one variance (the mean can then be a number), variances
            of shape (*event), a matrix (D, D), or one of `scoresde.exact`'s covariances, such as
            `low_rank(factors, ridge)`.
        assumed: whether the moments are only a guess of the scale rather than those of the data.
    """

    def __init__(
        self, mean: float | Tensor, covariance: CovarianceLike, *, assumed: bool = False
    ) -> None:
        self.assumed = assumed
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        form = as_covariance(covariance, self.mean)
        self._columns: Tensor | None = None
        self._ridge: Tensor | None = None  # variance outside the columns
        if isinstance(form, Diagonal):
            self._values = form.e[0].reshape(-1)
        elif form.e.shape[1] == 0:
            self._values = form.ridge[:1]
        else:
            self._columns, self._values = form.u[0], form.e[0] + form.ridge[0]
            if len(self._values) < len(self._columns):
                self._ridge = form.ridge[0]

    def enter(self, y: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return self._power(y - self.mean.to(y), tau, -0.5)

    def leave(self, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return self._power(z, tau, 0.5) + self.mean.to(z)

    def velocity(self, dy: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return self._power(dy, tau, -0.5) - self.pull(z, tau)

    def score(self, dz: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`: -S dz/dtau / rho^2 - z."""
        rho2 = _rho2(tau, z)
        return -self._apply(dz, lambda v: (v + rho2) / rho2) - z

    def pull(self, v: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        rho2 = _rho2(tau, v)
        return self._apply(v, lambda c: rho2 / (c + rho2))

    def trace(self, tau: Scalar, size: int) -> Scalar:
        """See `Frame`."""
        if isinstance(tau, Tensor):
            rho2 = _rho2(tau, tau[:, None])
            return self._total(lambda v: rho2 / (v + rho2), size, rho2)
        rho2 = math.exp(2 * tau)
        return float(self._total(lambda v: rho2 / (v + rho2), size))

    def half_log_det(self, tau: float, size: int) -> float:
        """See `Frame`."""
        rho2 = math.exp(2 * tau)
        return 0.5 * float(self._total(lambda v: (v + rho2).log(), size))

    def prior_gap(
        self, high: Knot, size: int, mean: float | Tensor = 0.0, variance: float = 0.0
    ) -> float:
        """See `Frame`."""
        if self.assumed:
            return math.nan
        total = variance + math.exp(-2 * float(high.lam))  # of the prior, in units of x / alpha
        # (ratio of variances) - 1, small at the end, so that no digits are lost.
        spread = float(
            self._total(lambda v: (v - variance) / total - ((v - variance) / total).log1p(), size)
        )
        shift = (self.mean - torch.as_tensor(mean).to(self.mean)).expand(self._shape(size))
        return 0.5 * (spread + float(shift.square().sum()) / total)

    def _shape(self, size: int) -> tuple[int, ...]:
        return tuple(self.mean.shape) if self.mean.ndim else (size,)

    def _power(self, x: Tensor, tau: Scalar, power: float) -> Tensor:
        rho2 = _rho2(tau, x)
        return self._apply(x, lambda v: (v + rho2) ** power)

    def _apply(self, x: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """fn(C) x, where fn acts on the eigenvalues of C."""
        flat = x.reshape(len(x), math.prod(x.shape[1:]))
        inside = fn(self._values.to(x))
        if self._columns is None:
            return (flat * inside).reshape(x.shape)
        columns = self._columns.to(x)
        if self._ridge is None:
            return ((flat @ columns * inside) @ columns.T).reshape(x.shape)
        outside = fn(self._ridge.to(x))
        moved = outside * flat + (flat @ columns * (inside - outside)) @ columns.T
        return moved.reshape(x.shape)

    def _total(
        self, fn: Callable[[Tensor], Tensor], size: int, like: Tensor | None = None
    ) -> Tensor:
        """tr fn(C), on the device and in the dtype of `like`."""
        values = self._values if like is None else self._values.to(like)
        inside = fn(values)
        if len(values) == 1 and self._columns is None:
            return size * inside.sum(-1)
        total = inside.sum(-1)
        if self._ridge is None:
            return total
        return total + (size - len(values)) * fn(self._ridge[None].to(values)).sum(-1)


def _rho2(tau: Scalar, like: Tensor) -> Any:
    """rho^2 as a number, or of shape (B, 1)."""
    if isinstance(tau, Tensor):
        return (2 * tau).exp().reshape(-1, 1).to(like)
    return math.exp(2 * tau)


def _times(a: float | Tensor, x: Tensor) -> Tensor:
    return (x.flatten(1) * a).reshape(x.shape)


CovarianceLike = float | Tensor | Spectral | Diagonal


def as_covariance(given: CovarianceLike, mean: Tensor) -> Spectral | Diagonal:
    """A covariance in one of `scoresde.exact`'s forms.

    Raises:
        ShapeError: if its shape does not fit that of the mean.
    """
    if isinstance(given, Spectral | Diagonal):
        return given
    value = torch.as_tensor(given, dtype=torch.float64)
    d = mean.numel()
    if value.ndim == 0:
        return Covariance.isotropic(value)
    if value.shape == mean.shape:
        return Covariance.diagonal(value[None])
    if value.shape == (d, d):
        return Covariance.full(value[None])
    raise ShapeError(
        f"a covariance for a mean of shape {tuple(mean.shape)} must be a number, of that shape, or "
        f"({d}, {d}), got {tuple(value.shape)}"
    )
