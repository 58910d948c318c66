"""Steps against quality as a picture."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import require
from .canvas import figure, row, save, styled
from .series import DRAWN, GREY, PALETTE, axis_title, highlighted
from .table import Cell, Table

MARKERS = ("o", "s", "^", "D", "v")
_SIZE = 9  # of labels, in points
_AXES = 3.6  # width of the axes without the labels, in inches


def steps_quality(table: Table, path: str | Path, *, metrics: Sequence[str] | None = None) -> None:
    """Metrics against network evaluations, a panel a metric.

    Up to five rows stand out (`scoresde.bench.series.highlighted`): in colour, with 95 % intervals
    and a label where their line ends. All others are thin and grey, and named below. Solvers that
    choose their own steps are single points. The dotted line is what true samples score.
    """
    chosen = list(metrics or table.metrics[:DRAWN])
    brief, bright = table.short_labels(), highlighted(table, chosen)
    rest = [label for label in brief if label not in bright]
    with styled():
        width = _AXES + 0.9 + max((_inches(brief[label]) for label in bright), default=0.0)
        names = ", ".join(brief[label] for label in rest)
        below = textwrap.fill(f"grey: {names}", int(15 * width * len(chosen)))
        drawn = figure((width * len(chosen), 4.2 + 0.15 * below.count("\n")))
        for axes, metric in zip(row(drawn, len(chosen)), chosen, strict=True):
            for label in [*rest, *reversed(bright)]:
                rank = bright.index(label) if label in bright else None
                cells = _cells(table, label, metric)
                _curve(axes, cells, metric, rank, brief[label], alone=_alone(table, cells))
            _scales(axes, table, metric)
            _floor(axes, table, metric)
            _end_labels(axes, table, metric, {label: brief[label] for label in bright})
            axes.set_xlabel("network evaluations per sample")
            axes.set_ylabel(axis_title(table, metric))
        if rest:
            drawn.supxlabel(below, fontsize=8, color="#666666")
        save(drawn, path)


# -- helpers -----------------------------------------------------------------------------------


def _cells(table: Table, label: str, metric: str) -> list[Cell]:
    """The cells of a row that have a metric, by rising cost."""
    found = [c for c in table.cells if table.label(c) == label and metric in c.scores]
    return sorted(found, key=lambda c: c.nfe)


def _alone(table: Table, cells: Sequence[Cell]) -> bool:
    """Whether a row of one point lies beyond all budgets, where its name is in nobody's way."""
    return len(cells) == 1 and cells[0].nfe > 1.5 * max(table.budgets, default=math.inf)


def _inches(label: str) -> float:
    """How wide a label is."""
    path = require("matplotlib.textpath", "plot").TextPath((0, 0), label, size=_SIZE)
    return float(path.get_extents().width) / 72


def _curve(
    axes: Any,
    cells: Sequence[Cell],
    metric: str,
    rank: int | None,
    label: str,
    *,
    alone: bool,
) -> None:
    """A row: of a rank, in its colour with intervals, or thin and grey."""
    if not cells:
        return
    nfe = np.array([c.nfe for c in cells])
    value, low, high = np.array([c.scores[metric][:3] for c in cells]).T
    if rank is None:
        mark = "o" if len(cells) == 1 else ""
        axes.plot(nfe, value, color=GREY, linewidth=0.8, marker=mark, markersize=3, label=label)
        if alone:
            axes.annotate(
                label, (nfe[0], value[0]), (4, 5), textcoords="offset points", ha="right",
                fontsize=7, color="#666666",
            )  # fmt: skip
        return
    bars = np.nan_to_num(np.stack([value - low, high - value]).clip(min=0))
    axes.errorbar(
        nfe, value, yerr=bars, color=PALETTE[rank], marker=MARKERS[rank], markersize=5.5,
        linewidth=1.8, elinewidth=1.0, capsize=2.5, label=label, zorder=4,
    )  # fmt: skip


