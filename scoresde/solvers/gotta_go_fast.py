"""The adaptive solver of the reverse SDE."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .._internal.step_control import StepControl
from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..scalar import affine, sqrt
from ..sde import SDE
from ..sde.knot import Knot
from .adaptive import Tolerance, check_max_evals, integrate
from .bridge import Bridges
from .last_step import to_clean
from .solver import Carry, Solver

_LATTICE = 16  # step sizes change by powers of 2^(1/16), 4.4 %


@dataclass(frozen=True)
class GottaGoFast(Solver):
    r"""The adaptive solver of the reverse SDE, from Euler-Maruyama and stochastic improved Euler.

        x'  = x - h F(x, t) + g(t) sqrt(h) z                 F = f x - g^2 score
        x~  = x - h F(x', t - h) + g(t - h) sqrt(h) z
        x'' = (x' + x~) / 2

    Jolicoeur-Martineau et al., "Gotta Go Fast When Generating Data with Score-Based Models", 2021,
    algorithm 1 and table 5. The error of a step is the root mean square of
    (x'' - x') / max(atol, rtol max(|x'|, |x'_before|)). With an error of at most 1 the step is
    accepted and x'' is kept (extrapolation). The next step is 0.9 error^-0.9 times as long.

    Two things differ from the paper. Each sample has its own steps (`adaptive`). And z is the
    increment of a Brownian path that keeps the values which a rejected step has used (a bridge;
    Rackauckas & Nie, "Adaptive Methods for Stochastic Differential Equations via Natural Embeddings
    and Rejection Sampling with Memory", 2017). New noise at every attempt would favour draws with
    small errors and bias the samples.

    A sample drawn alone and in a batch should take the same steps, but in float32 the last bits of
    a network's output may depend on the batch size. A Brownian path is rough: at times that differ
    by 1e-7 it differs by 3e-4. So the factor on the step size is rounded down to a power of
    2^(1/16), which hides the last bits. Measured with the shipped 2-D network: 192 samples, alone
    and together, took the same number of evaluations and differed by at most 8e-7. This is not
    guaranteed: if an error lies within round-off of 1, or of a boundary of the rounding, the steps
    differ and the sample is another draw. In float64 both ways agree to round-off.

    Weak order 2 in the number of accepted steps. An accepted step takes two evaluations, a rejected
    one takes one. With a grid of two steps, `uniform_t(sde, 2)`, the solver chooses all its steps.
    The step to sigma = 0 is that of `last_step`.

    Attributes:
        rtol, atol: tolerances; 0.0078 is one grey level of 256 in (-1, 1).
        first: length of the first step, as a fraction of the interval.
        max_evals: the most evaluations per sample and step of the grid. A sample that needs more
            becomes NaN.
    """

    rtol: float = 0.05
    atol: float = 0.0078
    first: float = 0.01
    max_evals: int = 10_000

    order = 2
    stochastic = True

    def __post_init__(self) -> None:
        if not 0 < self.first <= 1:
            raise ConfigError(f"first must be a fraction in (0, 1], got {self.first!r}")
        Tolerance(self.atol, self.rtol)
        check_max_evals(self.max_evals)

    def evals(self, grid: Grid) -> None:
        """None: the number depends on the data."""
        return None

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        if s.is_clean:
            return to_clean(model, model(x, t)), None
        method = _Reverse(model.sde, t, s, Bridges(t, s, noise))
        start, stop = -float(t.t), -float(s.t)
        first = self.first * (stop - start)
        tolerance = Tolerance(self.atol, self.rtol)
        control = StepControl(0.9, 0.9, self.max_evals, lattice=_LATTICE)
        return integrate(method, model, x, start, stop, first, tolerance, control), None


@dataclass(frozen=True)
class _Reverse:
    """Steps of the reverse SDE in -t; the slope is F at the start of the step."""

    sde: SDE
    t: Knot
    s: Knot
    bridges: Bridges

    evals_per_attempt = 1

    def slope(self, model: Predictor, x: Tensor, at: Tensor) -> Tensor:
        knot = self._knot(at)
        f, g2 = self.sde.f(knot.t), self.sde.g2(knot.t)
        return model(x, knot).mix(f * knot.alpha, f * knot.sigma + g2 / knot.sigma)

    def attempt(
        self, model: Predictor, x: Tensor, slope: Tensor, at: Tensor, h: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        here, there = self._knot(at), self._knot(at + h)
        z = self._increment(here, there, rows, x)
        drifted = affine(1.0, x, -h, slope)
        low = affine(1.0, drifted, sqrt(self.sde.g2(here.t) * h), z)
        other = affine(1.0, x, -h, self.slope(model, low, at + h))
        other = affine(1.0, other, sqrt(self.sde.g2(there.t) * h), z)
        return low, affine(0.5, low, 0.5, other)

    def _increment(self, t: Knot, s: Knot, rows: Tensor, x: Tensor) -> Tensor:
        """Each sample's Brownian increment over its standard deviation: normals, shape (B, *)."""
        clocks = torch.stack([torch.as_tensor(k.rho).flatten() for k in (t, s)]).square()
        high, low = clocks.tolist()
        drawn = self.bridges.increments(rows.tolist(), high, low)
        deviation = (clocks[0] - clocks[1]).sqrt().reshape(-1, *[1] * (x.ndim - 1))
        return drawn.div(deviation).to(x.dtype)

    def _knot(self, at: Tensor) -> Knot:
        """The knot at -t = at, clamped to the step: outside it the network may not be trained."""
        return self.sde.at((-at).clamp(float(self.s.t), float(self.t.t)))
