"""The protocol of correctors: moves at one noise level that keep its distribution."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ..model import Predictor
from ..noise import NoiseStream
from ..sde.knot import Knot


@runtime_checkable
class Corrector(Protocol):
    """A Markov chain whose stationary law is, nearly, the marginal at one knot.

    Correctors are frozen values, as solvers are. They draw only from `noise.normal()`: a move
    stays at one time of the process, so it uses no Brownian increment.
    """

    @property
    def evals_per_call(self) -> int:
        """Network evaluations per sample in one call."""

    def __call__(self, model: Predictor, x: Tensor, t: Knot, noise: NoiseStream) -> Tensor:
        """The corrected state at t, shape (B, *). The model is evaluated only at t."""
