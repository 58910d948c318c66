"""The solver and the grid that the library's own measurements speak for.

Settings are fixed by the number of network evaluations alone; none is tuned to a problem. They were
chosen on some instances of `scoresde.problems` and measured on others: see
`benchmarks/sampling.py`, `benchmarks/stochastic.py` and docs/choosing_a_solver.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .coordinate import Focus
from .errors import ConfigError
from .grid import Grid, focused
from .sde import SDE
from .solvers.base import Solver
from .solvers.exponential import ExponentialMultistep

_LONG = 150  # evaluations from which a Runge-Kutta start pays for itself


def recommended(
    sde: SDE, nfe: int, *, stochastic: bool = False, data_std: float = 0.5
) -> tuple[Solver, Grid]:
    """A solver and a grid that take `nfe` network evaluations a sample.

    Deterministic: an exponential multistep method in v whose predictor and corrector share one
    number of values, which rises with the budget: 2, 3 from 8 evaluations, 4 from 15, 5 from 35.
    Its polynomials are in the coordinate that the grid is uniform in (`Focus`), and its last knot
    lies at rho = data_std / nfe. With fewer than 15 evaluations the grid spreads over all noise
    levels, and v is that of data of 0.12 data_std, nearly x0 but at the end; with more it is
    dense where most data take shape. Stochastic: the same family with full noise (tau = 1),
    order 3 and v of data of 0.5 data_std, on a grid uniform in log-SNR but for half as many steps
    again around rho = 2 data_std.

    Args:
        sde: the process.
        nfe: network evaluations per sample, 1 or more.
        stochastic: whether to follow the reverse SDE rather than the probability flow.
        data_std: standard deviation of the data, per coordinate; 0.5 suits images in (-1, 1).

    Raises:
        ConfigError: for a budget below 1, or a data_std that is not positive.
    """
    if not isinstance(nfe, int) or nfe < 1:
        raise ConfigError(f"nfe must be a whole number, 1 or more, got {nfe!r}")
    if not 0 < data_std < math.inf:
        raise ConfigError(f"data_std must be positive, got {data_std!r}")
    solver: Solver
    if stochastic:
        solver = ExponentialMultistep(3, "v", "angle", tau=1.0, sigma_data=0.5 * data_std)
        noisy = Focus(0.25 * data_std, 8.0 * data_std, 0.6, 2.0)
        return solver, _within(nfe, 2, solver, lambda n: focused(sde, n, noisy))
    values = 2 + sum(nfe >= least for least in (8, 15, 35))
    if nfe < 15:
        sigma_data, scale = 0.12, Focus(0.04 * data_std, 80.0 * data_std, 0.5, 0.1)
    else:
        sigma_data, scale = 2.0, Focus(0.14 * data_std, 24.0 * data_std, 1.0, 0.1)
    start = "krogstad4" if nfe >= _LONG else ""
    solver = ExponentialMultistep(
        values, "v", scale, corrector=values - 1, start=start, sigma_data=sigma_data * data_std
    )
    low = max(sde.t_min, float(sde.t_at_lambda(math.log(nfe / data_std))))
    low = min(low, 0.5 * sde.t_max)
    extra = 3 * (values - 1) if start else 0
    return solver, _within(nfe, extra, solver, lambda n: focused(sde, n, scale, t_min=low))


def _within(nfe: int, extra: int, solver: Solver, make: Callable[[int], Grid]) -> Grid:
    """The longest grid on which the solver takes no more than `nfe` evaluations.

    `extra` are those that it takes at most beyond one a step.
    """
    for steps in range(nfe, max(nfe - extra, 1), -1):
        grid = make(steps)
        if (solver.evals(grid) or nfe) <= nfe:
            return grid
    return make(max(nfe - extra, 1))
