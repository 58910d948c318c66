r"""The base class of SEEDS, DPM-Solver++ SDE and stochastic Heun: single-step SDE methods.

These methods integrate the linear part of the reverse SDE exactly (`exponential.forms`). They
evaluate the prediction u at stages between t and s, all on one realisation of the noise:

    x_i = decay_i x_t + total_i sum_j w_ij u_j + n_i,      n_i = decay n_(i-1) + spread z_i

The n_i have exactly the joint law of the SDE's noise at the stages. A method is a table of
weights w, whose rows sum to 1; the published methods differ only in this table.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine
from ..sde import SDE
from ..sde.knot import Knot
from .exponential.forms import Form, form
from .last_step import count_evals, to_clean
from .solver import Carry, Solver


@dataclass(frozen=True)
class StagedSDE(Solver):
    """A single-step method for the reverse SDE with noise scale `tau`.

    Attributes:
        tau: noise scale, 0 or more: 1 is the reverse SDE, 0 the probability flow.
    """

    tau: float = 1.0

    prediction: ClassVar[str]
    compiles = True

    def __post_init__(self) -> None:
        if not self.tau >= 0:
            raise ConfigError(f"tau must be 0 or more, got {self.tau!r}")

    @property
    def stochastic(self) -> bool:
        """Whether any noise is drawn."""
        return self.tau > 0

    @property
    @abstractmethod
    def nodes(self) -> tuple[float, ...]:
        """Positions of all stages after the first: ascending fractions of the step in lambda."""

    @abstractmethod
    def rows(self, h: float) -> tuple[tuple[float, ...], ...]:
        """Weights of each stage after the first, then those of the step, for a step h in lambda."""

    def evals(self, grid: Grid) -> int:
        """One per stage, plus those of `last_step`."""
        return count_evals(grid, 1 + len(self.nodes))

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        first = model(x, t)
        if s.is_clean:
            return to_clean(model, first), None
        kind = form(self.prediction)
        values = [kind.read(first)]
        here, drawn = t, None
        knots = [_between(model.sde, t, s, c) for c in self.nodes]
        for knot, row in zip([*knots, s], self.rows(float(s.lam - t.lam)), strict=True):
            drawn = self._noise(kind, here, knot, drawn, noise)
            stage = _combine(kind, self.tau, x, values, row, t, knot, drawn)
            if len(values) <= len(knots):
                values.append(kind.read(model(stage, knot)))
            here = knot
        return stage, None

    def _noise(
        self, kind: Form, t: Knot, s: Knot, before: Tensor | None, noise: NoiseStream
    ) -> Tensor | None:
        """The SDE's noise at s, given its noise at t."""
        if self.tau == 0 or t == s:
            return before
        z, spread = noise.increment(t, s), kind.spread(t, s, self.tau)
        if before is None:
            return z * spread
        return affine(kind.decay(t, s, self.tau), before, spread, z)


def _combine(
    kind: Form,
    tau: float,
    x: Tensor,
    values: list[Tensor],
    row: tuple[float, ...],
    t: Knot,
    s: Knot,
    noise: Tensor | None,
) -> Tensor:
    out = x * kind.decay(t, s, tau)
    total = kind.total(t, s, tau)
    for value, weight in zip(values, row, strict=True):
        out.add_(value, alpha=total * weight)
    return out if noise is None else out.add_(noise)


def _between(sde: SDE, t: Knot, s: Knot, fraction: float) -> Knot:
    return s if fraction == 1 else sde.at_lambda(float(t.lam + fraction * (s.lam - t.lam)))
