r"""The frame in which the log-density is integrated.

With y = x/alpha and tau = log rho the flow of data with mean mu and covariance C is linear, and
the whitened state

    z = S^(-1/2) (y - mu),   S = C + rho^2 I,   dz/dtau = S^(-1/2) rho eps - rho^2 S^(-1) z

stands still where the data are Gaussian. The trace is the same in any linear frame, so what is
left to integrate numerically is

    tr(d(rho eps)/dy) - rho^2 tr S^(-1),

and the Gaussian part is half the change of log det S.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..scalar import Scalar


class Frame(ABC):
    """A linear change of variables that moves with rho. Times are tau, states (B, *)."""

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
    def trace(self, tau: Scalar) -> Scalar:
        """rho^2 tr S^(-1), the part of the trace that is known: a number, or shape (B,)."""

    @abstractmethod
    def half_log_det(self, tau: float) -> float:
        """(1/2) log det S, up to a constant: the integral of `trace`."""


class NoFrame(Frame):
    """z = y."""

    def enter(self, y: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return y

    def leave(self, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return z

    def velocity(self, dy: Tensor, z: Tensor, tau: Scalar) -> Tensor:
        """See `Frame`."""
        return dy

    def trace(self, tau: Scalar) -> Scalar:
        """See `Frame`."""
        return torch.zeros_like(tau) if isinstance(tau, Tensor) else 0.0

    def half_log_det(self, tau: float) -> float:
        """See `Frame`."""
        return 0.0
