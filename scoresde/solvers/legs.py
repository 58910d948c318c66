"""Splits a grid into parts, each with the solver that takes it.

`DDIM` takes two steps for other solvers: a first step from alpha = 0, where its transition is
exact, if the solver cannot start there; and the last step to sigma = 0 if `final="denoise"`, where
it returns the denoised x0.
"""

from __future__ import annotations

from ..errors import ConfigError
from ..grid import RHO_CAP, Grid
from .ddim import DDIM
from .solver import Solver

FINALS = ("solver", "none", "denoise")


def parts(solver: Solver, grid: Grid, final: str = "solver") -> tuple[tuple[Solver, Grid], ...]:
    """The solvers that follow a grid, in order, each with the part of the grid that it takes.

    Args:
        solver, grid, final: see `scoresde.iterate`.

    Raises:
        ConfigError: for an unknown `final`, or if no step is left.
    """
    if final not in FINALS:
        raise ConfigError(f"final must be 'solver', 'none' or 'denoise', got {final!r}")
    knots = grid.knots[:-1] if grid.ends_clean and final != "solver" else grid.knots
    found: list[tuple[Solver, Grid]] = []
    if knots[0].is_zero_snr and not solver.starts_at_zero_snr and len(knots) > 1:
        first = DDIM(eta=1.0 if solver.stochastic else 0.0)
        after = knots[1:]
        own_steps = solver.evals(grid) is None and getattr(solver, "adaptive", True)
        if own_steps and not after[0].is_clean and float(after[0].rho) < RHO_CAP:
            # A solver that chooses its steps follows long steps of a grid; DDIM must not.
            after = (grid.sde.at_rho(RHO_CAP), *after)
        found.append((first, Grid(grid.sde, (knots[0], after[0]))))
        knots = after
    if len(knots) > 1:
        found.append((solver, Grid(grid.sde, knots)))
    if final == "denoise":
        found.append((DDIM(), Grid(grid.sde, (knots[-1], grid.sde.clean))))
    if not found:
        raise ConfigError(
            "the grid's only step goes to sigma = 0, and final='none' omits that step; write "
            "final='solver', or a grid of 2 steps or more"
        )
    return tuple(found)


def evaluations(solver: Solver, grid: Grid, final: str = "solver") -> int | None:
    """Network evaluations per sample of a run over this grid; None if they depend on the data."""
    total = 0
    for rule, part in parts(solver, grid, final):
        cost = rule.evals(part)
        if cost is None:
            return None
        total += cost
    return total
