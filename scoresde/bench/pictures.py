"""Samples and trajectories of a cell, as elements of an HTML page."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from .figures import tile
from .table import Cell

_SIDE = 160  # pixels of a picture of the plane
_FRAME = 1.7  # half the picture's width; problems in the plane fill about (-1.2, 1.2)
_TIMES = 8  # states shown of a trajectory of an image
_GREY = (118, 118, 118)  # visible on white and on black


def picture(cell: Cell) -> str:
    """The first samples as a picture: tiled images, or points of the plane; else empty."""
    if cell.shown is None:
        return ""
    if _is_image(cell.shown):
        return _img(tile(cell.shown[:16]), "samples")
    return _img(_scatter(cell.shown), "samples") if cell.shown.shape[1:] == (2,) else ""


def way(cell: Cell) -> str:
    """Trajectories of a few samples from noise to data; empty if they cannot be drawn."""
    states = cell.trajectory
    if states is None or len(states) < 3:
        return ""
    if _is_image(states[:, 0]):
        chosen = np.unique(np.linspace(0, len(states) - 1, _TIMES).round().astype(int))
        strips = states[torch.from_numpy(chosen), :2].transpose(0, 1).flatten(0, 1)
        return _img(tile(strips, columns=len(chosen)), "from noise to data")
    if states.shape[2:] != (2,):
        return ""
    lines = []
    for sample in states.transpose(0, 1).tolist():
        points = " ".join(f"{100 * x:.0f},{-100 * y:.0f}" for x, y in sample)
        lines.append(f'<polyline points="{points}"/>')
        x, y = sample[-1]
        lines.append(f'<circle cx="{100 * x:.0f}" cy="{-100 * y:.0f}" r="4"/>')
    edge = 250
    return (
        f'<svg class="way" viewBox="{-edge} {-edge} {2 * edge} {2 * edge}" role="img" '
        f'aria-label="trajectories">{"".join(lines)}</svg>'
    )


def _scatter(points: Tensor) -> np.ndarray:
    """Points of the plane as dots on a transparent background, (side, side, 4), uint8."""
    places = ((points.double() / _FRAME + 1) * (_SIDE / 2)).floor().long()
    inside = places[((places >= 1) & (places < _SIDE - 1)).all(1)]
    alpha = np.zeros((_SIDE, _SIDE))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        np.add.at(alpha, (_SIDE - 1 - inside[:, 1].numpy() + dy, inside[:, 0].numpy() + dx), 0.6)
    canvas = np.empty((_SIDE, _SIDE, 4), np.uint8)
    canvas[..., :3] = _GREY
    canvas[..., 3] = (255 * alpha.clip(0, 1)).round()
    return canvas


def _is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] in (1, 3)


def _img(pixels: np.ndarray, alt: str) -> str:
    buffer = io.BytesIO()
    require("matplotlib.image", "plot").imsave(buffer, pixels, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'
