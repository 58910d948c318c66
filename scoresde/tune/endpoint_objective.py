"""Candidates, and the objective of their endpoint errors from one set of starts."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import ScoreSDEError
from ..grid import Grid
from ..metrics import Estimate
from ..model import device_of
from ..sampling.run import sample
from ..solvers.solver import Solver
from .cost import Metered

_ELEMENTS = 2**20  # elements of the state in one batch, at most
_CACHED = 2**17  # the same on a CPU; larger batches make a network a third slower
_APART = 2**20  # seeds reserved for each number of `noise`; more than there are batches
_LOST = 1e3  # replaces the error of a coordinate that is not finite


class Candidate(NamedTuple):
    """A solver with its grid, and a name that tells their origin."""

    name: str
    solver: Solver
    grid: Grid


class Found(NamedTuple):
    """The result of a search.

    Attributes:
        best: the best candidate.
        metric: name of the quantity that was minimised.
        error: its value on starts that the search did not use.
        cost: evaluations of one sample that the search took.
        ratio: `error` divided by that of the default, with a paired interval; None for a metric of
            samples.
        typical: the same ratio for the median endpoint error; None for other metrics.
        change: for a metric of samples, `error` minus that of the default, with a paired interval.
    """

    best: Candidate
    metric: str
    error: float
    cost: int
    ratio: Estimate | None = None
    typical: Estimate | None = None
    change: Estimate | None = None


def samples(model: Metered, x: Tensor, candidate: Candidate, noise: int = 0) -> Tensor:
    """Samples of a candidate from starts x, shape (B, *), on the CPU.

    The number `noise` selects the noise: the same number gives the same noise.

    Raises:
        ScoreSDEError: for a candidate that cannot be run.
    """
    _, solver, grid = candidate
    device = device_of(model)
    most = _CACHED if device.type == "cpu" else _ELEMENTS
    parts = torch.split(x, max(1, most // x[0].numel()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a candidate that diverges gets a bad value, no warning
        ends = [
            sample(model, solver, grid, x=part, seeds=_APART * noise + k, device=device).x
            for k, part in enumerate(parts)
        ]
    return torch.cat([end.cpu() for end in ends])


@dataclass(eq=False)
class Trial:
    """Starts with their true endpoints, all on the CPU.

    Attributes:
        model: the model.
        x: starts, shape (B, *).
        reference: true endpoints, shape (B, *), float64.
        weight: weight of each start, 1 / sampling probability, shape (B,), mean 1.
        typical: weight of the typical error in the objective.
    """

    model: Metered
    x: Tensor
    reference: Tensor
    weight: Tensor
    typical: float = 0.25

    def run(self, candidate: Candidate) -> Tensor:
        """Endpoints of a candidate, shape (B, *)."""
        return samples(self.model, self.x, candidate)

    def errors(self, candidate: Candidate) -> Tensor:
        """Endpoint errors, shape (B, D), scaled so that a row's norm is its RMS over coordinates.

        They are very large if the candidate cannot be run.
        """
        try:
            return self.difference(self.run(candidate))
        except ScoreSDEError:
            return self.difference(torch.full_like(self.reference, torch.nan))

    def difference(self, x: Tensor) -> Tensor:
        """The errors of endpoints x, shape (B, D)."""
        size = self.reference[0].numel()
        found = (x.to(torch.float64) - self.reference).reshape(len(x), size)
        return found.nan_to_num(_LOST, _LOST, -_LOST).clamp(-_LOST, _LOST) / math.sqrt(size)

    def objective(self, errors: Tensor) -> float:
        """log RMS error + `typical` times the log of the geometric mean error.

        A few starts dominate the first term; the second describes the others. A change of scale
        adds a constant to each, so their balance does not depend on the size of errors.
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
        """The trial with only the first `count` starts."""
        weight = self.weight[:count]
        return Trial(self.model, self.x[:count], self.reference[:count], weight / weight.mean())

    @staticmethod
    def _floor(mean: float) -> float:
        # An error far below the others is small enough: log(0) of one start must not dominate.
        return 1e-6 * mean + 1e-300
