"""The continuous process through a table of betas, and the common tables.

A DDPM network is trained at integer indices 0 .. N-1. Here a C2 cubic spline of the half log-SNR
interpolates the table, so that a solver may stop between two indices. Kinks would lower the order
of high-order solvers and the accuracy of likelihoods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError
from ..scalar import Scalar, atan2, exp, log, sin, softplus
from .process import SDE


def linear_betas(n: int = 1000, first: float = 1e-4, last: float = 0.02) -> np.ndarray:
    """The linear table of Ho et al., "Denoising Diffusion Probabilistic Models", 2020, section 4.

    The end points are scaled by 1000 / n, so that n steps make the same diffusion (Nichol &
    Dhariwal, 2021, use the same rule). Shape (n,), float64.
    """
    return np.linspace(first * 1000 / n, last * 1000 / n, n)


def cosine_betas(n: int = 1000, s: float = 0.008, largest: float = 0.999) -> np.ndarray:
    """The cosine table of Nichol & Dhariwal, 2021, eq. 17. Shape (n,), float64."""
    angle = (np.arange(n + 1) / n + s) / (1 + s) * (np.pi / 2)
    # cos^2(b)/cos^2(a) = 1 - sin(b-a) sin(b+a) / cos^2(a): no cancellation in the small betas.
    betas: np.ndarray = np.sin(angle[1:] - angle[:-1]) * np.sin(angle[1:] + angle[:-1])
    betas /= np.cos(angle[:-1]) ** 2
    return betas.clip(max=largest)


def sigmoid_betas(
    n: int = 1000, first: float = 1e-4, last: float = 0.02, reach: float = 6.0
) -> np.ndarray:
    """A logistic ramp between two betas, as in Xu et al., "GeoDiff", 2022. (n,), float64."""
    return first + (last - first) / (1 + np.exp(-np.linspace(-reach, reach, n)))


@dataclass(frozen=True)
class DiscreteVPSDE(SDE):
    """The variance-preserving process through a table; its time is the real-valued index.

    It is exact at the indices 0 .. N-1 of the table and smooth between them. If the table ends
    with alpha = 0 (zero terminal SNR), the log-SNR is infinite there, and the angle
    atan2(sigma, alpha) is interpolated instead.

    Make it with `from_betas` or `from_alphas_cumprod`. It stores `log_alphas`, half the log of the
    cumulative product, as a tuple of floats.

    Raises:
        ConfigError: for tables that are not strictly decreasing or too short.
    """

    own_time: ClassVar[str] = "t"

    log_alphas: tuple[float, ...] = ()
    t_min: float = field(default=0.0, kw_only=True)
    t_max: float = field(default=-1.0, kw_only=True)

    def __post_init__(self) -> None:
        table = np.asarray(self.log_alphas, dtype=np.float64)
        if table.ndim != 1 or len(table) < 4:
            raise ConfigError(f"a table needs at least 4 entries, got shape {table.shape}")
        if not (np.isfinite(table[:-1]).all() and table[0] < 0 and (np.diff(table) < 0).all()):
            raise ConfigError(
                "the cumulative product of a table must fall strictly from below 1 "
                "(only its last entry may be 0); check that betas lie in (0, 1)"
            )
        object.__setattr__(self, "log_alphas", tuple(table.tolist()))
        last = float(len(table) - 1)
        if self.t_max == -1.0:
            object.__setattr__(self, "t_max", last)
        if self.t_max > last:
            raise ConfigError(f"t_max = {self.t_max:g} is past the table's last index {last:g}")
        super().__post_init__()

    @classmethod
    def from_betas(cls, betas: Sequence[float] | np.ndarray | Tensor) -> DiscreteVPSDE:
        """The process of a table of betas, shape (N,), each in (0, 1); the last may be 1."""
        beta = _as_float64(betas)
        if beta.ndim != 1 or not np.all((beta > 0) & (beta <= 1)):
            raise ConfigError("betas must be a one-dimensional table of numbers in (0, 1]")
        if beta[0] > 0.5 and np.all(np.diff(beta) < 0):
            raise ConfigError(
                f"these values fall from {beta[0]:.3g} to {beta[-1]:.3g}, so they look like a "
                "cumulative product, not like betas; write DiscreteVPSDE.from_alphas_cumprod"
            )
        with np.errstate(divide="ignore"):
            return cls(tuple(0.5 * np.cumsum(np.log1p(-beta))))

    @classmethod
    def from_alphas_cumprod(cls, table: Sequence[float] | np.ndarray | Tensor) -> DiscreteVPSDE:
        """The process of the cumulative product of 1 - beta, shape (N,); the last may be 0."""
        product = _as_float64(table)
        if product.ndim != 1 or not np.all((product >= 0) & (product < 1)):
            raise ConfigError("alphas_cumprod must be a one-dimensional table of numbers in [0, 1)")
        with np.errstate(divide="ignore"):
            return cls(tuple(0.5 * np.log(product)))

    def __repr__(self) -> str:
        table = f"<table of {len(self.log_alphas)}>"
        return f"DiscreteVPSDE({table}, t_min={self.t_min:g}, t_max={self.t_max:g})"

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether alpha = 0 at the table's last index."""
        return self.log_alphas[-1] == -math.inf

    @cached_property
    def _spline(self) -> _Spline:
        log_alpha = np.asarray(self.log_alphas)
        log_sigma = 0.5 * np.log(-np.expm1(2 * log_alpha))
        if self.zero_terminal_snr:
            return _Spline(np.arctan2(np.exp(log_sigma), np.exp(log_alpha)))
        return _Spline(log_alpha - log_sigma)

    def log_alpha(self, t: Scalar) -> Scalar:
        """From the spline: alpha^2 is the logistic function of 2 lam."""
        u = self._spline(t)
        if self.zero_terminal_snr:
            return log(sin(0.5 * math.pi - u)) if self._inside(t) else -math.inf
        return -0.5 * softplus(-2.0 * u)

    def log_sigma(self, t: Scalar) -> Scalar:
        """From the spline: sigma^2 is the logistic function of -2 lam."""
        u = self._spline(t)
        return log(sin(u)) if self.zero_terminal_snr else -0.5 * softplus(2.0 * u)

    def t_at_lambda(self, lam: Scalar) -> Scalar:
        """From the spline: finds the piece and solves its cubic equation."""
        u = atan2(exp(-lam), 1.0) if self.zero_terminal_snr else lam
        return self._spline.inverse(u)

    def _inside(self, t: Scalar) -> bool:
        # cos(pi/2) is 6e-17 in floating point; at the last index alpha is exactly 0.
        return isinstance(t, Tensor) or t < len(self.log_alphas) - 1


