"""The first candidates of a search, and the parameters by which a candidate is moved."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..axis import Focus
from ..grid import Grid, karras, uniform_lambda, uniform_t
from ..sde import CLEAN
from ..solvers.exponential import ExponentialMultistep
from ..solvers.solver import Solver
from .endpoint_objective import Candidate

Array = NDArray[np.float64]

_ENDS = (0.003, 0.01, 0.03, 0.06, 0.12, 0.25, 0.5)  # rho of the last knot before sigma = 0
_CONTROLS = 12
_SHORT = 15  # with fewer steps, high orders are not worth trying


def stock_grids(base: Grid, steps: int, ends: Sequence[float] = _ENDS) -> dict[str, Grid]:
    """Hand-made grids from the start of `base` to several levels; `ends` are values of rho."""
    sde, t_max = base.sde, float(base.knots[0].t)
    found = {
        "uniform_t": uniform_t(sde, steps, t_max=t_max),
        "uniform_lambda": uniform_lambda(sde, steps, t_max=t_max),
    }
    makers: dict[str, Callable[..., Grid]] = {
        "uniform_lambda": uniform_lambda,
        "karras": karras,
        "uniform_t": uniform_t,
    }
    for rho in ends:
        end = float(sde.at_lambda(-math.log(rho)).t)
        if sde.t_min < end < t_max:
            for name, maker in makers.items():
                found[f"{name} down to rho = {rho:g}"] = maker(sde, steps, t_min=end, t_max=t_max)
    return found


def families(default: Solver, steps: int) -> list[Solver]:
    """Multistep rules of several orders in several prediction variables, the default first."""
    scale = getattr(default, "coordinate", None)
    scale = scale if isinstance(scale, Focus) else Focus()
    pairs = [(2, 0), (3, 0), (4, 0), (3, 3)] if steps < _SHORT else [(4, 0), (3, 3), (4, 4), (5, 5)]
    found: list[Solver] = [default]
    for prediction in ("v", "x0", "eps"):
        for values, corrector in pairs:
            rule = ExponentialMultistep(values, prediction, scale, corrector=corrector)
            if rule not in found:
                found.append(rule)
    return found


class Motion:
    """Maps a vector of parameters to a candidate; the zero vector is the base candidate.

    All parameters are logarithms. Gaps between knots in log(rho) are multiplied by exp of a
    piecewise linear function with at most 12 controls. So knots cannot cross, and a long grid keeps
    its fine structure. With `free`, the fields of the solver's `Focus` change too, and `sigma_data`
    if it predicts v.
    """

    def __init__(self, base: Candidate, *, free: bool) -> None:
        self.base = base
        self._sde, knots = base.grid.sde, base.grid.knots
        self._first = knots[0]
        lams = [float(knot.lam) for knot in knots[:-1]]
        if self._first.is_zero_snr:
            lams[0] = lams[1] - 1.0
        self._lam, self._gaps = lams[0], np.diff(lams)
        self._controls = min(len(self._gaps), _CONTROLS)
        self._fields = np.zeros(0)  # logarithms of the solver's fields that change
        solver = base.solver if free else None
        if isinstance(solver, ExponentialMultistep) and isinstance(solver.coordinate, Focus):
            now = solver.coordinate
            fields = [now.low, now.high - now.low, now.edge, now.floor]
            fields += [solver.sigma_data] if solver.prediction == "v" else []
            self._fields = np.log(fields)

    @property
    def start(self) -> Array:
        """The parameters of the base candidate, all 0."""
        return np.zeros(self._controls + len(self._fields))

    def __call__(self, theta: Array) -> Candidate:
        """The candidate at parameters theta."""
        controls, rest = theta[: self._controls], theta[self._controls :]
        places = np.linspace(0, len(self._gaps) - 1, self._controls)
        factors = np.interp(np.arange(len(self._gaps)), places, controls)
        gaps = self._gaps * np.exp(np.clip(factors, -6, 6))
        end = float(self._sde.at(self._sde.t_min).lam)
        if (total := gaps.sum()) > end - self._lam:  # the grid would pass t_min
            gaps *= (end - self._lam) / total
        lams = np.minimum(self._lam + np.cumsum(gaps), end)
        inner = [self._sde.at_lambda(float(lam)) for lam in lams]
        solver = self.base.solver
        if len(self._fields) and isinstance(solver, ExponentialMultistep):
            fields = np.exp(np.clip(self._fields + rest, -7, 7)).tolist()
            low, breadth, edge, floor, deviation = [*fields, solver.sigma_data][:5]
            solver = dataclasses.replace(
                solver, coordinate=Focus(low, low + breadth, edge, floor), sigma_data=deviation
            )
        return Candidate(self.base.name, solver, Grid(self._sde, (self._first, *inner, CLEAN)))
