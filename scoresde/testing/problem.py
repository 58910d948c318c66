r"""The exact problem that solvers are checked on: one law for every coordinate of any shape.

Clean data are a mixture of two Gaussians in each coordinate, independently, so that any event
shape has an exact model. In one dimension the probability flow keeps the order of points, hence
carries quantiles to quantiles: x_s = Q_s(F_t(x_t)) is its exact solution, found without solving
any ODE, for a velocity that is not linear in x. With one component the flow and the reverse SDE
are linear, and every moment of a linear scheme is known exactly.
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
    """The exact model of data whose coordinates are drawn from a mixture of two Gaussians.

    Everything is elementwise, so that a sample cannot depend on its batch-mates through rounding
    in a matrix product.

    Attributes:
        process: the process.
        low, high: means of the two components; one Gaussian where they are equal.
        weight: of the first component.
        variance: of both.
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
        """See `Predictor`: there are no conditions."""
        return self

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The exact prediction at x, shape (B, *), computed in float64."""
        if knot.is_clean:
            raise ConfigError("the network was asked at sigma = 0, where it has no meaning")
        wide = x.to(torch.float64)
        alpha, sigma = knot.alpha, knot.sigma
        total = alpha * alpha * self.variance + sigma * sigma  # variance of a component at t
        gap, middle = self.low - self.high, 0.5 * (self.low + self.high)
        odds = (wide - alpha * middle) * (alpha * gap / total)
        share = torch.sigmoid(odds + math.log(self.weight / (1 - self.weight)))
        mean = share * gap + self.high  # of the data, given x, as far as the component goes
        pull = (wide - alpha * mean) / total
        # eps = sigma pull and x0 = mean + alpha variance pull; nothing cancels at either end.
        r = hypot(alpha, sigma)
        v = pull * (alpha * sigma * (1 - self.variance) / r) - mean * (sigma / r)
        return Prediction(x, knot, v.to(x.dtype), _V)

    def cdf(self, x: Tensor, knot: Knot) -> Tensor:
        """P(x_t <= x), elementwise, at a float knot (the clean end too)."""
        std = math.sqrt(float(knot.alpha) ** 2 * self.variance + float(knot.sigma) ** 2)
        first: Tensor = torch.special.ndtr((x - float(knot.alpha) * self.low) / std)
        second: Tensor = torch.special.ndtr((x - float(knot.alpha) * self.high) / std)
        return self.weight * first + (1 - self.weight) * second

    def quantiles(self, shares: Sequence[float], knot: Knot) -> Tensor:
        """Where the distribution function takes these values, shape (len(shares), 1), float64."""
        return self._quantiles(tuple(shares), knot).clone()

    @lru_cache(maxsize=256)  # noqa: B019 - of frozen values, and bounded
    def _quantiles(self, shares: tuple[float, ...], knot: Knot) -> Tensor:
        target = torch.tensor(shares, dtype=torch.float64).reshape(-1, 1)
        reach = 12.0 * math.hypot(float(knot.alpha), float(knot.sigma))
        low, high = torch.full_like(target, -reach), torch.full_like(target, reach)
        for _ in range(80):  # bisection, down to neighbouring floats
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
