"""Checks that a deterministic solver converges with its stated order on every process."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch

from ..grid import Grid
from ..sde import SDE
from ..solvers.solver import Solver
from .findings import Report
from .problem import Bimodal
from .runs import Tape, end, even, observed_order, rms, uneven

SHARES = (0.02, 0.13, 0.35, 0.55, 0.8, 0.97)
"""The quantiles that are solved for: both modes, between them, and both tails."""

LADDER = (16, 32, 64, 128)
FURTHER = (256, 512)  # for solvers that reach their order only with many steps
FLOOR = 1e-11  # round-off of float64 over 100 steps, with a margin for weights of high orders
FLOAT32 = 1e-5  # limit; good solvers differ by 1e-6 between the two dtypes
SLACK = 0.3  # an observed order may be smaller than the stated one by this much

Maker = Callable[[SDE, int], Grid]
GRIDS: dict[str, Maker] = {"even": even, "uneven": uneven}


def endpoint_error(solver: Solver, grid: Grid) -> float:
    """RMS distance from the exact probability flow at a grid's end, in units of the state."""
    model = Bimodal(grid.sde)
    first, last = grid.knots[0], grid.knots[-1]
    found = end(model, solver, grid, model.quantiles(SHARES, first)).x
    error = rms(found - model.quantiles(SHARES, last)) / float(last.radius)
    return error if math.isfinite(error) else math.inf


def _error_at(solver: Solver, make: Maker, sde: SDE, n: int) -> float:
    return endpoint_error(solver, make(sde, n))


def climb(measure: Callable[[int], float], claimed: float, floor: float = FLOOR) -> float:
    """The observed order over the step counts of the ladder, with more steps if it is too low."""
    errors = [measure(n) for n in LADDER]
    for n in FURTHER:
        if not observed_order(errors, floor) < claimed - SLACK:  # NaN: all errors at the floor
            break
        errors.append(measure(n))
    return observed_order(errors, floor)


def check_order(solver: Solver, report: Report, processes: Sequence[SDE]) -> None:
    """The order on each process, on even and on strongly uneven grids."""
    for sde in processes:
        for name, make in GRIDS.items():
            what = f"order, {type(sde).__name__}, {name}"
            with report.check(what) as require:
                order = climb(partial(_error_at, solver, make, sde), solver.order)
                report.measured[what] = order
                require(
                    not order < solver.order - SLACK,
                    f"observed order {order:.2f}, claimed {solver.order:g}, against the exact flow "
                    f"on {name} steps",
                )


def check_accuracy(
    solver: Solver, report: Report, processes: Sequence[SDE], limit: float = 1e-2
) -> None:
    """For solvers that choose their own steps: the error with their settings."""
    for sde in processes:
        what = f"error, {type(sde).__name__}"
        with report.check(what) as require:
            error = endpoint_error(solver, uneven(sde, 3))
            report.measured[what] = error
            require(
                error < limit,
                f"error {error:.2g} against the exact flow; expected less than {limit:g}",
            )


def check_float32(
    solver: Solver, report: Report, processes: Sequence[SDE], steps: int, limit: float
) -> None:
    """A run in float32 must differ from one in float64 only by round-off."""
    with report.check("float32 round-off") as require:
        worst = 0.0
        for sde in processes:
            model, grid = Bimodal(sde), uneven(sde, steps)
            x = model.quantiles(SHARES, grid.knots[0]).to(torch.float32)
            exact = end(model, solver, grid, x.double(), Tape(x.shape)).x
            gap = end(model, solver, grid, x, Tape(x.shape, x.dtype)).x.double() - exact
            worst = max(worst, float(gap.abs().max()))
        report.measured["float32 round-off"] = worst
        require(
            worst < limit,
            f"a float32 run differs by {worst:.2g} from a float64 run; expected less than "
            f"{limit:g}",
        )
