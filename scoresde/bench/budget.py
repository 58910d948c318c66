"""The grid on which a solver spends a given number of network evaluations."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigError, ScoreSDEError
from ..grid import Grid
from ..sde import SDE
from ..solvers.base import Solver
from ..solvers.relay import evaluations

GridMaker = Callable[[SDE, int], Grid]
"""A maker of grids: (process, steps) -> Grid."""


def grid_for(solver: Solver, maker: GridMaker, sde: SDE, nfe: int) -> Grid:
    """The grid whose cost is nearest to `nfe`; of two equally near ones, the cheaper.

    A solver of two evaluations a step cannot meet every budget, nor can one with a start-up; ask
    `evaluations(solver, grid)` what the grid costs.

    Raises:
        ConfigError: for a budget that is not positive, or a solver whose cost depends on the data.
    """
    if not isinstance(nfe, int) or nfe < 1:
        raise ConfigError(f"a budget is a whole number of evaluations, 1 or more, got {nfe!r}")
    best: tuple[int, Grid] | None = None
    failure: ScoreSDEError | None = None
    for steps in range(1, nfe + 2):
        try:
            grid = maker(sde, steps)
            cost = evaluations(solver, grid)
        except ScoreSDEError as error:  # a maker may need a least number of steps
            failure = error
            continue
        if cost is None:
            raise ConfigError(
                f"{solver!r} chooses its own steps, so its evaluations depend on the data; give "
                "several tolerances instead of several budgets"
            )
        if best is None or abs(cost - nfe) < abs(best[0] - nfe):
            best = cost, grid
        if cost >= nfe:
            break
    if best is None:
        raise ConfigError(f"{solver!r} has no grid for {nfe} evaluations: {failure}")
    return best[1]
