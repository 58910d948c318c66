"""Figures, all written to files: grids of images, trajectories, points and densities of the plane,
steps against quality.

Colours are those of `scoresde.bench.series`; series differ in their markers too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError
from ..sampling.run import StepInfo
from ..training.losses import NoiseLevelLoss
from .canvas import figure, row, save, styled
from .curves import steps_quality
from .plane import log_density_map, scatter
from .series import PALETTE

__all__ = [
    "log_density_map",
    "loss_per_noise_level",
    "sample_grids",
    "scatter",
    "steps_quality",
    "tile",
    "trajectories",
]


def tile(
    images: Tensor, columns: int | None = None, value_range: tuple[float, float] = (-1.0, 1.0)
) -> np.ndarray:
    """Tile images (B, 1 or 3, H, W) into one picture, uint8, with thin lines between them."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ShapeError(f"images must have shape (B, 1 or 3, H, W), got {tuple(images.shape)}")
    low, high = value_range
    scaled = ((images.detach().cpu().float() - low) / (high - low)).clamp(0, 1).nan_to_num(0.5)
    count, channels, height, width = scaled.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    canvas = torch.full((channels, rows * (height + 1) - 1, columns * (width + 1) - 1), 0.5)
    for k, image in enumerate(scaled):
        top, left = (k // columns) * (height + 1), (k % columns) * (width + 1)
        canvas[:, top : top + height, left : left + width] = image
    pixels: np.ndarray = (canvas * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels.repeat(3, 2) if channels == 1 else pixels


def sample_grids(panels: Mapping[str, Tensor], path: str | Path) -> None:
    """One tiled grid of images a panel, side by side, each below its title."""
    with styled():
        drawn = figure((3.3 * len(panels), 3.6))
        for axes, (title, images) in zip(row(drawn, len(panels)), panels.items(), strict=True):
            _picture(axes, tile(images))
            axes.set_title(title)
        save(drawn, path)


def trajectories(
    runs: Mapping[str, Sequence[StepInfo]], path: str | Path, *, digits: int = 3
) -> None:
    """Draw the first samples of each run from noise to data, one column for each time.

    States are divided by sqrt(alpha^2 + sigma^2), so that all have the same scale.
    """
    with styled():
        drawn = figure((9.5, 1.1 + 1.05 * digits * len(runs)))
        grid = drawn.subplots(len(runs), 1, squeeze=False)[:, 0]
        for axes, (title, steps) in zip(grid, runs.items(), strict=True):
            states = [info.x[:digits] / float(info.knot.radius) for info in steps]
            picture = torch.stack(states, 1).flatten(0, 1)
            _picture(axes, tile(picture, columns=len(steps)))
            width = picture.shape[-1] + 1
            axes.set_xticks(
                [width * (k + 0.5) - 1 for k in range(len(steps))],
                [_noise_level(info) for info in steps],
            )
            axes.xaxis.set_visible(True)
            axes.tick_params(length=0)
            axes.set_title(title, loc="left")
        drawn.supxlabel(r"noise level $\sigma/\alpha$", fontsize=10)
        save(drawn, path)


def loss_per_noise_level(curves: Mapping[str, NoiseLevelLoss], path: str | Path) -> None:
    """Plot the squared error of eps against half log-SNR, one curve for each model.

    The band around a curve is plus or minus one standard error.

    The area under a curve is the diffusion term of the variational bound, in nats per dimension.

    Args:
        curves: from `scoresde.training.losses.loss_per_noise_level`, by title.
        path: the picture to write.
    """
    with styled():
        drawn = figure((6.4, 4.2))
        (axes,) = row(drawn, 1)
        for k, (title, curve) in enumerate(curves.items()):
            lam, loss, stderr = (part.cpu().numpy() for part in curve)
            color = PALETTE[k % len(PALETTE)]
            area = abs(float(torch.trapezoid(curve.loss, curve.lam)))
            axes.plot(lam, loss, color=color, linewidth=1.4, label=f"{title}: area {area:.3g}")
            axes.fill_between(
                lam, loss - stderr, loss + stderr, color=color, alpha=0.2, linewidth=0
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel(r"half log-SNR $\log(\alpha/\sigma)$")
        axes.set_ylabel(r"$|\epsilon - \epsilon_\theta|^2 / D$")
        axes.legend(loc="best", fontsize=9)
        save(drawn, path)


# -- helpers -----------------------------------------------------------------------------------


def _noise_level(info: StepInfo) -> str:
    rho = float(info.knot.rho)
    return f"{rho:.0f}" if rho == 0 or rho >= 10 else f"{rho:.2g}"


def _picture(axes: Any, pixels: np.ndarray) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.grid(False)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
