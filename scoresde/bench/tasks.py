"""The cells that a comparison computes, made from its rows, grids and budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from .._internal import specs
from ..errors import ConfigError, ScoreSDEError
from ..grid import Grid, uniform_lambda
from ..model import Predictor
from ..sampling.choose import GridMaker, grid_for
from ..sde import SDE
from ..solvers.legs import evaluations
from ..solvers.solver import Solver
from ..wrapper import evals_per_call
from .table import OWN_GRID, Cell


@runtime_checkable
class Peer(Protocol):
    """A sampler of another library, with its own grid; see `benchmarks/peers`.

    Attributes:
        name: its name in the table.
        package, version: the library.
        kind: "deterministic", "stochastic" or "adaptive"; an adaptive one runs once, without a
            budget.
    """

    name: str
    package: str
    version: str
    kind: str

    def run(self, model: Predictor, nfe: int, x: Tensor, seed: int = 0) -> tuple[Tensor, int]:
        """Sample from the start x, shape (B, *), at t_max; returns samples and evaluations."""


class Fixed(NamedTuple):
    """A solver with a fixed grid, such as a tuned one: a row with one cell."""

    name: str
    solver: Solver
    grid: Grid


Row = Solver | str | Peer | Fixed
"""A row of a comparison: a solver, its name, a `Peer`, or a `Fixed` solver and grid."""


class Task(NamedTuple):
    """One cell to compute: a solver with its grid, or a peer; neither if the grid failed."""

    cell: Cell
    solver: Solver | None = None
    grid: Grid | None = None
    peer: Peer | None = None
    key: str = ""  # of its run in the store

    @property
    def stochastic(self) -> bool:
        """Whether the sampler draws noise after the start."""
        if self.peer is not None:
            return self.peer.kind == "stochastic"
        return self.solver is not None and self.solver.stochastic


def tasks(
    model: Predictor,
    rows: Sequence[Row],
    makers: Sequence[GridMaker],
    nfe: Sequence[int],
    process: str = "",
) -> Iterator[Task]:
    """The cells of one model, row by row. If a grid cannot be made, its cell has failed.

    Raises:
        ConfigError: for a row that is neither a solver, nor a name of one, nor a peer.
    """
    sde, each_call = model.sde, evals_per_call(model)  # budgets are network evaluations
    for row in rows:
        if isinstance(row, str) and specs.is_pair(row):
            choose = specs.pair(row)
            for budget in nfe:
                # All cells share their starts, which are drawn at the end of the process.
                solver, grid = choose(model, budget // each_call, start="end")
                cell = Cell(row, OWN_GRID, budget, process=process, steps=grid.steps)
                yield Task(cell, solver, grid)
            continue
        if isinstance(row, Fixed):
            calls = evaluations(row.solver, row.grid)
            cost = None if calls is None else calls * each_call
            cell = Cell(row.name, OWN_GRID, cost, process=process, steps=row.grid.steps)
            yield Task(cell, row.solver, row.grid)
            continue
        if not isinstance(row, str | Solver):
            if not isinstance(row, Peer):
                hint = f"{row.__name__}()" if isinstance(row, type) else "DDIM() or 'DDIM'"
                raise ConfigError(
                    f"{row!r} is neither a solver nor a peer with name, kind and run; write {hint}"
                )
            budgets = [None] if row.kind == "adaptive" else [*nfe]
            for each in budgets:
                yield Task(Cell(row.name, OWN_GRID, each, process=process), peer=row)
            continue
        solver, label = _solver(row)
        if evaluations(solver, uniform_lambda(sde, 4)) is None:
            yield Task(Cell(label, "", None, process=process), solver, uniform_lambda(sde, 2))
            continue
        for maker in makers:
            for budget in nfe:
                cell = Cell(label, maker.__name__, budget, process=process)
                try:
                    grid = grid_for(solver, maker, sde, budget // each_call)
                    yield Task(replace(cell, steps=grid.steps), solver, grid)
                except ScoreSDEError as error:
                    yield Task(replace(cell, failed=str(error)))


def takes_budget(row: Row, sde: SDE) -> bool:
    """Whether a row has a cell for each budget, rather than a grid or steps of its own."""
    if isinstance(row, Fixed):
        return False
    if isinstance(row, str | Solver):
        both = isinstance(row, str) and specs.is_pair(row)
        return both or evaluations(_solver(row)[0], uniform_lambda(sde, 4)) is not None
    return row.kind != "adaptive"


def _solver(row: Solver | str) -> tuple[Solver, str]:
    """The solver, and its name in the table."""
    if isinstance(row, str):
        return specs.solver(row), row
    return row, specs.describe(row)
