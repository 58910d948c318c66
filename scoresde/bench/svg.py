"""A plot of series with intervals as SVG, for light and dark pages.

Colours come from the page's style sheet (classes s0, s1, ... and the colour of text), so one
drawing works in both modes. Every point has a `<title>`, which a browser shows as a tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from ..metrics import Estimate
from ..metrics.estimate import badness

_WIDTH, _HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 16, 14, 44
_SHAPES = ("circle", "square", "triangle", "diamond")


class Point(NamedTuple):
    """One mark of a plot.

    Attributes:
        x: cost.
        y: metric.
        label: text of its tooltip.
    """

    x: float
    y: Estimate
    label: str


class Scale(NamedTuple):
    """An axis: logarithmic if `bend` is 0, else linear within +-bend and logarithmic beyond."""

    low: float
    high: float
    bend: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        """The pixel of a value; values beyond the axis are clamped to its ends."""
        value = min(max(value, self.low), self.high)
        low, high = self._bent(self.low), self._bent(self.high)
        return self.first + (self.last - self.first) * (self._bent(value) - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values within the axis: powers of ten, and 2 and 5 times these on a short axis."""
        top = max(abs(self.low), abs(self.high))
        least = self.bend or self.low
        decades = range(math.floor(math.log10(least)), math.ceil(math.log10(top)) + 1)
        steps = (1,) if math.log10(top / least) > 2 else (1, 2, 5)
        found = [m * 10.0**k for k in decades for m in steps]
        if self.bend:
            found = [-v for v in reversed(found)] + [0.0, *found]
        slack = 1e-9 * abs(self.low)
        return [v for v in found if self.low - slack <= v <= self.high + slack]

    def _bent(self, value: float) -> float:
        return math.asinh(value / self.bend) if self.bend else math.log(value)


def plot(
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    floor: float | None = None,
    front: str | None = None,
) -> str:
    """An `<svg>` of the series; each has a class and a marker by its place in the mapping.

    Args:
        series: points by label.
        x_label: label of the horizontal axis.
        y_label: label of the vertical axis.
        floor: a level to draw as a horizontal line.
        front: which values are better, "lower", "higher" or "zero"; draws the Pareto front, the
            points that are better than all points of at most the same cost.
    """
    points = [p for marks in series.values() for p in marks]
    if not points:
        return "<p>No cell has this metric.</p>"
    values = [p.y.value for p in points] + ([floor] if floor is not None else [])
    widths = sorted(p.y.high - p.y.low for p in points if math.isfinite(p.y.high - p.y.low))
    noise = widths[len(widths) // 2] if widths else 0.0
    across = _scale([p.x for p in points], 0.0, _LEFT, _WIDTH - _RIGHT)
    up = _scale(values, noise, _HEIGHT - _BOTTOM, _TOP)
    out = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(y_label)} against '
        f'{escape(x_label)}">',
        *_axes(across, up, x_label, y_label),
    ]
    if floor is not None:
        y = up(floor)
        out.append(f'<line class="floor" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
                   f'y2="{y:.1f}"/><text class="small" x="{_WIDTH - _RIGHT}" y="{y - 4:.1f}" '
                   'text-anchor="end">true samples</text>')  # fmt: skip
    if front is not None:
        out.append(_front(points, front, across, up))
    for k, marks in enumerate(series.values()):
        if marks:
            out += _series(k, marks, across, up)
    return "\n".join([*out, "</svg>"])


def _scale(values: Sequence[float], noise: float, first: float, last: float) -> Scale:
    """The axis for these values; if some are not positive, it is linear below about `noise`."""
    finite = [v for v in values if math.isfinite(v)]
    low, high = min(finite, default=0.1), max(finite, default=1.0)
    if low > 0:
        return Scale(low / 1.25, high * 1.25, 0.0, first, last)
    bend = 10.0 ** round(math.log10(noise)) if noise > 0 else 1.0
    return Scale(low - bend, max(high, 0.0) * 1.25 + bend, bend, first, last)


def _axes(across: Scale, up: Scale, x_label: str, y_label: str) -> list[str]:
    out = []
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    for value in across.ticks():
        x = across(value)
        out.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>'
            f'<text class="small" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}'
            "</text>"
        )
    for value in up.ticks():
        y = up(value)
        out.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="small" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}'
            "</text>"
        )
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    out.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">'
               f'{escape(x_label)}</text>')  # fmt: skip
    return out


def _front(points: Sequence[Point], better: str, across: Scale, up: Scale) -> str:
    """A line along the Pareto front: points that are better than all that cost no more."""
    best, kept = math.inf, []
    for p in sorted(points, key=lambda p: (p.x, badness(p.y.value, better))):
        if badness(p.y.value, better) < best:
            best = badness(p.y.value, better)
            kept.append(f"{across(p.x):.1f},{up(p.y.value):.1f}")
    return f'<polyline class="front" points="{" ".join(kept)}"/>'


def _series(k: int, marks: Sequence[Point], across: Scale, up: Scale) -> list[str]:
    line = " ".join(f"{across(p.x):.1f},{up(p.y.value):.1f}" for p in marks)
    out = [f'<g class="s{k}"><polyline points="{line}"/>']
    for p in marks:
        x, y = across(p.x), up(p.y.value)
        if math.isfinite(p.y.low) and math.isfinite(p.y.high):
            out.append(
                f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{up(p.y.low):.1f}" '
                f'y2="{up(p.y.high):.1f}"/>'
            )
        out.append(_shape(k, x, y, f"<title>{escape(p.label)}</title>"))
    return [*out, "</g>"]


def swatch(k: int) -> str:
    """The mark of series k, for a legend."""
    return f'<svg class="swatch" viewBox="-7 -7 14 14" aria-hidden="true">{_shape(k, 0, 0)}</svg>'


def _shape(k: int, x: float, y: float, inside: str = "") -> str:
    """The mark of series k. Where colours repeat, shapes differ."""
    shape = _SHAPES[(k + k // 6) % len(_SHAPES)]
    if shape == "circle":
        return f'<circle class="mark mark{k}" cx="{x:.1f}" cy="{y:.1f}" r="4.2">{inside}</circle>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark mark{k}" points="{path}">{inside}</polygon>'