class _Spline:
    """A cubic spline through values at 0 .. N-1, for floats and for float64 tensors.

    It is the C2 spline if that is monotone, else a monotone C1 spline, since the log-SNR needs an
    inverse. scipy computes the coefficients.
    """

    def __init__(self, values: np.ndarray) -> None:
        from scipy.interpolate import CubicSpline, PchipInterpolator

        index = np.arange(len(values), dtype=np.float64)
        spline = CubicSpline(index, values)
        rising = values[-1] > values[0]
        fine = np.linspace(0, len(values) - 1, 16 * (len(values) - 1) + 1)
        slope = spline(fine, 1)
        if not np.all(slope > 0 if rising else slope < 0):
            spline = PchipInterpolator(index, values)
        self.coefficients = np.ascontiguousarray(spline.c[::-1].T)  # (N-1, 4), constant first

    def __call__(self, t: Scalar) -> Scalar:
        last = len(self.coefficients) - 1
        if isinstance(t, Tensor):
            piece = t.detach().floor().clamp(0, last).long()
            table = torch.from_numpy(self.coefficients).to(t.device)
            return _cubic(t - piece, *table[piece].unbind(-1))
        i = min(max(int(t), 0), last)
        return _cubic(t - i, *self.coefficients[i].tolist())

    def inverse(self, value: Scalar) -> Scalar:
        """The position in the table where the spline has this value, to round-off.

        Newton's method within the piece, kept inside a bracket that every iteration narrows.
        """
        rising = self.coefficients[-1, 0] > self.coefficients[0, 0]
        sign = 1.0 if rising else -1.0
        starts = sign * self.coefficients[:, 0]
        last = len(starts) - 1
        if isinstance(value, Tensor):
            known = torch.from_numpy(starts).to(value.device)
            places = torch.searchsorted(known, (sign * value.detach()).contiguous(), right=True)
            pieces = (places - 1).clamp(0, last)
            c = torch.from_numpy(self.coefficients).to(value.device)[pieces].unbind(-1)
            v, low, high = (torch.full_like(value, start) for start in (0.5, 0.0, 1.0))
            for _ in range(_NEWTON):
                off = torch.as_tensor(_cubic(v, *c) - value)
                low, high = (
                    torch.where(sign * off < 0, v, low),
                    torch.where(sign * off < 0, high, v),
                )
                v = v - off / _slope(v, *c)
                v = torch.where((v > low - _SPARE) & (v < high + _SPARE), v, 0.5 * (low + high))
            return pieces + v
        piece = min(max(int(np.searchsorted(starts, sign * value, side="right")) - 1, 0), last)
        k, (u, bottom, top) = self.coefficients[piece].tolist(), (0.5, 0.0, 1.0)
        for _ in range(_NEWTON):
            gap = float(_cubic(u, *k) - value)
            bottom, top = (u, top) if sign * gap < 0 else (bottom, u)
            u -= gap / float(_slope(u, *k))
            u = u if bottom - _SPARE < u < top + _SPARE else 0.5 * (bottom + top)
        return piece + u


_SPARE = 1e-13  # margin of the bracket: rounding may put a root at its end slightly outside
_NEWTON = 24  # published tables need 6; if every iteration only halves the bracket, it is 6e-8


def _slope(u: Scalar, c0: Scalar, c1: Scalar, c2: Scalar, c3: Scalar) -> Scalar:
    return (3.0 * c3 * u + 2.0 * c2) * u + c1


def _cubic(u: Scalar, c0: Scalar, c1: Scalar, c2: Scalar, c3: Scalar) -> Scalar:
    return ((c3 * u + c2) * u + c1) * u + c0


def _as_float64(table: Sequence[float] | np.ndarray | Tensor) -> np.ndarray:
    if isinstance(table, Tensor):
        table = table.detach().cpu().double().numpy()
    return np.asarray(table, dtype=np.float64)
