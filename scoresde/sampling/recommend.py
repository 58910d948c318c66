"""The solver and the grid that the library's own measurements speak for.

Settings are fixed by the number of network evaluations and by whether the model has an error of its
own; none is tuned to a problem. A polynomial through several predictions multiplies the network's
error by the sum of the sizes of its weights. So fewer values serve a network best, where a closed
form gains by more. Settings were chosen on some problems and networks and measured on others: see
`benchmarks/sampling.py`, `benchmarks/stochastic.py` and docs/choosing_a_solver.md.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from ..axis import Focus
from ..errors import ConfigError
from ..grid import Grid, focused
from ..model import FLOOR, Predictor, floor_of
from ..sde import SDE
from ..solvers.exponential import ExponentialMultistep
from ..solvers.solver import Solver
from .choose import grid_for
from .start import DATA_STD, data_std_of, start_of

_NOISY = 14  # evaluations from which full noise pays
_LONG = 150  # evaluations from which a Runge-Kutta start pays for itself


class _Flow(NamedTuple):
    """Settings for the probability flow of data of standard deviation 1.

    Attributes:
        least: evaluations from which they hold.
        values: predictions in the polynomial; the corrector has one less.
        prediction: the variable of the polynomial.
        polynomial: the axis of the polynomial.
        last, power: rho of the last knot is last / evaluations^power.
        grid: what the grid is even in.
        sigma_data: of v.
    """

    least: int
    values: int
    prediction: str
    polynomial: Focus | str
    last: float
    grid: Focus
    sigma_data: float = 1.0
    power: float = 1.0


_LEAP = Focus(0.05, 84.0, 0.3, 0.01)
_SHORT = Focus(0.05, 54.0, 0.45, 0.06)
_EVEN = Focus(0.05, 36.0, 0.35, 0.01)
_SMOOTH = Focus(0.14, 40.0, 0.75, 0.09)
_WIDE = Focus(0.05, 54.0, 1.0, 0.3)

_EXACT = (
    _Flow(1, 2, "v", _LEAP, 1.2, _LEAP, 0.15),
    _Flow(8, 3, "v", _EVEN, 1.2, _SHORT, 0.18),
    _Flow(15, 4, "v", _SMOOTH, 1.0, _SMOOTH),
    _Flow(25, 5, "v", _SMOOTH, 1.0, _SMOOTH),
    _Flow(75, 6, "v", _SMOOTH, 1.0, _SMOOTH),
)
_NETWORK = (
    _Flow(1, 2, "x0", "lambda", 1.2, _SHORT),
    _Flow(10, 3, "x0", "lambda", 12.0, _WIDE, power=2.0),
)


def recommended(
    model: Predictor | SDE,
    nfe: int,
    *,
    stochastic: bool = False,
    data_std: float | None = None,
    floor: float | None = None,
    start: float | str | None = None,
) -> tuple[Solver, Grid]:
    """A solver and a grid that take `nfe` evaluations of the model a sample.

    Deterministic: an exponential multistep method whose predictor and corrector share one number
    of values. For networks it is in x0, with 2 values, 3 from 10 evaluations. For closed forms it
    is in v, with 2 values, 3 from 8 evaluations, 4 from 15, 5 from 25, 6 from 75, and its
    polynomials are in a `Focus`. Grids are even in a `Focus`: with few evaluations the first step
    leaps to where data begin to take shape, with more the steps grow smoothly towards both ends.

    Stochastic: the same family with full noise (tau = 1), order 3 and v of data of 0.5 data_std, on
    a grid uniform in log-SNR but for half as many steps again between rho of 0.25 and 8 data_std.
    With fewer than 14 evaluations: less noise (tau = 0.4), order 2 in x0, and a last knot at rho of
    data_std / nfe where the process reaches it. Its last step takes three evaluations, so that a
    budget of 2 or 3 pays for one step of one.

    Args:
        model: what predicts; or its process alone, which stands for a network of it.
        nfe: calls of the model, 1 or more: each is one network evaluation a sample, or 2 under
            guidance.
        stochastic: whether to follow the reverse SDE rather than the probability flow.
        data_std: standard deviation of the data, per coordinate; by default what the model knows of
            it, else 0.5, which suits images in (-1, 1).
        floor: least root-mean-square error of the model's eps; by default 0 for closed forms, what
            `model.with_range` says, or 0.02.
        start: the highest noise level, see `sample`.

    Raises:
        ConfigError: for what is neither a model nor a process, a budget below 1, or a data_std that
            is not positive.
    """
    sde = model if isinstance(model, SDE) else getattr(model, "sde", None)
    if not isinstance(sde, SDE):
        raise ConfigError(
            f"settings depend on the model, got {type(model).__name__}; write "
            "recommended(model, nfe)"
        )
    if not isinstance(nfe, int) or nfe < 1:
        raise ConfigError(f"nfe must be a whole number, 1 or more, got {nfe!r}")
    std = (data_std_of(model) or DATA_STD) if data_std is None else data_std
    if not 0 < std < math.inf:
        raise ConfigError(f"data_std must be positive, got {data_std!r}")
    if floor is None:
        floor = FLOOR if isinstance(model, SDE) else floor_of(model)
    high = start_of(model, start).t
    if stochastic:
        return _noisy(sde, nfe, std, high)
    flow = next(f for f in reversed(_NETWORK if floor > 0 else _EXACT) if nfe >= f.least)
    axis = flow.polynomial
    solver = ExponentialMultistep(
        flow.values,
        flow.prediction,
        _in_units(axis, std) if isinstance(axis, Focus) else axis,
        corrector=flow.values - 1,
        start="krogstad4" if nfe >= _LONG else "",
        sigma_data=flow.sigma_data * std if flow.prediction == "v" else 1.0,
    )
    scale, low = _in_units(flow.grid, std), _last(sde, flow.last * std / nfe**flow.power, high)
    return solver, grid_for(
        solver, lambda sde, n: focused(sde, n, scale, t_min=low, t_max=high), sde, nfe
    )


def _noisy(sde: SDE, nfe: int, std: float, high: float) -> tuple[Solver, Grid]:
    """The solver that draws noise, and its grid down from the time `high`."""
    scale, low = Focus(0.25 * std, 8.0 * std, 0.6, 2.0), None
    solver: Solver = ExponentialMultistep(3, "v", "angle", tau=1.0, sigma_data=0.5 * std)
    if nfe < _NOISY:
        solver = ExponentialMultistep(2, "x0", "lambda", tau=0.4)
        low = _last(sde, std / nfe, high)
    return solver, grid_for(
        solver, lambda sde, n: focused(sde, n, scale, t_min=low, t_max=high), sde, nfe
    )


def _last(sde: SDE, rho: float, high: float) -> float:
    """The time of the last knot, at rho if that is one that the process reaches."""
    return min(max(sde.t_min, float(sde.t_at_lambda(-math.log(rho)))), 0.5 * high)


def _in_units(scale: Focus, unit: float) -> Focus:
    return replace(scale, low=unit * scale.low, high=unit * scale.high)
