"""The base class of solvers.

A solver is a frozen value with a pure `step`: the same arguments give the same result, and the
solver stores nothing between steps. `carry` holds the history, `noise` the randomness, two knots
the times. `scoresde.sampling.run` does everything else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..sde.knot import Knot

Carry = Any
"""The value that a solver passes from one step to the next. None if it needs no history."""


@dataclass(frozen=True)
class Solver(ABC):
    """A rule that takes the state from one knot to the next.

    A subclass defines `order`, as a class attribute or a field, and the method `step`. The
    defaults of the other members fit a deterministic rule with one evaluation per step.
    """

    @property
    @abstractmethod
    def order(self) -> float:
        """Global order of convergence in the number of steps.

        For a stochastic solver this is the weak order, the order of the mean and the variance. The
        strong order, along a fixed Brownian path, is 1 for all of them: a solver that uses only
        the path's increments cannot have a higher one.
        """

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise."""
        return False

    @property
    def starts_at_zero_snr(self) -> bool:
        """Whether `step` may start where alpha = 0.

        If False, the driver takes that first step with the exact transition of `DDIM`, and the
        solver follows the rest of the grid.
        """
        return False

    @property
    def compiles(self) -> bool:
        """Whether `torch.compile(fullgraph=True)` compiles a run over a fixed grid to one graph.

        The solver claims this; `check_solver` tests the claim.
        """
        return False

    @abstractmethod
    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """The state at the cleaner knot s, from the state x at t; both have shape (B, *).

        Only the last step may have the clean end (sigma = 0) as s. Do not evaluate the model there.
        """

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """The `carry` of the first step."""
        return None

    def evals(self, grid: Grid) -> int | None:
        """Network evaluations per sample if this solver takes every step of the grid.

        None if they depend on the data. `evaluations` counts a whole run, with its first and last
        steps.
        """
        return grid.steps
