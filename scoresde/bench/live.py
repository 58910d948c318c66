"""A live view of the table in the terminal while cells are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import require
from .table import Cell, Setup, Table, number

Show = Callable[[Cell], None]


@contextmanager
def live(expected: Sequence[Cell], setup: Setup, shown: bool) -> Iterator[Show]:
    """Yield a function that takes each finished cell and redraws the table in the terminal.

    Args:
        expected: all cells, without numbers yet.
        setup: the settings that they share.
        shown: whether to draw at all (needs rich).
    """
    if not shown:
        yield lambda cell: None
        return
    done: dict[tuple[str, int | None], Cell] = {}
    names = Table(tuple(expected), setup)
    screen = require("rich.live", "cli").Live(refresh_per_second=2, vertical_overflow="visible")

    def show(cell: Cell) -> None:
        done[names.label(cell), cell.budget] = cell
        screen.update(_drawn(names, Table(tuple(done.values()), setup), done))

    with screen:
        screen.update(_drawn(names, Table((), setup), done))
        yield show


def _drawn(names: Table, found: Table, done: dict[tuple[str, int | None], Cell]) -> Any:
    metric = next(iter(names.setup.better), "")
    count = f"{len(done)} of {len(names.cells)}"
    drawn = require("rich.table", "cli").Table(title=f"{metric} ({count} cells)")
    drawn.add_column("solver")
    budgets: list[int | None] = [*names.budgets]
    if any(cell.budget is None for cell in names.cells):
        budgets.append(None)
    for budget in budgets:
        drawn.add_column("own steps" if budget is None else f"{budget} NFE", justify="right")
    brief = names.short_labels()
    for label in brief:
        row = [_text(done.get((label, budget)), found, metric) for budget in budgets]
        drawn.add_row(brief[label], *row)
    return drawn


def _text(cell: Cell | None, found: Table, metric: str) -> str:
    if cell is None:
        return ""
    if cell.failed:
        return "[red]failed[/]"
    if metric not in cell.scores:
        return "-"
    text = number(cell.scores[metric].value)
    return f"[bold]{text}[/]" if cell is found.best(cell.budget, metric) else text
