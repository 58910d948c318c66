r"""The local error of a solver, measured along reference trajectories at no further evaluations.

A fine solve stores states and predictions at M knots, evenly spaced in log-SNR. The solver's own
`step` is then run along any subset of these knots with the stored predictions in place of the
network's, and from the stored states: what it misses the next stored state by is the error of that
step alone,

    E[i, j] = RMS over trajectories of |x_j - step(x_i; predictions at i, i-g, i-2g, ...)| / r,

with g = j - i, in the normalised state x/r, r = sqrt(alpha^2 + sigma^2), which is of unit size at
both ends. No formula of the solver is used, so that this serves any rule; only where a rule asks
between knots is the network called again.
"""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..grid import Grid, uniform_lambda
from ..model import Predictor, device_of
from ..noise import source
from ..prediction import Prediction
from ..sampling.run import iterate
from ..sde import CLEAN
from ..sde.knot import Knot
from ..solvers.exponential import ExponentialMultistep
from ..solvers.legs import parts
from ..solvers.solver import Solver
from ..wrapper import Wrapper
from .cost import Metered

Array = NDArray[np.float64]

_PAST = 3  # knots before the step, whose predictions a multistep rule may use
_LAST = 0.003  # rho of the last fine knot


class _Memory(Wrapper):
    """A predictor that records what the network says, and then answers from the record."""

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.record, self.full = dict[Knot, Prediction](), False

    def rows(self, index: Tensor) -> Self:
        """See `Predictor`: trajectories stay together here."""
        raise NotImplementedError

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """What was said at the knot, whatever x; the network's answer where there is none."""
        if knot in self.record:
            return self.record[knot]
        found = self.model(x, knot)
        if not self.full:
            self.record[knot] = found
        return found


class Pilot:
    """Reference trajectories from x, shape (B, *), at `count` fine knots and at sigma = 0.

    Attributes:
        knots: all of them.
        states: the state at each, shape (B, *), float64.
    """

    def __init__(self, model: Metered, x: Tensor, count: int, t_max: float) -> None:
        self._memory = _Memory(model)
        sde = model.sde
        low = max(sde.t_min, float(sde.t_at_lambda(-math.log(_LAST))))
        fine = uniform_lambda(sde, count, t_min=min(low, 0.5 * t_max), t_max=t_max)
        # Without a corrector, predictions are made at the very states that are stored.
        path = iterate(
            self._memory, ExponentialMultistep(4), fine, x=x.to(device_of(model), torch.float64)
        )
        info = list(path)
        self._memory.full = True
        self.knots = [step.knot for step in info]
        self.states = [step.x for step in info]

    def grid(self, places: Array) -> Grid:
        """The grid through real-valued places along the fine knots, then to sigma = 0."""
        sde, inner = self._memory.sde, self.knots[:-1]
        lams = np.array([float(knot.lam) for knot in inner])
        if inner[0].is_zero_snr:
            lams[0] = lams[1] - 1.0  # never read: the first place is 0
        at = np.interp(places[1:], np.arange(len(lams)), lams)
        return Grid(sde, (inner[0], *(sde.at_lambda(float(lam)) for lam in at), CLEAN))

    def errors(self, solver: Solver, longest: int) -> tuple[Array, Array]:
        """Errors of steps from fine knot i to j up to `longest` knots on, shape (M, M), infinite
        where there is no such step; and of steps from j to sigma = 0 where j was reached from i.
        """
        count = len(self.knots) - 1  # without the clean end
        into, ends = np.full((count, count), np.inf), np.full((count, count), np.inf)
        rule = _predictor(solver)
        for gap in range(1, longest + 1):
            for i in range(count - gap):
                before = [k for k in range(i - _PAST * gap, i + 1, gap) if k >= 0]
                into[i, i + gap] = self._miss(rule, [*before, i + gap])
                if i + gap > count // 2:  # far from the data no grid ends
                    ends[i, i + gap] = self._miss(rule, [*before, i + gap, count])
        return into, ends

    def _miss(self, solver: Solver, places: list[int]) -> float:
        """RMS error of the last of some steps, each of which starts from the stored state."""
        grid = Grid(self._memory.sde, tuple(self.knots[k] for k in places))
        stream = source(0).open(self.states[0].shape, torch.float64, self.states[0].device)
        remaining = iter(places)
        for rule, part in parts(solver, grid):
            carry = rule.init(self._memory, part)
            for t, s in pairwise(part.knots):
                x = self.states[next(remaining)]
                moved, carry = rule.step(self._memory, x, t, s, carry, stream)
        end = CLEAN if grid.ends_clean else s
        return float((moved - self.states[places[-1]]).square().mean().sqrt()) / float(end.radius)


def _predictor(solver: Solver) -> Solver:
    """Without a corrector, which mends the step before and says nothing of this one."""
    if not isinstance(solver, ExponentialMultistep):
        return solver
    values = max(solver.values, solver.corrector)
    return dataclasses.replace(solver, values=values, corrector=0, start="")
