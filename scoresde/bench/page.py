"""One HTML page of a comparison: plots, tables, samples, trajectories.

The page loads no other file, and it is complete without scripts. Plots are SVG drawn by this
library. A script of 40 lines shows labels of marks and selects one metric at a time. The page has
about 100 kB, opens fast on a phone and has a dark mode. plotly would add 4 MB to every report, and
its plots need scripts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from ..metrics import Estimate
from .pictures import frame, picture, way
from .series import GREY, ON_DARK, PALETTE, axis_title, highlighted
from .svg import Point, look, plot, swatch
from .table import Cell, Table

_NAN = float("nan")


def html(table: Table, title: str, sentences: Sequence[str]) -> str:
    """The page."""
    rows = _Rows(table)
    body = [f"<h1>{escape(title)}</h1>", "<ul>"]
    body += [f"<li>{escape(sentence)}</li>" for sentence in sentences] + ["</ul>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in table.notes()]
    body += ['<div class="key">', *map(rows.key, rows.sorted()), "</div>"]
    body += [f'<p class="note">{note}</p>' for note in _notes(table, rows)]
    body.append('<div class="pick" data-of="metric">')
    for name in table.metrics:
        body += [f"<section><h2>{escape(name)}</h2>", *_metric(table, rows, name), "</section>"]
    body += ["</div>", '<div class="pick" data-of="budget">']
    budgets: list[int | None] = [*table.budgets]
    if any(cell.budget is None for cell in table.cells):
        budgets.append(None)
    for budget in budgets:
        head = "Steps of their own choice" if budget is None else f"{budget} network evaluations"
        cells = [c for c in table.cells if c.budget == budget and not c.failed]
        body += [f"<section><h2>{head}</h2>", *_budget(rows, cells), "</section>"]
    setup = escape(json.dumps(table.to_dict()["setup"], indent=1))
    body += ["</div>", "<details><summary>Setup</summary>", f"<pre>{setup}</pre></details>"]
    own = files("scoresde.bench")
    style = (own / "page.css").read_text() + _series_style(len(rows.labels))
    script = (own / "page.js").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + f'\n<div id="tip" hidden></div>\n<script>{script}</script>\n</body>\n</html>\n'
    )


# -- sections ----------------------------------------------------------------------------------


class _Rows:
    """The rows of a table: what each is called, and which of them stand out.

    Attributes:
        table: the table.
        labels: of all rows, in the table's order; the place of each is its class on the page.
        brief: short ones.
        bright: those that stand out, in the order of their colours.
        frame: (left, right, bottom, top) of all samples of the plane; None where there are none.
    """

    def __init__(self, table: Table) -> None:
        self.table = table
        self.brief = table.short_labels()
        self.labels = list(self.brief)
        self.bright = highlighted(table)
        self.frame = frame(table.cells)

    def sorted(self) -> list[str]:
        """Those that stand out first."""
        return [*self.bright, *(label for label in self.labels if label not in self.bright)]

    def key(self, label: str) -> str:
        """The entry of the legend, which hides the row and shows it again."""
        k, rank = self.labels.index(label), self.rank(label)
        return (
            f'<label title="{escape(label)}"><input type="checkbox" id="show{k}" checked> '
            f"{swatch(rank)} {escape(self.brief[label])}</label>"
        )

    def rank(self, label: str) -> int:
        """The place of its colour; one beyond the last for grey."""
        return self.bright.index(label) if label in self.bright else len(PALETTE)


def _notes(table: Table, rows: _Rows) -> list[str]:
    """What the marks of the plots mean, as HTML."""
    if not table.metrics:
        return []
    out = [
        "Vertical bars are 95 % intervals; one that goes down to the edge of a logarithmic axis "
        "reaches 0. The wide grey band is the Pareto front: no run of the same cost or less is "
        "better."
    ]
    if len(rows.labels) > len(rows.bright):
        out.append(
            f"{len(rows.bright)} rows stand out: recommended and DDIM where they are compared, and "
            "those that do best. The others are grey; point at a mark to see which it is."
        )
    if written := [f"{rows.brief[x]} is {x}" for x in rows.labels if rows.brief[x] != x]:
        out.append(f"<details><summary>Short names</summary>{escape('; '.join(written))}</details>")
    return out


def _metric(table: Table, rows: _Rows, name: str) -> list[str]:
    """Quality against evaluations and against seconds, and the table."""
    floor = table.setup.floor.get(name)
    out = ['<div class="plots">']
    for of, axis in (("nfe", "network evaluations per sample"), ("seconds", "seconds")):
        series = {label: _points(rows, label, name, of) for label in rows.labels}
        out.append(
            plot(
                series, x_label=axis, y_label=axis_title(table, name), bright=rows.bright,
                floor=floor.value if floor else None, front=table.setup.better.get(name, "lower"),
            )
        )  # fmt: skip
    return [*out, "</div>", _html_table(table.markdown(name, intervals=True), rows.brief)]


def _budget(rows: _Rows, cells: Sequence[Cell]) -> list[str]:
    """What happens on the way at one budget, and what comes out."""
    out = []
    table = rows.table
    errors = {
        label: [_path_point(rows.brief[label], cell, *pair) for pair in cell.path_error[1:]]
        for label in rows.labels
        for cell in cells
        if table.label(cell) == label
    }
    if any(errors.values()):
        series = {label: errors.get(label, []) for label in rows.labels}
        head = "distance from the exact path"
        drawn = plot(
            series, x_label="noise level sigma / alpha", y_label=f"{head}, RMS", bright=rows.bright
        )
        out += [f'<h3>{head.capitalize()}</h3><div class="plots">{drawn}</div>']
    for head, draw in (("Samples from the same seeds", picture), ("On the way", way)):
        figures = []
        for cell in sorted(cells, key=lambda cell: rows.rank(table.label(cell))):
            if drawn_cell := draw(cell, rows.frame):
                label = table.label(cell)
                cost = f"{escape(rows.brief[label])}, {cell.nfe:g} network evaluations"
                figures.append(
                    f'<figure class="s{rows.labels.index(label)}">{drawn_cell}'
                    f"<figcaption>{cost}</figcaption></figure>"
                )
        if figures:
            kind = "ways" if draw is way else "samples"
            out += [f'<h3>{head}</h3><div class="{kind}">', *figures, "</div>"]
    return out or [
        '<p class="note">Nothing to draw here: only images and points of the plane have pictures, '
        "and only deterministic solvers a distance from the exact path.</p>"
    ]


# -- helpers -----------------------------------------------------------------------------------


def _points(rows: _Rows, label: str, name: str, of: str) -> list[Point]:
    return [
        Point(getattr(cell, of), cell.scores[name], _tooltip(rows.brief[label], name, cell))
        for cell in sorted(rows.table.cells, key=lambda c: c.nfe)
        if rows.table.label(cell) == label and name in cell.scores
    ]


def _tooltip(label: str, name: str, cell: Cell) -> str:
    memory = f", {cell.memory / 2**20:.0f} MiB" if math.isfinite(cell.memory) else ""
    cost = f"{cell.nfe:g} network evaluations, {cell.seconds:.2g} s{memory}"
    return f"{label}: {name} {cell.scores[name]}, {cost}"


def _path_point(label: str, cell: Cell, rho: float, error: float) -> Point:
    """An error on the way; the clean end stands at the left, a factor below the last level."""
    levels = [level for level, _ in cell.path_error if level > 0]
    told = f"{label}: {error:.2g} at noise level {rho:.2g}"
    return Point(rho or 0.3 * min(levels), Estimate(error, _NAN, _NAN), told)


def _series_style(count: int) -> str:
    """Colours of the rows in both modes, and what the box of each hides."""

    def rule(rank: int, color: str) -> str:
        return f"svg .{look(rank)} *, svg.{look(rank)} * {{ stroke: {color}; fill: {color}; }}"

    light, dark = (" ".join(map(rule, range(len(c)), c)) for c in (PALETTE, ON_DARK))
    return "\n".join(
        [
            light,
            f"@media (prefers-color-scheme: dark) {{ {dark} }}",
            rule(len(PALETTE), GREY),
            "svg polyline { fill: none !important; }",
            *(f"body:has(#show{k}:not(:checked)) .s{k} {{ display: none; }}" for k in range(count)),
        ]
    )


def _html_table(markdown: str, brief: Mapping[str, str]) -> str:
    """The tables that `Table.markdown` writes, as HTML, with short labels."""
    out: list[str] = []
    for block in markdown.split("\n\n"):
        rows = [
            [part.strip() for part in line.strip("|").split(" | ")] for line in block.splitlines()
        ]
        head = "".join(f'<th scope="col">{escape(part)}</th>' for part in rows[0])
        body = "".join(f"<tr>{_cells(row, brief)}</tr>" for row in rows[2:])
        out.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')
    return "\n".join(out)


def _cells(row: Sequence[str], brief: Mapping[str, str]) -> str:
    first, *others = row
    found = [f'<th scope="row" title="{escape(first)}">{escape(brief.get(first, first))}</th>']
    for part in others:
        best = part.startswith("**")
        text = escape(part.strip("*") if best else part)
        found.append(f"<td>{f'<b>{text}</b>' if best else text}</td>")
    return "".join(found)
