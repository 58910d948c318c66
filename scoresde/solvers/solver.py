"""What a solver is.

A solver is a frozen value with a pure `step`: the same arguments give the same result, and
nothing is kept in the solver. History travels in `carry`, randomness in `noise`, time in two
knots. `scoresde.sampling.run` owns everything else.
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
"""What a solver hands from one step to the next: any value, None where there is nothing."""


@dataclass(frozen=True)
class Solver(ABC):
    """A rule for going from one knot to the next.

    A subclass gives `order` as a class attribute (or a field) and `step` as a method; the other
    members have defaults that fit a deterministic rule with one evaluation a step.
    """

    @property
    @abstractmethod
    def order(self) -> float:
        """Global order of convergence in the number of steps.

        For a stochastic solver the weak order, that of the mean and the variance. Along a fixed
        Brownian path all of these converge with order 1 and none with more, since they see no more
        of the path than its increments.
        """

    @property
    def stochastic(self) -> bool:
        """Whether `step` draws noise."""
        return False

    @property
    def starts_at_zero_snr(self) -> bool:
        """Whether `step` may start where alpha = 0.

        The driver takes the first step of other solvers with the exact transition of `DDIM`, and
        hands them the grid from there on.
        """
        return False

    @property
    def compiles(self) -> bool:
        """Whether a whole run over a fixed grid is known to be one graph for `torch.compile`, with
        `fullgraph=True`. A claim, which `check_solver` tests.
        """
        return False

    @abstractmethod
    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """The state at s (cleaner), from x at t, shape (B, *).

        `s` is the clean end at most once, as the last target; the model is never asked there.
        """

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """The carry that the first step gets."""
        return None

    def evals(self, grid: Grid) -> int | None:
        """Network evaluations per sample over a grid of this solver's own steps; None where it
        depends on the data. For whole runs there is `evaluations`.
        """
        return grid.steps
