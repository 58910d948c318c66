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

    Deterministic: a multistep method in v, of rising order, with polynomials in the coordinate that
    the grid is uniform in (`Focus`), densest around rho = 2 data_std. Stochastic: the same family
    with full noise (tau = 1), order 3, on a grid uniform in log-SNR but for half as many steps
    again around rho = 1.4 data_std.

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
        solver = ExponentialMultistep(3, "v", "angle", tau=1.0)
        noisy = Focus(1.4 * data_std, 2.0, 2.0)
        return solver, _within(nfe, 2, solver, lambda n: focused(sde, n, noisy))
    focus, end, order, corrector = _settings(nfe)
    scale = Focus(focus.centre * data_std, focus.width, focus.floor)
    start = "krogstad4" if nfe >= _LONG else ""
    solver = ExponentialMultistep(order, "v", scale, corrector=corrector, start=start)
    low = max(sde.t_min, float(sde.t_at_lambda(-math.log(end * data_std))))
    low = min(low, 0.5 * sde.t_max)
    extra = 3 * (order - 1) if start else 0
    return solver, _within(nfe, extra, solver, lambda n: focused(sde, n, scale, t_min=low))


def _settings(nfe: int) -> tuple[Focus, float, int, int]:
    """Focus and last rho, both in units of the data's deviation; order; corrector."""
    if nfe < 9:
        return Focus(1.6, 3.3, 0.15), 1.0 / nfe, 2, 0
    if nfe < 15:
        return Focus(2.0, 3.5, 0.25), 0.04, 3, 0
    order = 4 if nfe < 35 else 5
    return Focus(2.0, 3.0, 0.12), 0.05 * (20 / max(nfe, 20)) ** 0.75, order, order


def _within(nfe: int, extra: int, solver: Solver, make: Callable[[int], Grid]) -> Grid:
    """The longest grid on which the solver takes no more than `nfe` evaluations.

    `extra` are those that it takes at most beyond one a step.
    """
    steps = max(nfe - extra, 1)
    grid = make(steps)
    spare = nfe - (solver.evals(grid) or nfe)
    return make(steps + spare) if spare > 0 else grid
