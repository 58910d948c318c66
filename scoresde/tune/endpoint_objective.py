"""Candidates, and runs of them from one set of starts."""

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

_ELEMENTS = 2**20  # of the state, at a time
_CACHED = 2**17  # the same on a CPU, where a network is a third slower with more
_APART = 2**20  # batches of one set of starts, at most
_LOST = 1e3  # stands for the error of a coordinate that is not finite


class Candidate(NamedTuple):
    """A solver with its grid, and where they come from."""

    name: str
    solver: Solver
    grid: Grid


class Found(NamedTuple):
    """What a search ends with.

    Attributes:
        best: the candidate.
        metric: what was made small.
        error: the metric, on starts that took no part.
        cost: evaluations of one sample that the search took.
        ratio: `error` over that of the default, with a paired interval; None for a metric of
            samples.
        typical: the same for the median endpoint error; None for other metrics.
        change: for a metric of samples, `error` less that of the default, with a paired interval.
    """

    best: Candidate
    metric: str
    error: float
    cost: int
    ratio: Estimate | None = None
    typical: Estimate | None = None
    change: Estimate | None = None


def samples(model: Metered, x: Tensor, candidate: Candidate, noise: int = 0) -> Tensor:
    """Where a candidate leads from starts x, shape (B, *), on the CPU; the same noise every time
    with one number for it.

    Raises:
        ScoreSDEError: for a candidate that cannot be run.
    """
    _, solver, grid = candidate
    device = device_of(model)
    most = _CACHED if device.type == "cpu" else _ELEMENTS
    parts = torch.split(x, max(1, most // x[0].numel()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a candidate that diverges is just a bad one
        ends = [
            sample(model, solver, grid, x=part, seeds=_APART * noise + k, device=device).x
            for k, part in enumerate(parts)
        ]
    return torch.cat([end.cpu() for end in ends])


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

    def run(self, candidate: Candidate) -> Tensor:
        """Endpoints, shape (B, *)."""
        return samples(self.model, self.x, candidate)

    def errors(self, candidate: Candidate) -> Tensor:
        """Endpoint errors, shape (B, D), scaled so that a row's norm is its RMS over coordinates;
        very large where the candidate cannot be run at all.
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
