r"""The local error of a solver, measured along reference trajectories without new evaluations.

A fine solve stores states and predictions at M knots, evenly spaced in log-SNR. The solver's own
`step` then runs along any subset of these knots. It starts from the stored states and uses the
stored predictions instead of the network. Its distance to the next stored state is the error of
that step alone,

    E[i, j] = RMS over trajectories of |x_j - step(x_i; predictions at i, i-g, i-2g, ...)| / r,

with g = j - i, in the normalised state x/r, r = sqrt(alpha^2 + sigma^2), which has unit size at
both ends. The method uses no formula of the solver, so it works for any rule. The network is
called again only if a rule evaluates it between knots.
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
    """A predictor that records the predictions of the network, and later returns them."""

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.record, self.full = dict[Knot, Prediction](), False

    def rows(self, index: Tensor) -> Self:
        """Not needed here: the batch of trajectories never changes."""
        raise NotImplementedError

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The recorded prediction at the knot, whatever x is; without one, call the network."""
        if knot in self.record:
            return self.record[knot]
        found = self.model(x, knot)
        if not self.full:
            self.record[knot] = found
        return found


class Pilot:
    """Reference trajectories from x, shape (B, *), at `count` fine knots and at sigma = 0.

    Attributes:
        knots: the fine knots, and the clean end.
        states: the state at each knot, shape (B, *), float64.
    """

    def __init__(self, model: Metered, x: Tensor, count: int, t_max: float) -> None:
        self._memory = _Memory(model)
        sde = model.sde
        low = max(sde.t_min, float(sde.t_at_lambda(-math.log(_LAST))))
        fine = uniform_lambda(sde, count, t_min=min(low, 0.5 * t_max), t_max=t_max)
        # Without a corrector, the predictions belong to exactly the stored states.
        path = iterate(
            self._memory, ExponentialMultistep(4), fine, x=x.to(device_of(model), torch.float64)
        )
        info = list(path)
        self._memory.full = True
        self.knots = [step.knot for step in info]
        self.states = [step.x for step in info]

    def grid(self, places: Array) -> Grid:
        """The grid with knots at real-valued places along the fine knots, then sigma = 0."""
        sde, inner = self._memory.sde, self.knots[:-1]
        lams = np.array([float(knot.lam) for knot in inner])
        if inner[0].is_zero_snr:
            lams[0] = lams[1] - 1.0  # never read: the first place is 0
        at = np.interp(places[1:], np.arange(len(lams)), lams)
        return Grid(sde, (inner[0], *(sde.at_lambda(float(lam)) for lam in at), CLEAN))

    def errors(self, solver: Solver, longest: int) -> tuple[Array, Array]:
        """Local errors of all steps, and of all last steps.

        Returns:
            Errors of steps from fine knot i to j, for j - i up to `longest`, shape (M, M); infinite
            for other pairs. And errors of the step from j to sigma = 0 after a step from i to j,
            also (M, M).
        """
        count = len(self.knots) - 1  # without the clean end
        into, ends = np.full((count, count), np.inf), np.full((count, count), np.inf)
        rule = _predictor(solver)
        for gap in range(1, longest + 1):
            for i in range(count - gap):
                before = [k for k in range(i - _PAST * gap, i + 1, gap) if k >= 0]
                into[i, i + gap] = self._miss(rule, [*before, i + gap])
                if i + gap > count // 2:  # no grid has its last knot far from the data
                    ends[i, i + gap] = self._miss(rule, [*before, i + gap, count])
        return into, ends

    def _miss(self, solver: Solver, places: list[int]) -> float:
        """RMS error of the last of several steps; each step starts from the stored state."""
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
    """The solver without its corrector, which changes only the state before the step."""
    if not isinstance(solver, ExponentialMultistep):
        return solver
    values = max(solver.values, solver.corrector)
    return dataclasses.replace(solver, values=values, corrector=0, start="")
