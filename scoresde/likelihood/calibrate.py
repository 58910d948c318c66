"""Fit the nodes of a fixed grid to a model, by the local errors of a pilot batch."""

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
"""Share of the nodes that is evenly spaced, since other samples may differ from the pilot."""


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
    """Fit a `FixedGrid` to a model, so that every step has an equal error of the log-density.

    The pilot follows a dense even grid once, which gives local errors. Then it follows the fitted
    grid once, which gives `pilot_error`. Probes are fixed, so the result is not random. The cost is
    `dense + nodes` evaluations for each pilot sample.

    Args:
        model: the model.
        pilot: a few typical samples, such as 4 to 16 images, shape (B, *).
        nodes, order: nodes and order of the fitted grid.
        dense: nodes of the even grid; 4 times `nodes` by default.
        t_min, divergence, frame, end, seeds: the same as in the later call of `log_likelihood`.

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
    """A pilot batch solved on a dense even grid, from which coarser grids are made.

    Args:
        model, pilot: see `calibrated_grid`.
        dense: number of nodes of the dense grid.
        order: order of all grids.
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
        # An error of the state changes the prior's log-density too, so both are added.
        off = (found.log_det - self.truth.log_det) + _end(found.z) - _end(self.truth.z)
        off = off.abs() / self.size
        stated = float(found.error.quantile(0.75)) / self.size
        return Fitted(replace(grid, pilot_error=float(off.median())), float(off.mean()), stated)


def _end(z: Tensor) -> Tensor:
    return -0.5 * z.flatten(1).square().sum(1)


def _places(dense: FixedGrid, errors: np.ndarray, nodes: int, order: int) -> tuple[float, ...]:
    """Fractions such that (local error)^(1/(order + 1)) is equal over all intervals."""
    # A local error grows like step^(order + 1), so this root is proportional to the nodes needed.
    at = np.asarray(dense.taus(0.0, 1.0))
    share = np.maximum(errors, 0.0) ** (1 / (order + 1)) / np.diff(at)
    share[: order - 1] = share[order - 1]  # the first steps have lower order and are graded
    padded = np.pad(share, 1, mode="edge")
    share = np.maximum(np.maximum(padded[:-2], padded[1:-1]), padded[2:]) * np.diff(at)
    share = (1 - _FLOOR) * share / max(share.sum(), 1e-300) + _FLOOR * np.diff(at)
    total = np.concatenate([[0.0], np.cumsum(share)])
    inner = nodes - (order - 1 if nodes > 2 * order else 0)
    return graded(nodes, order, np.interp(np.linspace(0, total[-1], inner), total, at))
