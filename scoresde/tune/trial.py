"""Runs from one set of starts: what a candidate is judged by."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ScoreSDEError
from ..grid import Grid
from ..sampling import sample
from ..solvers.base import Solver
from .metered import Metered

_ELEMENTS = 2**20  # of the state, at a time
_LOST = 1e3  # stands for the error of a coordinate that is not finite


class Candidate(NamedTuple):
    """A solver with its grid, and where they come from."""

    name: str
    solver: Solver
    grid: Grid


@dataclass(eq=False)
class Trial:
    """Starts with their true endpoints, all on the CPU.

    Attributes:
        model: what predicts.
        x: starts, shape (B, *).
        reference: true endpoints, shape (B, *), float64.
        weight: how many starts of the whole population each stands for, shape (B,), mean 1.
        typical: weight of the typical error in the objective.
    """

    model: Metered
    x: Tensor
    reference: Tensor
    weight: Tensor
    typical: float = 0.25

    def run(self, solver: Solver, grid: Grid) -> Tensor:
        """Endpoints, shape (B, *)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate that diverges is just a bad one
            parts = [
                sample(self.model, solver, grid, x=x, device=self.model.device)
                for x in torch.split(self.x, self._batch)
            ]
        return torch.cat([part.x.cpu() for part in parts])

    @property
    def _batch(self) -> int:
        return max(1, _ELEMENTS // self.x[0].numel())

    def errors(self, candidate: Candidate) -> Tensor:
        """Endpoint errors, shape (B, D), scaled so that a row's norm is its RMS over coordinates;
        very large where the candidate cannot be run at all.
        """
        try:
            return self.difference(self.run(candidate.solver, candidate.grid))
        except ScoreSDEError:
            return self.difference(torch.full_like(self.reference, torch.nan))

    def difference(self, x: Tensor) -> Tensor:
        """The errors of endpoints x, shape (B, D)."""
        size = self.reference[0].numel()
        found = (x.to(torch.float64) - self.reference).reshape(len(x), size)
        return found.nan_to_num(_LOST, _LOST, -_LOST).clamp(-_LOST, _LOST) / math.sqrt(size)

    def objective(self, errors: Tensor) -> float:
        """log RMS + `typical` times the log of the geometric mean: the few starts that rule the
        RMS, and the many that do not. Each term is free of scale, so neither drowns the other.
        """
        square = errors.square().sum(1)
        mean = float((self.weight * square).mean())
        logs = (square + self._floor(mean)).log()
        return 0.5 * math.log(mean + 1e-300) + self.typical * 0.5 * float(
            (self.weight * logs).mean()
        )

    def rate(self, candidate: Candidate) -> float:
        """The objective of a candidate."""
        return self.objective(self.errors(candidate))

    def slope(self, errors: Tensor) -> Tensor:
        """The weight of each start's squared error in the objective's gradient, shape (B,)."""
        square = errors.square().sum(1)
        mean = float((self.weight * square).mean())
        share = 1.0 / (mean + 1e-300) + self.typical / (square + self._floor(mean))
        return self.weight * share / len(square)

    def subset(self, count: int) -> Trial:
        """The first starts."""
        weight = self.weight[:count]
        return Trial(self.model, self.x[:count], self.reference[:count], weight / weight.mean())

    @staticmethod
    def _floor(mean: float) -> float:
        # An error far below the others is good enough: no start may rule by being perfect.
        return 1e-6 * mean + 1e-300
