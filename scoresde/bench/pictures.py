"""Samples and trajectories of a cell, as elements of an HTML page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from .figures import tile
from .plane import window
from .table import Cell

Frame = tuple[float, float, float, float]
"""(left, right, bottom, top) of a part of the plane."""

_SIDE = 160  # pixels of a picture of the plane
_START = 2.5  # half the width of what is shown of the starts, which are N(0, I)
_WAY = 250  # half the width of a picture of trajectories, in its own units
_TIMES = 8  # states of an image that are shown on its way
_GREY = (118, 118, 118)  # seen on white and on black


def frame(cells: Sequence[Cell]) -> Frame | None:
    """A square for the samples of all cells; None where there are no points of the plane.

    Cells that went astray do not stretch it: it is that of the cell in the middle, with room.
    """
    shown = [c.shown for c in cells if c.shown is not None and c.shown.shape[1:] == (2,)]
    squares = sorted((window([x.double().numpy()], 0.2) for x in shown), key=lambda w: w[1] - w[0])
    return squares[len(squares) // 2] if squares else None


def picture(cell: Cell, within: Frame | None = None) -> str:
    """The first samples: images side by side, or points of the plane; else nothing.

    Args:
        cell: the cell.
        within: the part of the plane that is shown; what all samples are in by default.
    """
    if cell.shown is None:
        return ""
    if _is_image(cell.shown):
        return _img(tile(cell.shown[:16]), "samples")
    if (within := within or frame([cell])) is None:
        return ""
    pixels, lost = _scatter(cell.shown, within)
    note = f"<small>{lost} of {len(cell.shown)} outside or not finite</small>" if lost else ""
    return _img(pixels, "samples") + note


def way(cell: Cell, within: Frame | None = None) -> str:
    """How a few samples came from noise to data; nothing for what cannot be drawn.

    Args:
        cell: the cell.
        within: the part of the plane that samples are in; the starts are in a larger one.
    """
    states = cell.trajectory
    if states is None or len(states) < 3:
        return ""
    if _is_image(states[:, 0]):
        chosen = np.unique(np.linspace(0, len(states) - 1, _TIMES).round().astype(int))
        strips = states[torch.from_numpy(chosen), :2].transpose(0, 1).flatten(0, 1)
        return _img(tile(strips, columns=len(chosen)), "from noise to data")
    if states.shape[2:] != (2,):
        return ""
    left, right, bottom, top = within or (-_START, _START, -_START, _START)
    edge = max(_START, -left, right, -bottom, top)  # the starts are about (-2, 2), like the data
    scale = _WAY / edge
    lines = []
    for sample in states.transpose(0, 1).tolist():
        points = " ".join(f"{scale * x:.0f},{-scale * y:.0f}" for x, y in sample)
        lines.append(f'<polyline points="{points}"/>')
        x, y = sample[-1]
        lines.append(f'<circle cx="{scale * x:.0f}" cy="{-scale * y:.0f}" r="4"/>')
    return (
        f'<svg class="way" viewBox="{-_WAY} {-_WAY} {2 * _WAY} {2 * _WAY}" role="img" '
        f'aria-label="trajectories">{"".join(lines)}</svg>'
    )


def _scatter(points: Tensor, within: Frame) -> tuple[np.ndarray, int]:
    """Points of the plane as dots on a transparent ground, (side, side, 4), uint8; and how many of
    them are outside or not finite.
    """
    left, right, bottom, _ = within
    corner = torch.tensor([left, bottom], dtype=torch.float64)
    places = ((points.double() - corner) * (_SIDE / (right - left))).floor()
    inside = places[((places >= 0) & (places < _SIDE - 1)).all(1)].long()
    alpha = np.zeros((_SIDE, _SIDE))
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        np.add.at(alpha, (_SIDE - 2 - inside[:, 1].numpy() + dy, inside[:, 0].numpy() + dx), 0.6)
    canvas = np.empty((_SIDE, _SIDE, 4), np.uint8)
    canvas[..., :3] = _GREY
    canvas[..., 3] = (255 * alpha.clip(0, 1)).round()
    return canvas, len(points) - len(inside)


def _is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] in (1, 3)


def _img(pixels: np.ndarray, alt: str) -> str:
    buffer = io.BytesIO()
    require("matplotlib.image", "plot").imsave(buffer, pixels, format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{alt}" src="data:image/png;base64,{data}">'