def _scales(axes: Any, table: Table, metric: str) -> None:
    """Logarithmic axes that hold every value and every interval."""
    cells = [c for c in table.cells if metric in c.scores]
    scores = [c.scores[metric] for c in cells]
    scores += [floor] if (floor := table.setup.floor.get(metric)) else []
    ends = [v for score in scores for v in score[:3] if math.isfinite(v)]
    values = [score.value for score in scores if math.isfinite(score.value)]
    axes.set_xscale("log")
    if not values:
        return
    if min(values) > 0:
        # A bar that reaches 0 goes down to the edge: a logarithmic axis has no place for its end.
        low, high = min(v for v in ends if v > 0), max(ends)
        axes.set_yscale("log")
        room = max(1.15, (high / low) ** 0.05)
        axes.set_ylim(low / room, high * room)
        if high / low < 30:  # no two powers of ten to read: numbers between them too
            axes.yaxis.set_minor_formatter(_sparse)
    else:  # an unbiased distance may fall below 0: linear where noise rules, logarithmic above
        # A metric of a user's own may have no interval.
        spans = [score.high - score.low for score in scores if score.high > score.low]
        noise = float(np.median(spans or [abs(score.value) + 1e-12 for score in scores]))
        bend = max(1e-12, 10.0 ** round(math.log10(noise)))
        axes.set_yscale("symlog", linthresh=bend, linscale=0.6)
        axes.set_ylim(min(ends) - 0.2 * bend, max(*ends, bend) * 1.3)
    ticks = sorted({c.nfe for c in cells if c.budget is not None})
    nice = [b for b in table.budgets if ticks and ticks[0] <= b <= 1.2 * ticks[-1]]
    nice += sorted({round(c.nfe) for c in cells if c.budget is None and c.nfe > 1.5 * ticks[-1]}
                   if ticks else set())[-1:]  # fmt: skip
    axes.set_xticks(nice, [str(b) for b in nice])
    axes.xaxis.minorticks_off()
    first, last = min(c.nfe for c in cells), max(c.nfe for c in cells)
    axes.set_xlim(first / 1.15, last * (1.15 if cells[-1].budget is not None else 1.3))


def _sparse(x: float, position: int) -> str:
    """Labels of the ticks between powers of ten: 2 and 5 only."""
    return f"{x:g}" if round(x / 10.0 ** math.floor(math.log10(x))) in (2, 5) else ""


def _floor(axes: Any, table: Table, metric: str) -> None:
    floor = table.setup.floor.get(metric)
    if floor is not None and math.isfinite(floor.value):
        axes.axhline(floor.value, color="#444444", linewidth=1, linestyle=":")
        axes.annotate(
            "true samples", (0.01, floor.value), xycoords=("axes fraction", "data"), ha="left",
            va="bottom", fontsize=8, color="#444444", zorder=5,
        )  # fmt: skip


def _end_labels(axes: Any, table: Table, metric: str, brief: Mapping[str, str]) -> None:
    """A label at the end of each line, to its right; those that would overlap are moved apart."""
    ends = {}
    for label in brief:
        if cells := _cells(table, label, metric):
            ends[label] = (cells[-1].nfe, cells[-1].scores[metric].value)
    if not ends:
        return
    left, right = axes.get_xlim()
    widest = max(math.log(x) for x, _ in ends.values())
    # A share of the width of the axes, which are made the wider the longer the labels are.
    whole = _AXES + max(map(_inches, brief.values()))
    room = (max(_inches(brief[label]) for label in ends) + 0.25) / whole
    # The axis goes on to the right until the longest label fits in.
    span = max(math.log(right / left), (widest - math.log(left)) / (1 - min(room, 0.6)))
    axes.set_xlim(left, left * math.exp(span))
    place = axes.transScale + axes.transLimits
    at = {label: place.transform(end) for label, end in ends.items()}
    order = sorted(at, key=lambda label: float(at[label][1]))
    heights = _apart([float(at[label][1]) for label in order], 0.058)
    ranks = list(brief)
    for label, height in zip(order, heights, strict=True):
        x, _ = at[label]
        axes.annotate(
            brief[label], ends[label], (x + 0.03, height), textcoords="axes fraction",
            fontsize=_SIZE, va="center", color="#222222", annotation_clip=False, zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
            arrowprops={
                "arrowstyle": "-", "color": PALETTE[ranks.index(label)], "linewidth": 1.0,
                "shrinkA": 0, "shrinkB": 3, "relpos": (0.0, 0.5),
            },
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved as little as may be, at least `gap` from one another, in (0, 1)."""
    groups: list[list[float]] = []  # each: sum of wished places of its first, and its size
    for k, height in enumerate(heights):
        groups.append([height - k * gap, 1.0])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, size = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += size
    most = 1.0 - gap / 2 - (len(heights) - 1) * gap
    starts = [
        max(gap / 2, min(most, total / size)) for total, size in groups for _ in range(int(size))
    ]
    return [start + k * gap for k, start in enumerate(starts)]
