"""A comparison as files: data, tables, a picture, and one HTML page.

report.json   all numbers and settings
report.md     tables
report.csv    one line for each cell and metric
report.png    the first two metrics against evaluations
report.html   plots, tables, pictures and a recommendation; see `scoresde.bench.page`
samples.png   samples of the plane, of the rows that stand out; for models of the plane alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from .._internal.files import write_atomic
from .figures import scatter, steps_quality
from .page import html
from .series import highlighted
from .table import Setup, Table


def write(
    table: Table,
    folder: str | Path,
    *,
    title: str = "",
    command: str = "",
    given: Mapping[str, str] | None = None,
) -> None:
    """Write all files to a folder.

    Args:
        table: what was found.
        folder: where to write.
        title: of the report; by default it names the model.
        command: what was typed to make the table.
        given: names that were given to it, such as `{"model": "mnist"}`.
    """
    setup = table.setup
    setup = replace(setup, command=command or setup.command, given=dict(given or setup.given))
    table = replace(table, setup=setup)
    title = title or ": ".join(filter(None, ["Steps against quality", model_of(setup)]))
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
        steps_quality(table, folder / "report.png")
    if panels := _plane(table):
        scatter(panels, folder / "samples.png")


def model_of(setup: Setup) -> str:
    """What the model is called: as it was given, else by the class of its network."""
    names = dict.fromkeys(str(model.get("name", "")) for model in setup.models.values())
    return setup.given.get("model") or ", ".join(filter(None, names))


def _plane(table: Table) -> dict[str, Tensor]:
    """Samples of the plane, by title: of the rows that stand out, at their largest budget."""
    brief, found = table.short_labels(), {}
    for label in highlighted(table):
        cells = [c for c in table.cells if table.label(c) == label and c.shown is not None]
        for cell in sorted(cells, key=lambda c: c.nfe)[-1:]:
            if cell.shown is not None and cell.shown.shape[1:] == (2,):
                found[f"{brief[label]}, {cell.nfe:g} NFE"] = cell.shown
    return found


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
        sentence = (
            f"{budget} network evaluations: {table.label(first)}, {name} {first.scores[name]}"
        )
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
