"""A plot of series with intervals as SVG, for light and dark pages.

Colours come from the page's style sheet, so that the same drawing suits both: by the classes s0,
s1, ... of the series, top0, top1, ... of those that stand out, and rest of all others.
A `<title>` on every point is what a browser shows when it is pointed at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from ..metrics import Estimate
from .series import PALETTE, pareto

_WIDTH, _HEIGHT = 560, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 16, 14, 48
_SHAPES = ("circle", "square", "triangle", "diamond", "wedge")  # as MARKERS of the PNG


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
    bright: Sequence[str] = (),
    floor: float | None = None,
    front: str | None = None,
) -> str:
    """An `<svg>` of the series, each with the class of its place in the mapping.

    The axes hold every value and every interval. A note stands where there is nothing to draw.

    Args:
        bright: names of the series that stand out, in the order of their colours.
        floor: a level drawn across.
        front: what is better, "lower", "higher" or "zero", to underlay the points that no cheaper
            one surpasses.
    """
    series = {name: [p for p in marks if _drawable(p)] for name, marks in series.items()}
    points = [p for marks in series.values() for p in marks]
    if not points:
        said = f"Nothing to draw: no run has {y_label} and {x_label}."
        return f'<p class="note">{escape(said)}</p>'
    values = [p.y.value for p in points] + ([floor] if floor is not None else [])
    widths = sorted(p.y.high - p.y.low for p in points if math.isfinite(p.y.high - p.y.low))
    noise = widths[len(widths) // 2] if widths else 0.0
    across = _scale([p.x for p in points], 0.0, _LEFT, _WIDTH - _RIGHT)
    ends = [end for p in points for end in (p.y.low, p.y.high)]
    if min(v for v in values if math.isfinite(v)) > 0:
        ends = [end for end in ends if end > 0]  # what reaches 0 goes down to the edge
    up = _scale([*values, *ends], noise, _HEIGHT - _BOTTOM, _TOP)
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
    places = {name: k for k, name in enumerate(series)}
    for name in sorted(series, key=lambda name: -_rank(name, bright)):  # what stands out on top
        if series[name]:
            out += _series(places[name], _rank(name, bright), series[name], across, up)
    return "\n".join([*out, "</svg>"])


def _drawable(p: Point) -> bool:
    return math.isfinite(p.x) and p.x > 0 and math.isfinite(p.y.value)


def _rank(name: str, bright: Sequence[str]) -> int:
    """The place of a series among those that stand out; one beyond the last colour for others."""
    return bright.index(name) if name in bright else len(PALETTE)


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
    middle, centre = (_LEFT + right) / 2, (_TOP + bottom) / 2
    out.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
        f'<text class="y" transform="translate(15 {centre:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return out


def _front(points: Sequence[Point], better: str, across: Scale, up: Scale) -> str:
    """A stroke below the Pareto front: points that are better than all that cost no more."""
    kept = pareto([p.x for p in points], [p.y.value for p in points], better)
    line = " ".join(f"{across(points[k].x):.1f},{up(points[k].y.value):.1f}" for k in kept)
    return f'<polyline class="front" points="{line}"/>'


def _series(k: int, rank: int, marks: Sequence[Point], across: Scale, up: Scale) -> list[str]:
    line = " ".join(f"{across(p.x):.1f},{up(p.y.value):.1f}" for p in marks)
    out = [f'<g class="s{k} {look(rank)}"><polyline points="{line}"/>']
    for p in marks:
        x, y = across(p.x), up(p.y.value)
        if math.isfinite(p.y.low) and math.isfinite(p.y.high):
            out.append(
                f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{up(p.y.low):.1f}" '
                f'y2="{up(p.y.high):.1f}"/>'
            )
        out.append(_shape(rank, x, y, f"<title>{escape(p.label)}</title>"))
    return [*out, "</g>"]


def look(rank: int) -> str:
    """The class of a series that stands out, or of all others."""
    return f"top{rank}" if rank < len(PALETTE) else "rest"


def swatch(rank: int) -> str:
    """The mark of a series, for a legend."""
    return (
        f'<svg class="swatch {look(rank)}" viewBox="-7 -7 14 14" aria-hidden="true">'
        f"{_shape(rank, 0, 0)}</svg>"
    )


def _shape(rank: int, x: float, y: float, inside: str = "") -> str:
    """The mark of a series: a shape for each that stands out, a small dot for all others."""
    shape = _SHAPES[rank] if rank < len(_SHAPES) else "dot"
    if shape in ("circle", "dot"):
        r = 4.2 if shape == "circle" else 2.6
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="{r}">{inside}</circle>'
    corners = {
        "square": ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        "triangle": ((0, -5), (5, 4), (-5, 4)),
        "diamond": ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
        "wedge": ((0, 5), (5, -4), (-5, -4)),
    }[shape]
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark" points="{path}">{inside}</polygon>'
