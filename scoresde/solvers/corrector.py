"""What a corrector is: moves at one noise level that leave its distribution as it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from ..model import Predictor
from ..noise import NoiseStream
from ..sde.knot import Knot


@runtime_checkable
class Corrector(Protocol):
    """A Markov chain whose stationary law is (nearly) the marginal at one knot.

    Correctors are frozen values, as solvers are, and draw from `noise.normal()` alone: what they
    do takes no time of the process.
    """

    @property
    def evals_per_call(self) -> int:
        """Network evaluations per sample of one call."""

    def __call__(self, model: Predictor, x: Tensor, t: Knot, noise: NoiseStream) -> Tensor:
        """The corrected state at t, shape (B, *); the model is asked at t alone."""
