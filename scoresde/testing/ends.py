"""Checks of both ends of a path: steps to sigma = 0, and starts at alpha = 0."""

from __future__ import annotations

from collections.abc import Sequence

from ..grid import from_times
from ..sde import SDE, FlowSDE
from ..solvers.ddim import DDIM
from ..solvers.solver import Solver
from .convergence import endpoint_error
from .findings import Report
from .runs import to_clean
from .stochastic import LIMIT, VARIANCE, affine_map, distribution_distance, weak_error


def check_clean_end(
    solver: Solver, report: Report, processes: Sequence[SDE], steps: Sequence[int]
) -> None:
    """The step to sigma = 0 must not be much worse than the first-order step."""
    for sde in processes:
        with report.check(f"step to sigma = 0, {type(sde).__name__}") as require:
            for n in steps:
                grid = to_clean(sde, n)
                error, simple = endpoint_error(solver, grid), endpoint_error(DDIM(), grid)
                before = endpoint_error(solver, grid.without_clean()) if n > 1 else 0.0
                require(
                    error <= 3 * (simple + before) + 1e-10,
                    f"error {error:.2g} with {n} steps, the last to sigma = 0, and {before:.2g} "
                    f"before that step; the first-order solver reaches {simple:.2g}",
                )


def check_clean_moments(solver: Solver, report: Report, processes: Sequence[SDE]) -> None:
    """For a stochastic solver: the step to sigma = 0 against the first-order denoised x0."""
    rho = 0.02
    for sde in processes:
        with report.check(f"step to sigma = 0, {type(sde).__name__}") as require:
            grid = to_clean(sde, 40, rho)
            found, cut = affine_map(solver, grid), affine_map(solver, grid.without_clean())
            if not max(found.gap, cut.gap) < 1e-9:
                continue  # not a linear scheme
            error, before = weak_error(found, grid), weak_error(cut, grid.without_clean())
            simple = rho**2 / VARIANCE
            require(
                error <= 3 * (simple + before),
                f"error of mean and deviation: {error:.2g} after the step to sigma = 0, "
                f"{before:.2g} before it, {simple:.2g} with the denoised x0",
            )


def check_no_signal(solver: Solver, report: Report, steps: int) -> None:
    """A run over a grid that starts at alpha = 0; the driver takes that step if needed."""
    with report.check("start at alpha = 0") as require:
        grid = from_times(
            FlowSDE(), [1 - k / steps for k in range(steps - steps // 8)], clean=False
        )
        if solver.stochastic:
            distance = distribution_distance(solver, grid)
            report.measured["distribution, from alpha = 0"] = distance
            require(
                distance < 2 * LIMIT,
                f"Kolmogorov-Smirnov distance {distance:.3f} from the exact distribution after "
                f"{grid.steps} steps from alpha = 0",
            )
        else:
            # No order is required: for every n, equal steps reduce 1 - t by 1/2, 2/3, 3/4, ...
            error = endpoint_error(solver, grid)
            report.measured["error, from alpha = 0"] = error
            require(error < 0.5, f"error {error:.2g} after {grid.steps} steps from alpha = 0")
