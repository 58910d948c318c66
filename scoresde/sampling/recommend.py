"""`recommended`: the solver and the grid that were best in the library's own measurements.

The settings depend on the number of network evaluations and on whether the model has an error of
its own, not on the problem. A polynomial through several predictions multiplies a network's error
by the sum of the absolute values of its weights. So a network needs fewer values than a closed
form. The settings were chosen on some problems and networks, and measured on others: see
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

_NOISY = 14  # with this many evaluations or more, full noise is better
_LONG = 150  # with this many evaluations or more, a Runge-Kutta start is better


class _Flow(NamedTuple):
    """Settings for the probability flow of data of standard deviation 1.

    Attributes:
        least: the smallest number of evaluations for these settings.
        values: number of predictions in the polynomial; the corrector has one less.
        prediction: the variable of the polynomial.
        polynomial: the axis of the polynomial.
        last, power: rho of the last knot is last / evaluations^power.
        grid: the axis on which knots are evenly spaced.
        sigma_data: `sigma_data` of v.
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
    """A solver and a grid for at most `nfe` evaluations of the model per sample.

    Deterministic (the default): an exponential multistep method.

    - Predictor and corrector use the same number of values.
    - Networks: in x0, with 2 values, then 3 from 10 evaluations on.
    - Closed forms: in v, with 2 values, then 3 from 8 evaluations on, 4 from 15, 5 from 25, 6 from
      75; the polynomials are in a `Focus`.
    - The grid is uniform in a `Focus`. With few evaluations the first step is very long: it goes to
      the noise level where data begin to take shape. With more evaluations the steps become longer
      smoothly towards both ends.

    Stochastic: the same family with full noise (tau = 1), order 3, and v with sigma_data of 0.5
    data_std. The grid is uniform in log-SNR, with more steps, by half, for rho between 0.25 and 8
    data_std. With fewer than 14 evaluations it has less noise (tau = 0.4), order 2 in x0, and its
    last knot at rho = data_std / nfe, if the process reaches that. The last step takes three
    evaluations, so a budget of 2 or 3 gives one step with one evaluation.

    Args:
        model: the model; or only its process, which stands for a network of that process.
        nfe: calls of the model per sample, 1 or more. Each is one network evaluation, or 2 under
            guidance.
        stochastic: follow the reverse SDE instead of the probability flow.
        data_std: standard deviation of the data, per coordinate; by default the model's, if it
            knows it, else 0.5, which suits images in (-1, 1).
        floor: least root-mean-square error of the model's eps; by default 0 for closed forms, else
            the value given to `model.with_range`, else 0.02.
        start: the highest noise level, see `sample`.

    Raises:
        ConfigError: for anything but a model or a process, if nfe is below 1, or if data_std is
            not positive.
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
