"""Nodes where a model needs them: a fixed grid fitted to a pilot batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import NonFiniteError
from ..model import Predictor
from .divergence import Divergence, Hutchinson
from .end import EndLike
from .fixed_grid import FixedGrid, graded
from .frame import Frame
from .inputs import check_divergence
from .log_density import density_flow

_FLOOR = 0.2
"""Share of the nodes that stays even, whatever the pilot says: other samples may differ."""


def calibrated_grid(
    model: Predictor,
    pilot: Tensor,
    nodes: int = 41,
    *,
    order: int = 4,
    dense: int | None = None,
    t_min: float | None = None,
    divergence: Divergence | None = None,
    frame: Frame | None = None,
    end: EndLike = None,
    seeds: int | Sequence[int] = 0,
) -> FixedGrid:
    """A `FixedGrid` whose nodes make every step's share of the log-density's error alike.

    The pilot follows a dense even grid once, which gives the local errors, and the grid found
    once, which gives `pilot_error`; probes are fixed, so that chance plays no part. It costs
    `dense + nodes` evaluations for each pilot sample.

    Args:
        model: what predicts.
        pilot: a few typical samples, such as 4 to 16 images, shape (B, *).
        nodes, order: of the grid wanted.
        dense: nodes of the even grid; 4 times `nodes` by default.
        t_min, divergence, frame, end, seeds: as in `log_likelihood`, for which the grid is meant.

    Raises:
        NonFiniteError: if a pilot sample fails.
    """
    seen = Pilot(
        model, pilot, dense or 4 * nodes, order,
        t_min=t_min, divergence=divergence, frame=frame, end=end, seeds=seeds,
    )  # fmt: skip
    return seen.grid(nodes).grid


class Fitted(NamedTuple):
    """A grid, and its errors on the pilot in nats per dimension.

    Attributes:
        grid: the grid.
        error: mean distance to the dense grid.
        stated: the upper quartile of its own error estimates.
    """

    grid: FixedGrid
    error: float
    stated: float


class Pilot:
    """A pilot batch on a dense even grid, from which coarser ones are made.

    Args:
        model, pilot: see `calibrated_grid`.
        dense: nodes.
        order: of all grids.
        settings: t_min, divergence, frame, end, seeds.

    Raises:
        NonFiniteError: if a sample fails.
    """

    def __init__(
        self, model: Predictor, pilot: Tensor, dense: int, order: int = 4, **settings: Any
    ) -> None:
        rule = check_divergence(settings.pop("divergence", None), pilot.shape[1:].numel())
        if isinstance(rule, Hutchinson):
            rule = replace(rule, fresh=False)
        flow, _, x = density_flow(model, pilot, divergence=rule, **settings)
        self.flow, self.size = flow.fixed(), max(pilot[0].numel(), 1)
        self.dense = FixedGrid(dense, order)
        with torch.no_grad():
            self.start = self.flow.start(x)
            self.truth, local = self.dense.follow(self.flow, self.start)
        if self.truth.failures:
            raise NonFiniteError(f"pilot samples failed: {self.truth.failures}; choose others")
        self.local = local.mean(1).cpu().numpy()
        self.error = float(self.truth.error.mean()) / self.size

    def grid(self, nodes: int) -> Fitted:
        """The grid of so many nodes, with its errors on the pilot."""
        order = self.dense.order
        grid = FixedGrid(nodes, order, _places(self.dense, self.local, nodes, order))
        with torch.no_grad():
            found = grid.run(self.flow, self.start)
        # A density error of the state moves the end prior too, so the two go together.
        off = (found.log_det - self.truth.log_det) + _end(found.z) - _end(self.truth.z)
        off = off.abs() / self.size
        stated = float(found.error.quantile(0.75)) / self.size
        return Fitted(replace(grid, pilot_error=float(off.median())), float(off.mean()), stated)


def _end(z: Tensor) -> Tensor:
    return -0.5 * z.flatten(1).square().sum(1)


def _places(dense: FixedGrid, errors: np.ndarray, nodes: int, order: int) -> tuple[float, ...]:
    """Fractions between which (local error)^(1/(order + 1)) has equal shares."""
    # A local error grows as the step to the power order + 1, so its root is a share of nodes.
    at = np.asarray(dense.taus(0.0, 1.0))
    share = np.maximum(errors, 0.0) ** (1 / (order + 1)) / np.diff(at)
    share[: order - 1] = share[order - 1]  # the start is of lower order, and graded
    padded = np.pad(share, 1, mode="edge")
    share = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:]) * np.diff(at)
    share = (1 - _FLOOR) * share / max(share.sum(), 1e-300) + _FLOOR * np.diff(at)
    total = np.concatenate([[0.0], np.cumsum(share)])
    inner = nodes - (order - 1 if nodes > 2 * order else 0)
    return graded(nodes, order, np.interp(np.linspace(0, total[-1], inner), total, at))
