r"""The exact test problem for solvers: all coordinates are independent, with one distribution.

In each coordinate the data are a mixture of two Gaussians, so any event shape has an exact model.
In one dimension the probability flow keeps the order of points, so it maps quantiles to quantiles:
its exact solution is x_s = Q_s(F_t(x_t)). This needs no ODE solver, although the velocity is not
linear in x. With one component the flow and the reverse SDE are linear, and every moment of a
linear scheme is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..errors import ConfigError
from ..prediction import Prediction, parametrization
from ..scalar import hypot
from ..sde import SDE
from ..sde.knot import Knot

_V = parametrization("v")  # regular from alpha = 0 to sigma = 0


@dataclass(frozen=True)
class Bimodal:
    """The exact model of data whose coordinates come from a mixture of two Gaussians.

    All operations are elementwise, so no sample depends on the others through the rounding of a
    matrix product.

    Attributes:
        process: the process.
        low, high: means of the two components; if they are equal, there is one Gaussian.
        weight: weight of the first component.
        variance: variance of each component.
    """

    process: SDE
    low: float = -0.7
    high: float = 0.6
    weight: float = 0.4
    variance: float = 0.16

    @property
    def sde(self) -> SDE:
        """See `Predictor`."""
        return self.process

    def rows(self, index: Tensor) -> Bimodal:
        """See `Predictor`: the model itself, since it has no conditions."""
        return self

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The exact prediction at x, shape (B, *), computed in float64."""
        if knot.is_clean:
            raise ConfigError("the network was called at sigma = 0, where it is not defined")
        wide = x.to(torch.float64)
        alpha, sigma = knot.alpha, knot.sigma
        total = alpha * alpha * self.variance + sigma * sigma  # variance of a component at t
        gap, middle = self.low - self.high, 0.5 * (self.low + self.high)
        odds = (wide - alpha * middle) * (alpha * gap / total)
        share = torch.sigmoid(odds + math.log(self.weight / (1 - self.weight)))
        mean = share * gap + self.high  # expected mean of the component, given x
        pull = (wide - alpha * mean) / total
        # eps = sigma pull and x0 = mean + alpha variance pull, without cancellation at either end.
        r = hypot(alpha, sigma)
        v = pull * (alpha * sigma * (1 - self.variance) / r) - mean * (sigma / r)
        return Prediction(x, knot, v.to(x.dtype), _V)

    def cdf(self, x: Tensor, knot: Knot) -> Tensor:
        """The probability P(x_t <= x), elementwise, at a float knot (sigma = 0 too)."""
        std = math.sqrt(float(knot.alpha) ** 2 * self.variance + float(knot.sigma) ** 2)
        first: Tensor = torch.special.ndtr((x - float(knot.alpha) * self.low) / std)
        second: Tensor = torch.special.ndtr((x - float(knot.alpha) * self.high) / std)
        return self.weight * first + (1 - self.weight) * second

    def quantiles(self, shares: Sequence[float], knot: Knot) -> Tensor:
        """Quantiles of x_t at these probabilities, shape (len(shares), 1), float64."""
        return self._quantiles(tuple(shares), knot).clone()

    @lru_cache(maxsize=256)  # noqa: B019 - of frozen values, and bounded
    def _quantiles(self, shares: tuple[float, ...], knot: Knot) -> Tensor:
        target = torch.tensor(shares, dtype=torch.float64).reshape(-1, 1)
        reach = 12.0 * math.hypot(float(knot.alpha), float(knot.sigma))
        low, high = torch.full_like(target, -reach), torch.full_like(target, reach)
        for _ in range(80):  # bisection, down to two neighbouring floats
            middle = 0.5 * (low + high)
            below = self.cdf(middle, knot) < target
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def moments(self, knot: Knot) -> tuple[float, float]:
        """Mean and variance of a coordinate of x_t."""
        alpha, sigma = float(knot.alpha), float(knot.sigma)
        mean = self.weight * self.low + (1 - self.weight) * self.high
        between = self.weight * (1 - self.weight) * (self.low - self.high) ** 2
        return alpha * mean, alpha**2 * (self.variance + between) + sigma**2
