"""Figures written to files: sample grids, trajectories, quality against evaluations.

Colours are from Okabe & Ito, "Color Universal Design", 2008; readers with any colour vision can
distinguish them. Series also differ in their markers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ShapeError, require
from ..sampling.run import StepInfo
from ..training.losses import NoiseLevelLoss

if TYPE_CHECKING:
    from .table import Cell, Table

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

_STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


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
    """Draw panels side by side: each is a tiled grid of images below its title."""
    with _styled():
        figure = _figure((3.3 * len(panels), 3.8))
        for axes, (title, images) in zip(_row(figure, len(panels)), panels.items(), strict=True):
            _picture(axes, tile(images))
            axes.set_title(title)
        _save(figure, path)


def trajectories(
    runs: Mapping[str, Sequence[StepInfo]], path: str | Path, *, digits: int = 3
) -> None:
    """Draw the first samples of each run from noise to data, one column for each time.

    States are divided by sqrt(alpha^2 + sigma^2), so that all have the same scale.
    """
    with _styled():
        figure = _figure((9.5, 1.1 + 1.05 * digits * len(runs)))
        grid = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
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
        figure.supxlabel(r"noise level $\sigma/\alpha$", fontsize=10)
        _save(figure, path)


def steps_quality(table: Table, path: str | Path, *, metrics: Sequence[str] | None = None) -> None:
    """Plot metrics against network evaluations, one panel for each, with 95 % intervals.

    A solver that chooses its own steps is a single point. The dotted line is the floor, the value
    that true samples have.
    """
    chosen = list(metrics or table.metrics)
    style = {name: k for k, name in enumerate(dict.fromkeys(table.label(c) for c in table.cells))}
    with _styled():
        figure = _figure((5.2 * len(chosen), 4.0 + 0.2 * math.ceil(len(style) / 3)))
        handles: dict[str, Any] = {}
        for axes, metric in zip(_row(figure, len(chosen)), chosen, strict=True):
            for label, k in style.items():
                cells = [c for c in table.cells if table.label(c) == label and metric in c.scores]
                if cells:
                    handles[label] = _curve(axes, cells, metric, k)
            if floor := table.setup.floor.get(metric):
                axes.axhline(floor.value, color="#666666", linewidth=1, linestyle=":")
                axes.annotate(
                    "true samples", (1, floor.value), xycoords=("axes fraction", "data"),
                    ha="right", va="bottom", fontsize=9, color="#666666",
                )  # fmt: skip
            _scales(axes, table, metric)
            axes.set_xlabel("network evaluations per sample")
            axes.set_title(metric)
        figure.legend(
            handles.values(),
            [name.partition("(backend")[0] for name in handles],
            loc="outside lower center",
            ncols=4,
            fontsize=9,
        )
        _save(figure, path)


def loss_per_noise_level(curves: Mapping[str, NoiseLevelLoss], path: str | Path) -> None:
    """Plot the squared error of eps against half log-SNR, one curve for each model.

    The band around a curve is plus or minus one standard error.

    The area under a curve is the diffusion term of the variational bound, in nats per dimension.

    Args:
        curves: from `scoresde.training.losses.loss_per_noise_level`, by title.
        path: the picture to write.
    """
    with _styled():
        figure = _figure((6.4, 4.2))
        (axes,) = _row(figure, 1)
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
        _save(figure, path)


# -- helpers -----------------------------------------------------------------------------------


def _curve(axes: Any, cells: Sequence[Cell], metric: str, k: int) -> Any:
    ordered = sorted(cells, key=lambda c: c.nfe)
    nfe = np.array([c.nfe for c in ordered])
    value, low, high = np.array([c.scores[metric][:3] for c in ordered]).T
    color, marker = PALETTE[k % len(PALETTE)], MARKERS[(k + k // len(PALETTE)) % len(MARKERS)]
    bars = np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
    return axes.errorbar(
        nfe, value, yerr=bars, color=color, marker=marker, markersize=5, linewidth=1.4,
        elinewidth=0.8, capsize=2,
    )  # fmt: skip


def _scales(axes: Any, table: Table, metric: str) -> None:
    values = [c.scores[metric].value for c in table.cells if metric in c.scores]
    axes.set_xscale("log")
    if min(values, default=0) > 0:
        axes.set_yscale("log")
    else:  # an unbiased distance can be negative: linear within the noise, logarithmic above
        scores = [c.scores[metric] for c in table.cells if metric in c.scores]
        # A user's metric may have no interval.
        spans = [score.high - score.low for score in scores if score.high > score.low]
        noise = float(np.median(spans or [abs(score.value) + 1e-12 for score in scores]))
        axes.set_yscale("symlog", linthresh=max(1e-12, 10.0 ** round(math.log10(noise))))
    ticks = sorted({c.nfe for c in table.cells if metric in c.scores and c.budget is not None})
    nice = [b for b in table.budgets if ticks and ticks[0] <= b <= 1.2 * ticks[-1]]
    axes.set_xticks(nice, [str(b) for b in nice])
    axes.xaxis.set_minor_formatter(lambda x, position: "")


def _noise_level(info: StepInfo) -> str:
    rho = float(info.knot.rho)
    return f"{rho:.0f}" if rho == 0 or rho >= 10 else f"{rho:.2g}"


def _figure(size: tuple[float, float]) -> Any:
    # Not pyplot: it would open a window and share state with the user's plots.
    return require("matplotlib.figure", "plot").Figure(size, layout="constrained")


def _row(figure: Any, count: int) -> Any:
    return figure.subplots(1, count, squeeze=False)[0]


def _picture(axes: Any, pixels: np.ndarray) -> None:
    axes.imshow(pixels, interpolation="nearest")
    axes.grid(False)
    axes.xaxis.set_visible(False)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)


def _styled() -> Any:
    return require("matplotlib", "plot").rc_context(_STYLE)


def _save(figure: Any, path: str | Path) -> None:
    figure.savefig(path, dpi=150)
