"""A comparison as files: data, tables, and one page that needs nothing else.

report.json   everything
report.md     tables
report.csv    one line a cell and measure
report.html   plots, tables, pictures and a recommendation, without any script
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from torch import Tensor

from ..errors import require
from ..jobs import write_atomic
from .svg import Point, plot
from .table import Table

_COLORS = (  # Okabe & Ito, darker and lighter where the background asks for it
    ("#0072B2", "#56B4E9"), ("#D55E00", "#FF8A3D"), ("#009E73", "#2FD3A5"),
    ("#B0528F", "#E59BC8"), ("#9A6B00", "#E69F00"), ("#5A5A5A", "#BDBDBD"),
)  # fmt: skip

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --paper: #ffffff; --line: #d9d9d9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #15171a; --line: #3a3d42; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 74rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { width: 100%; height: auto; } svg text { fill: var(--ink); font-size: 12px; }
svg .small { font-size: 11px; } svg .grid { stroke: var(--line); stroke-width: 1; }
svg .floor { stroke: var(--ink); stroke-dasharray: 2 4; }
svg polyline { fill: none; stroke-width: 1.6; } svg g line { stroke-width: 1; opacity: .6; }
.key label { display: inline-block; margin: 0 1rem .3rem 0; }
.key span { display: inline-block; width: .8rem; height: .8rem; border-radius: 2px; }
figure { margin: 0; display: inline-block; width: 12rem; vertical-align: top; }
figure img { width: 100%; image-rendering: pixelated; } figcaption { font-size: .8rem; }
"""


def write(table: Table, folder: str | Path, *, title: str = "Steps against quality") -> None:
    """Write all four files to a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = f"# {title}\n\n{table}\n\n" + "\n".join(f"- {s}" for s in recommendations(table)) + "\n"
    files = {
        "report.json": json.dumps(table.to_dict(), indent=1),
        "report.md": text,
        "report.csv": table.csv(),
        "report.html": html(table, title),
    }
    for name, content in files.items():
        write_atomic(folder / name, content.encode())


def recommendations(table: Table) -> list[str]:
    """One sentence a budget, by the first measure, that says whether the lead is clear."""
    if not table.measures:
        return ["Every cell failed."]
    name = table.measures[0]
    said = []
    for budget in table.budgets:
        ranked = sorted(
            (c for c in table.cells if c.budget == budget and name in c.scores),
            key=lambda c: abs(c.scores[name].value),
        )
        if not ranked:
            continue
        first, *others = ranked
        sentence = f"{budget} evaluations: {table.label(first)}, {name} {first.scores[name]}"
        if others:
            second = others[0]
            clear = first.scores[name].high < second.scores[name].low
            how = "clearly ahead of" if clear else "not clearly ahead of"
            sentence += f", {how} {table.label(second)} ({second.scores[name].value:.3g})"
        said.append(sentence + ".")
    return said


def html(table: Table, title: str) -> str:
    """The page. It loads nothing and runs nothing; boxes above the plots hide a row."""
    labels = list(dict.fromkeys(table.label(cell) for cell in table.cells))
    body = [f"<h1>{escape(title)}</h1>", "<h2>Recommendation</h2>", "<ul>"]
    body += [f"<li>{escape(sentence)}</li>" for sentence in recommendations(table)] + ["</ul>"]
    body.append('<div class="key">')
    for k, label in enumerate(labels):
        body.append(f'<label><input type="checkbox" id="show{k}" checked> '
                    f'<span class="b{k}"></span> {escape(label)}</label>')  # fmt: skip
    body.append("</div>")
    for name in table.measures:
        body += [f"<h2>{escape(name)}</h2>", '<div class="plots">']
        floor = table.setup.floor.get(name)
        for of, axis in (("nfe", "network evaluations per sample"), ("seconds", "seconds")):
            series = {label: _points(table, label, name, of) for label in labels}
            value = floor.value if floor else None
            body.append(plot(series, x_label=axis, y_label=name, floor=value))
        body += ["</div>", _html_table(table.markdown(name, intervals=True))]
    body += [f"<p>{escape(note)}</p>" for note in table.notes()]
    body += _pictures(table)
    body += [
        "<h2>Setup</h2>",
        f"<pre>{escape(json.dumps(table.to_dict()['setup'], indent=1))}</pre>",
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}{_series_style(len(labels))}</style></head>"
        "\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


# -- helpers -----------------------------------------------------------------------------------


def _points(table: Table, label: str, name: str, of: str) -> list[Point]:
    return [
        Point(
            getattr(cell, of),
            cell.scores[name],
            f"{label}: {name} {cell.scores[name]}, {cell.nfe:g} evaluations, {cell.seconds:.2g} s",
        )
        for cell in sorted(table.cells, key=lambda c: c.nfe)
        if table.label(cell) == label and name in cell.scores
    ]


def _series_style(count: int) -> str:
    rules: dict[bool, list[str]] = {True: [], False: []}
    for k in range(count):
        for dark in (False, True):
            color = _COLORS[k % len(_COLORS)][int(dark)]
            rules[dark].append(
                f".s{k} * {{ stroke: {color}; fill: {color}; }} .s{k} polyline {{ fill: none; }}"
                f" .b{k} {{ background: {color}; }}"
            )
    hide = " ".join(
        f"body:has(#show{k}:not(:checked)) svg .s{k} {{ display: none; }}" for k in range(count)
    )
    dark_rules = " ".join(rules[True])
    return f"{' '.join(rules[False])} @media (prefers-color-scheme: dark) {{ {dark_rules} }} {hide}"


def _html_table(markdown: str) -> str:
    """The tables that `Table.markdown` writes, as HTML; other lines are paragraphs."""
    out: list[str] = []
    for block in markdown.split("\n\n"):
        lines = block.splitlines()
        if not lines or not lines[0].startswith("|"):
            out.append(f"<p>{escape(block)}</p>")
            continue
        rows = [[part.strip() for part in line.strip("|").split(" | ")] for line in lines]
        head = "".join(f"<th>{escape(part)}</th>" for part in rows[0])
        body = "".join(f"<tr>{_cells(row)}</tr>" for row in rows[2:])
        out.append(f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>')
    return "\n".join(out)


def _cells(row: Sequence[str]) -> str:
    found = []
    for part in row:
        bold = part.startswith("**")
        text = escape(part.strip("*"))
        found.append(f"<td>{f'<b>{text}</b>' if bold else text}</td>")
    return "".join(found)


def _pictures(table: Table) -> list[str]:
    """The first samples of every cell that has images, from the same seeds."""
    cells = [c for c in table.cells if c.shown is not None and _is_image(c.shown)]
    if not cells:
        return []
    out = ["<h2>Samples from the same seeds</h2>"]
    for cell in cells:
        assert cell.shown is not None  # for the type checker
        out.append(
            f'<figure><img alt="samples" src="{_png(cell.shown)}"><figcaption>'
            f"{escape(table.label(cell))}, {cell.nfe:g} evaluations</figcaption></figure>"
        )
    return out


def _is_image(x: Tensor) -> bool:
    return x.ndim == 4 and x.shape[1] in (1, 3)


def _png(images: Tensor) -> str:
    from ..plots import tile

    buffer = io.BytesIO()
    require("matplotlib.image", "plot").imsave(buffer, tile(images), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
