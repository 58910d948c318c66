"""One HTML page of a comparison: plots, tables, samples, trajectories.

The page loads no other file, and it is complete without scripts. Plots are SVG drawn by this
library. A script of 40 lines shows labels of marks and selects one metric at a time. The page has
about 100 kB, opens fast on a phone and has a dark mode. plotly would add 4 MB to every report, and
its plots need scripts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ..metrics import Estimate
from .pictures import picture, way
from .svg import Point, plot, swatch
from .table import Cell, Table

_COLORS = (  # Okabe & Ito, darker and lighter where the background asks for it
    ("#0072B2", "#56B4E9"), ("#D55E00", "#FF8A3D"), ("#009E73", "#2FD3A5"),
    ("#B0528F", "#E59BC8"), ("#9A6B00", "#E69F00"), ("#5A5A5A", "#BDBDBD"),
)  # fmt: skip
_NAN = float("nan")


def html(table: Table, title: str, sentences: Sequence[str]) -> str:
    """The whole page, as HTML."""
    labels = list(dict.fromkeys(table.label(cell) for cell in table.cells))
    body = [f"<h1>{escape(title)}</h1>", "<ul>"]
    body += [f"<li>{escape(sentence)}</li>" for sentence in sentences] + ["</ul>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in table.notes()]
    body += ['<div class="key">', *(_key(k, label) for k, label in enumerate(labels)), "</div>"]
    body.append('<div class="pick" data-of="metric">')
    for name in table.metrics:
        body += [f"<section><h2>{escape(name)}</h2>", *_metric(table, labels, name), "</section>"]
    body += ["</div>", '<div class="pick" data-of="budget">']
    budgets: list[int | None] = [*table.budgets]
    if any(cell.budget is None for cell in table.cells):
        budgets.append(None)
    for budget in budgets:
        head = "Solvers that choose their steps" if budget is None else f"{budget} evaluations"
        cells = [c for c in table.cells if c.budget == budget and not c.failed]
        body += [f"<section><h2>{head}</h2>", *_budget(table, labels, cells), "</section>"]
    setup = escape(json.dumps(table.to_dict()["setup"], indent=1))
    body += ["</div>", "<details><summary>Setup</summary>", f"<pre>{setup}</pre></details>"]
    own = files("scoresde.bench")
    style = (own / "page.css").read_text() + _series_style(len(labels))
    script = (own / "page.js").read_text()
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(body)
        + f'\n<div id="tip" hidden></div>\n<script>{script}</script>\n</body>\n</html>\n'
    )


# -- sections ----------------------------------------------------------------------------------


def _metric(table: Table, labels: Sequence[str], name: str) -> list[str]:
    """One metric: plots against evaluations and against seconds, and the table."""
    floor = table.setup.floor.get(name)
    out = ['<div class="plots">']
    for of, axis in (("nfe", "network evaluations per sample"), ("seconds", "seconds")):
        series = {label: _points(table, label, name, of) for label in labels}
        out.append(
            plot(
                series, x_label=axis, y_label=name, floor=floor.value if floor else None,
                front=table.setup.better.get(name, "lower"),
            )
        )  # fmt: skip
    return [*out, "</div>", _html_table(table.markdown(name, intervals=True))]


def _budget(table: Table, labels: Sequence[str], cells: Sequence[Cell]) -> list[str]:
    """One budget: errors along the path, samples, and trajectories."""
    out = []
    errors = {
        label: [_path_point(table, cell, *pair) for pair in cell.path_error[1:]]
        for label in labels
        for cell in cells
        if table.label(cell) == label
    }
    if any(errors.values()):
        series = {label: errors.get(label, []) for label in labels}
        head = "distance from the exact path"
        drawn = plot(series, x_label="noise level sigma / alpha", y_label=head)
        out += [f'<h3>{head.capitalize()}</h3><div class="plots">{drawn}</div>']
    for head, draw in (("Samples from the same seeds", picture), ("On the way", way)):
        figures = []
        for cell in cells:
            if drawn_cell := draw(cell):
                k, label = labels.index(table.label(cell)), escape(table.label(cell))
                cost = f"{label}, {cell.nfe:g} evaluations"
                figures.append(
                    f'<figure class="s{k}">{drawn_cell}<figcaption>{cost}</figcaption></figure>'
                )
        if figures:
            kind = "ways" if draw is way else "samples"
            out += [f'<h3>{head}</h3><div class="{kind}">', *figures, "</div>"]
    return out


# -- helpers -----------------------------------------------------------------------------------


def _key(k: int, label: str) -> str:
    return (
        f'<label><input type="checkbox" id="show{k}" checked> {swatch(k)} {escape(label)}</label>'
    )


def _points(table: Table, label: str, name: str, of: str) -> list[Point]:
    return [
        Point(getattr(cell, of), cell.scores[name], _tooltip(label, name, cell))
        for cell in sorted(table.cells, key=lambda c: c.nfe)
        if table.label(cell) == label and name in cell.scores
    ]


def _tooltip(label: str, name: str, cell: Cell) -> str:
    memory = f", {cell.memory / 2**20:.0f} MiB" if math.isfinite(cell.memory) else ""
    cost = f"{cell.nfe:g} evaluations, {cell.seconds:.2g} s{memory}"
    return f"{label}: {name} {cell.scores[name]}, {cost}"


def _path_point(table: Table, cell: Cell, rho: float, error: float) -> Point:
    """The error at one noise level. The clean end is drawn at 0.3 times the lowest level."""
    levels = [level for level, _ in cell.path_error if level > 0]
    label = f"{table.label(cell)}: {error:.2g} at noise level {rho:.2g}"
    return Point(rho or 0.3 * min(levels), Estimate(error, _NAN, _NAN), label)


def _series_style(count: int) -> str:
    """Style of each row: its colour in both modes, and the rule of its checkbox."""

    def rule(k: int, dark: bool) -> str:
        color = _COLORS[k % len(_COLORS)][int(dark)]
        return f"svg .s{k} *, svg .mark{k} {{ stroke: {color}; fill: {color}; }}"

    light, dark = (" ".join(rule(k, mode) for k in range(count)) for mode in (False, True))
    hide = [f"body:has(#show{k}:not(:checked)) .s{k} {{ display: none; }}" for k in range(count)]
    return "\n".join(
        [
            light,
            f"@media (prefers-color-scheme: dark) {{ {dark} }}",
            "svg polyline { fill: none !important; }",
            *hide,
        ]
    )


def _html_table(markdown: str) -> str:
    """The tables that `Table.markdown` writes, as HTML."""
    out: list[str] = []
    for block in markdown.split("\n\n"):
        rows = [
            [part.strip() for part in line.strip("|").split(" | ")] for line in block.splitlines()
        ]
        head = "".join(f'<th scope="col">{escape(part)}</th>' for part in rows[0])
        body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows[2:])
        out.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')
    return "\n".join(out)


def _cells(row: Sequence[str]) -> str:
    first, *others = row
    found = [f'<th scope="row">{escape(first)}</th>']
    for part in others:
        best = part.startswith("**")
        text = escape(part.strip("*") if best else part)
        found.append(f"<td>{f'<b>{text}</b>' if best else text}</td>")
    return "".join(found)
