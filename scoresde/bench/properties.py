"""A table of the properties of all named solvers.

    python -m scoresde.bench.properties docs/choosing_a_solver.md

writes the table into a page, between two marks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .._internal.specs import SOLVERS, solver
from ..errors import ScoreSDEError
from ..grid import uniform_lambda
from ..sde import VPSDE
from ..solvers.legs import evaluations


def properties() -> str:
    """Properties of every named solver, as a Markdown table.

    The columns are order, evaluations per step, evaluations of the last step, noise, and whether
    it starts at alpha = 0. Solvers have their default settings. The table omits solvers that need
    arguments, or a package that is not installed.
    """
    lines = [
        "| solver | order | evaluations a step | last step | noise | starts at alpha = 0 |",
        "|---|---|---|---|---|---|",
    ]
    inner = uniform_lambda(VPSDE(), 100, clean=False)
    whole = uniform_lambda(VPSDE(), 101)
    for name in sorted(SOLVERS, key=str.lower):
        try:
            made = solver(name)
        except (ScoreSDEError, ImportError):
            continue
        cost, total = evaluations(made, inner), evaluations(made, whole)
        each = "by tolerance" if cost is None else f"{cost / 100:.3g}"
        last = "" if cost is None or total is None else str(total - cost)
        order = f"{made.order:g}"
        lines.append(
            f"| {name} | {order} | {each} | {last} | {'yes' if made.stochastic else 'no'} "
            f"| {'yes' if made.starts_at_zero_snr else 'by the driver'} |"
        )
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- properties -->", "<!-- /properties -->"


def refreshed(page: str) -> str:
    """The page, with a new table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{properties()}\n{END}{after}"


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(refreshed(path.read_text()))
    if len(sys.argv) == 1:
        sys.stdout.write(properties())
