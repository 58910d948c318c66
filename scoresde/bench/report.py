"""A comparison as files: data, tables, a picture, and one HTML page.

report.json   all numbers and settings
report.md     tables
report.csv    one line for each cell and metric
report.png    the first two metrics against evaluations
report.html   plots, tables, pictures and a recommendation; see `scoresde.bench.page`
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from .._internal.files import write_atomic
from .figures import steps_quality
from .page import html
from .table import Table


def write(
    table: Table,
    folder: str | Path,
    *,
    title: str = "Steps against quality",
    command: str = "",
    given: Mapping[str, str] | None = None,
) -> None:
    """Write a comparison to a folder: report.json, .md, .csv, .png and .html.

    Args:
        table: the comparison.
        folder: where to write.
        title: of the page.
        command: the command line that made the table.
        given: names that the command was given, such as that of the model.
    """
    setup = table.setup
    setup = replace(setup, command=command or setup.command, given=dict(given or setup.given))
    table = replace(table, setup=setup)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    said = recommendations(table)
    made = "\n".join(f"- {line}" for line in table.setup.lines())
    text = "\n".join(
        [
            *(f"# {title}", "", *(f"- {sentence}" for sentence in said), "", str(table), ""),
            *("## How it was made", "", made, ""),
        ]
    )
    files = {
        "report.json": json.dumps(table.to_dict(), indent=1, allow_nan=False) + "\n",
        "report.md": text,
        "report.csv": table.csv(),
        "report.html": html(table, title, said),
    }
    for name, content in files.items():
        write_atomic(folder / name, content.encode())
    if table.metrics:
        steps_quality(table, folder / "report.png", metrics=table.metrics[:2])


def recommendations(table: Table) -> list[str]:
    """One sentence for each budget: the best cell by the first metric, and its lead."""
    if not table.metrics:
        return ["Every cell failed."]
    name = table.metrics[0]
    said = []
    for budget in table.budgets:
        ranked = table.ranked(budget, name)
        if not ranked:
            continue
        first, *others = ranked
        sentence = f"{budget} evaluations: {table.label(first)}, {name} {first.scores[name]}"
        tied = [table.label(cell) for cell in others if table.tied(cell, name)]
        if tied:
            more = f" and {len(tied) - 1} more" if len(tied) > 1 else ""
            sentence += f", not clearly ahead of {tied[0]}{more}"
        elif others:
            second = others[0]
            value = f"{second.scores[name].value:.3g}"
            sentence += f", clearly ahead of {table.label(second)} ({value})"
        said.append(sentence + ".")
    return said
