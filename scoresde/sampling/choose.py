"""Chooses a solver and a grid for a number of network evaluations."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .._internal import specs
from .._internal.checks import as_solver, check_budget, check_grid
from ..axis import Focus
from ..errors import ConfigError, ScoreSDEError
from ..grid import Grid, focused, uniform_lambda
from ..model import Predictor
from ..sde import SDE
from ..solvers.legs import evaluations
from ..solvers.solver import Solver
from ..solvers.stability import longest_stable_step, longest_step
from ..solvers.stages import StagedSDE
from .start import process_of, start_of

GridMaker = Callable[[SDE, int], Grid]
"""A maker of grids: (process, steps) -> Grid."""

DEFAULT = 20
"""Evaluations per sample if neither a budget nor a grid is given."""


def choose(
    model: Predictor | SDE,
    solver: Any,
    grid: Any,
    nfe: int | None,
    start: float | str | None = None,
) -> tuple[Solver, Grid]:
    """The solver and the grid of a run. The library chooses those that the caller omits.

    Args:
        model: what predicts, or its process alone.
        solver: a solver, or its name; None, "recommended" or "recommended(stochastic=True)" choose
            it together with its grid.
        grid: a grid; None for the longest `default_grid` within the budget.
        nfe: the budget of network evaluations per sample, if the grid is None; None for `DEFAULT`.
        start: the highest noise level, if the grid is None; see `start_of`.

    Raises:
        ConfigError: for a budget together with a grid, a budget that is too small, or so small that
            the solver amplifies noise on its default grid; for a grid without a solver, or
            something that is not a solver or grid.
    """
    both = solver is None or (isinstance(solver, str) and specs.is_pair(solver))
    if grid is None and both:
        pair = specs.pair(solver or "recommended")
        return pair(model, DEFAULT if nfe is None else nfe, start=start)
    if grid is None:
        rule, sde, t_max = as_solver(solver), process_of(model), start_of(model, start).t
        if evaluations(rule, uniform_lambda(sde, 4)) is not None:
            maker = partial(default_grid(rule), t_max=t_max)
            made = grid_for(rule, maker, sde, DEFAULT if nfe is None else nfe)
            _check_stable(rule, sde, made, maker)
            return rule, made
        if nfe is not None:
            raise ConfigError(_own_steps(rule))
        return rule, uniform_lambda(sde, getattr(rule, "default_steps", 2), t_max=t_max)
    check_grid(grid)
    if start is not None:
        raise ConfigError(
            f"start={start!r} beside a grid, which has a start of its own; leave start out, or "
            "make the grid with t_max=..."
        )
    if both:
        raise ConfigError(
            "a grid needs a solver; write sample(model, 'Heun', grid, shape=...), or omit the grid "
            "as well"
        )
    rule = as_solver(solver)
    if nfe is not None:
        cost = evaluations(rule, grid)
        raise ConfigError(
            f"nfe={nfe!r} and a grid of {grid.steps} steps, which "
            f"{'sets no number of' if cost is None else f'takes {cost}'} evaluations: give one of "
            f"them; write sample(model, {specs.describe(rule)!r}, nfe={nfe!r}, ...) for the library"
            "'s grid, or omit nfe"
        )
    return rule, grid


def default_grid(solver: Solver) -> Callable[..., Grid]:
    """The family of grids that suits a solver.

    - Uniform in the coordinate of the solver's polynomials, if that is log-SNR or a `Focus`.
    - Uniform in log-SNR for other solvers that draw noise.
    - `focused` for all others.
    """
    coordinate = getattr(solver, "coordinate", None)
    if isinstance(coordinate, Focus):
        return partial(focused, focus=coordinate)
    return uniform_lambda if solver.stochastic or coordinate == "lambda" else focused


def grid_for(solver: Solver, maker: GridMaker, sde: SDE, nfe: int) -> Grid:
    """The longest grid on which a solver takes at most `nfe` evaluations of its model per sample.

    Each is one network evaluation, or 2 under guidance.

    The grid may take fewer evaluations than `nfe`, for example if each step takes two;
    `evaluations(solver, grid)` counts them.

    Raises:
        ConfigError: for a budget that is not positive or too small for one step, or a solver
            whose evaluations depend on the data.
    """
    check_budget(nfe)
    least: int | None = None
    failure: ScoreSDEError | None = None
    for steps in range(nfe, 0, -1):
        try:
            grid = maker(sde, steps)
            cost = evaluations(solver, grid)
        except ScoreSDEError as error:  # a maker may need a least number of steps
            failure = error
            continue
        if cost is None:
            raise ConfigError(_own_steps(solver))
        if cost <= nfe:
            return grid
        least = cost
    why = failure if least is None else f"the shortest takes {least}; write nfe={least}"
    raise ConfigError(f"{specs.describe(solver)} has no grid for {nfe} evaluations: {why}")


def _check_stable(solver: Solver, sde: SDE, grid: Grid, maker: GridMaker) -> None:
    """Raise ConfigError, naming the least budget, where steps are too long for the method."""
    if not isinstance(solver, StagedSDE):
        return
    limit, longest = longest_stable_step(solver), longest_step(grid)
    if longest < limit:
        return
    steps = grid.steps
    while longest_step(grid) >= limit:
        steps += 1
        grid = maker(sde, steps)
    least, name = evaluations(solver, grid), specs.describe(solver)
    raise ConfigError(
        f"{name} amplifies noise in steps of {limit:.2g} and more in half log-SNR, and its default "
        f"grid for this budget has steps of {longest:.2g}; write nfe={least} or more, "
        "'DPMSolverPPSDE', which is stable at any step, or a grid of your own"
    )


def _own_steps(solver: Solver) -> str:
    return (
        f"{specs.describe(solver)} chooses its own steps, so its evaluations depend on the data; "
        "leave nfe out, and give a tolerance instead of a budget, or a grid"
    )
