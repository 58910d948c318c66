"""Samples and densities of the plane as pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..likelihood import log_likelihood
from ..model import Predictor, event_shape_of
from ..sampling.run import sample
from .canvas import figure, row, save, styled
from .series import GREY, PALETTE

_COLUMNS = 3  # panels side by side


def scatter(
    samples: Tensor | Mapping[str, Tensor],
    path: str | Path,
    *,
    truth: Tensor | None = None,
    title: str = "",
) -> None:
    """Points of the plane, a panel each, all on the same axes.

    The axes hold nearly all points and are not stretched by a few that went astray: a panel says
    how many are outside or not finite.

    Args:
        samples: shape (B, 2), or several of that shape by title.
        path: the picture to write.
        truth: true samples, shape (B, 2), drawn in grey below each.
        title: of a single panel.

    Raises:
        ShapeError: for samples of another shape.
    """
    panels = dict(samples) if isinstance(samples, Mapping) else {title: samples}
    points = {name: _plane(x) for name, x in panels.items()}
    true = None if truth is None else _plane(truth)
    left, right, bottom, top = window([*points.values(), *([] if true is None else [true])])
    with styled():
        columns = min(len(points), _COLUMNS)
        drawn = figure((3.9 * columns, 4.1 * math.ceil(len(points) / columns)))
        for axes, (name, x) in zip(row(drawn, len(points), columns), points.items(), strict=True):
            size = max(1.5, min(14.0, 6000.0 / max(1, len(x))))
            if true is not None:
                axes.scatter(
                    *true.T, s=size, color=GREY, linewidths=0, label="true samples", zorder=2
                )
            axes.scatter(
                *x.T, s=size, color=PALETTE[0], alpha=0.7, linewidths=0, label="samples", zorder=3
            )
            axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=name)
            axes.set(xlabel="$x_1$", ylabel="$x_2$")
            inside = (x[:, 0] >= left) & (x[:, 0] <= right) & (x[:, 1] >= bottom) & (x[:, 1] <= top)
            if lost := len(x) - int(inside.sum()):
                _note(axes, f"{lost} of {len(x)} outside or not finite")
            if true is not None:
                axes.legend(loc="upper right", fontsize=8, markerscale=2)
        save(drawn, path)


def log_density_map(
    model: Predictor,
    path: str | Path,
    *,
    samples: Tensor | None = None,
    side: int = 100,
    depth: float = 12.0,
    title: str = "",
) -> None:
    """log p of a model of the plane, in nats, in colour: of its closed form where it has one, else
    of its probability flow (`log_likelihood`, side^2 points at some hundred evaluations each).

    Args:
        model: of samples of shape (2,).
        path: the picture to write.
        samples: shape (B, 2), which decide what part of the plane is shown, and are drawn on top;
            without them it is what the model's own samples fill.
        side: points along each side.
        depth: nats below the highest point at which the colours end.
        title: of the picture.

    Raises:
        ShapeError: for samples, or a model of samples, of another shape.
        ConfigError: for a side below 2, or a depth that is not positive.
    """
    if side < 2 or not 0 < depth < math.inf:
        raise ConfigError(
            f"a map needs side=2 or more and a positive depth, got side={side!r}, depth={depth!r}"
        )
    event = event_shape_of(model)
    if event not in (None, (2,)):
        raise ShapeError(f"a map is of models of shape (2,), got one of shape {event}")
    shown = sample(model, shape=(1000, 2), seeds=0).x if samples is None else samples
    x = _plane(shown)
    left, right, bottom, top = window([x], 0.15)
    across, up = np.linspace(left, right, side), np.linspace(bottom, top, side)
    grid = torch.from_numpy(np.stack(np.meshgrid(across, up), -1).reshape(-1, 2))
    closed = getattr(model, "log_prob", None)
    nats = log_likelihood(model, grid).nats if closed is None else closed(grid)
    values = nats.detach().cpu().numpy().reshape(side, side)
    best = float(np.nanmax(values))
    with styled():
        drawn = figure((5.0, 4.2))
        (axes,) = row(drawn, 1)
        colors = axes.pcolormesh(
            across, up, values, vmin=best - depth, vmax=best, cmap="viridis", shading="nearest"
        )
        axes.grid(False)
        if samples is not None:
            axes.scatter(*x.T, s=3, color="white", edgecolors="black", linewidths=0.3)
        axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", title=title)
        axes.set(xlabel="$x_1$", ylabel="$x_2$")
        drawn.colorbar(colors, ax=axes, extend="min", label="$\\log p(x)$, nats")
        save(drawn, path)


def window(points: Sequence[np.ndarray], room: float = 0.04) -> tuple[float, float, float, float]:
    """(left, right, bottom, top) of a square that holds nearly all points, each (n, 2), with room
    at each side, as a share of its width.

    One point in 200 on each side counts as astray, if it is far beyond the others.
    """
    if not any(np.isfinite(x).all(1).any() for x in points):
        return -1.0, 1.0, -1.0, 1.0
    ends = []
    for axis in (0, 1):
        values = np.concatenate([x[np.isfinite(x).all(1), axis] for x in points])
        low, high = np.quantile(values, (0.005, 0.995))
        reach = 0.5 * (high - low)
        ends.append((max(values.min(), low - reach), min(values.max(), high + reach)))
    half = (0.5 + room) * max(high - low for low, high in ends) or 1.0
    (across, up) = ((low + high) / 2 for low, high in ends)
    return across - half, across + half, up - half, up + half


# -- helpers -----------------------------------------------------------------------------------


def _plane(x: Tensor) -> np.ndarray:
    if not isinstance(x, Tensor) or x.ndim != 2 or x.shape[1] != 2 or not len(x):
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"points of the plane have shape (B, 2), got {got}")
    found: np.ndarray = x.detach().cpu().double().numpy()
    return found


def _note(axes: Any, text: str) -> None:
    axes.text(0.02, 0.02, text, transform=axes.transAxes, fontsize=8, color="#666666")
