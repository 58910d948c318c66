"""The solver and the grid that the library's own measurements speak for.

Settings are fixed by the number of network evaluations alone; none is tuned to a problem. They were
chosen on some instances of three kinds of problem and measured on others: see
`benchmarks/sampling.py`, `benchmarks/stochastic.py` and docs/choosing_a_solver.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from ..axis import Focus
from ..errors import ConfigError
from ..grid import Grid, focused
from ..sde import SDE
from ..solvers.exponential import ExponentialMultistep
from ..solvers.solver import Solver
from .choose import grid_for

_NOISY = 14  # evaluations from which full noise pays
_LONG = 150  # evaluations from which a Runge-Kutta start pays for itself


class _Flow(NamedTuple):
    """Settings for the probability flow of data of standard deviation 1.

    Attributes:
        least: evaluations from which they hold.
        sigma_data: of v.
        last: rho of the last knot, times the number of evaluations.
        grid: what the grid is even in.
        polynomial: what the polynomials are in.
    """

    least: int
    sigma_data: float
    last: float
    grid: Focus
    polynomial: Focus


_LEAP = Focus(0.05, 84.0, 0.3, 0.01)
_SMOOTH = Focus(0.14, 40.0, 0.75, 0.09)
_FLOWS = (
    _Flow(1, 0.15, 1.2, _LEAP, _LEAP),
    _Flow(8, 0.18, 1.2, Focus(0.05, 54.0, 0.45, 0.06), Focus(0.05, 36.0, 0.35, 0.01)),
    _Flow(15, 1.0, 1.0, _SMOOTH, _SMOOTH),
)
_MORE_VALUES = (8, 15, 25, 75)  # evaluations from which one further value pays


def recommended(
    sde: SDE, nfe: int, *, stochastic: bool = False, data_std: float = 0.5
) -> tuple[Solver, Grid]:
    """A solver and a grid that take `nfe` network evaluations a sample.

    Deterministic: an exponential multistep method in v whose predictor and corrector share one
    number of values, which rises with the budget: 2, 3 from 8 evaluations, 4 from 15, 5 from 25, 6
    from 75. Grids are even in a `Focus`, and polynomials are in one too. With fewer than 15
    evaluations the first step leaps to where data begin to take shape, all others are nearly even
    in log-SNR, and v is that of data of less than 0.2 data_std: nearly x0, but for the last steps.
    With more evaluations the steps grow smoothly towards both ends. Stochastic: the same family
    with full noise (tau = 1), order 3 and v of data of 0.5 data_std, on a grid uniform in log-SNR
    but for half as many steps again between rho of 0.25 and 8 data_std. With fewer than 14
    evaluations: less noise (tau = 0.4), order 2 in x0, and a last knot at rho of data_std / nfe
    where the process reaches it. Its last step takes three evaluations, so that a budget of 2 or 3
    pays for one step of one.

    Args:
        sde: the process.
        nfe: evaluations of the model, 1 or more: each is one network evaluation a sample, or 2
            under guidance.
        stochastic: whether to follow the reverse SDE rather than the probability flow.
        data_std: standard deviation of the data, per coordinate; 0.5 suits images in (-1, 1).

    Raises:
        ConfigError: for what is no process, a budget below 1, or a data_std that is not positive.
    """
    if not isinstance(sde, SDE):
        raise ConfigError(
            f"settings depend on the process, got {type(sde).__name__}; write "
            "recommended(model.sde, nfe)"
        )
    if not isinstance(nfe, int) or nfe < 1:
        raise ConfigError(f"nfe must be a whole number, 1 or more, got {nfe!r}")
    if not 0 < data_std < math.inf:
        raise ConfigError(f"data_std must be positive, got {data_std!r}")
    solver: Solver
    if stochastic:
        noisy, low = Focus(0.25 * data_std, 8.0 * data_std, 0.6, 2.0), None
        solver = ExponentialMultistep(3, "v", "angle", tau=1.0, sigma_data=0.5 * data_std)
        if nfe < _NOISY:
            solver = ExponentialMultistep(2, "x0", "lambda", tau=0.4)
            low = _last(sde, data_std / nfe)
        return solver, grid_for(solver, lambda sde, n: focused(sde, n, noisy, t_min=low), sde, nfe)
    values = 2 + sum(nfe >= least for least in _MORE_VALUES)
    flow = next(flow for flow in reversed(_FLOWS) if nfe >= flow.least)
    solver = ExponentialMultistep(
        values,
        "v",
        _in_units(flow.polynomial, data_std),
        corrector=values - 1,
        start="krogstad4" if nfe >= _LONG else "",
        sigma_data=flow.sigma_data * data_std,
    )
    scale = _in_units(flow.grid, data_std)
    low = _last(sde, flow.last * data_std / nfe)
    return solver, grid_for(solver, lambda sde, n: focused(sde, n, scale, t_min=low), sde, nfe)


def _last(sde: SDE, rho: float) -> float:
    """The time of the last knot, at rho if that is one that the process reaches."""
    return min(max(sde.t_min, float(sde.t_at_lambda(-math.log(rho)))), 0.5 * sde.t_max)


def _in_units(scale: Focus, unit: float) -> Focus:
    return replace(scale, low=unit * scale.low, high=unit * scale.high)
