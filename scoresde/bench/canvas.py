"""What all figures stand on: one style, and a matplotlib figure that opens no window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import require

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


def styled() -> Any:
    """The style, for a `with` statement."""
    return require("matplotlib", "plot").rc_context(_STYLE)


def figure(size: tuple[float, float]) -> Any:
    """A figure of a size in inches, without pyplot: no window, no state shared with the user's."""
    return require("matplotlib.figure", "plot").Figure(size, layout="constrained")


def row(figure: Any, count: int, columns: int = 0) -> Any:
    """Axes side by side, `columns` of them in each of several rows."""
    columns = columns or count
    panels = figure.subplots(-(-count // columns), columns, squeeze=False).flat
    for spare in panels[count:]:
        spare.remove()
    return panels[:count]


def save(figure: Any, path: str | Path) -> None:
    """Write the picture."""
    figure.savefig(path, dpi=150)
