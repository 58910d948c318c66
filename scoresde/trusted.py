"""The noise levels at which a model is trusted, as a value.

A network of noise prediction has a floor of precision: the error of its eps is about some e at
every noise level, so the error of its x0 is e rho, which grows without bound, while the mean of
the data errs by the deviation of the data alone. Above rho = deviation / e the network knows less
than the mean of the data. There the flow is that of the data's Gaussian, in closed form: samples
start, and likelihoods end, at the highest level that is trusted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ConfigError


class Level(NamedTuple):
    """How good a model's x0 is at one noise level. Errors are root mean squares per coordinate.

    Attributes:
        rho: sigma / alpha.
        error: of the model's x0; without data, an estimate from what it says to pure noise.
        guess: of the best linear guess of x0 from x, for data with this mean and deviation.
    """

    rho: float
    error: float
    guess: float


@dataclass(frozen=True, eq=False)
class NoiseRange:
    """Where a model is trusted, and the moments of the data that take its place above.

    `scoresde.noise_range` measures one; `model.with_range(found)` attaches it. Moments and range
    may also be written down by hand.

    Attributes:
        low, high: lowest and highest trusted rho = sigma / alpha.
        mean: of the data, shape (*event), float64.
        variance: of the data, per coordinate.
        levels: what was measured, from low noise to high.
    """

    low: float
    high: float
    mean: Tensor
    variance: float
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high < math.inf:
            raise ConfigError(
                f"a noise range needs 0 <= low < high, in units of rho = sigma / alpha, got "
                f"low={self.low!r}, high={self.high!r}"
            )
        if not 0 < self.variance < math.inf:
            raise ConfigError(f"the variance of the data must be positive, got {self.variance!r}")
        mean = torch.as_tensor(self.mean, dtype=torch.float64).detach().cpu()
        if not bool(torch.isfinite(mean).all()):
            raise ConfigError("the mean of the data must be finite, and it is not")
        object.__setattr__(self, "mean", mean)

    @property
    def std(self) -> float:
        """Standard deviation of the data, per coordinate."""
        return math.sqrt(self.variance)

    def __str__(self) -> str:
        return (
            f"trusted from rho = {self.low:.3g} to {self.high:.3g}, where its own error is below "
            f"that of guessing; start sampling at rho = {self.high:.3g}"
        )

    def table(self) -> str:
        """The levels as lines of text; errors are of x0, and lower is better.

        The network's own error is what its error has beyond that of the guess, in squares. A level
        is trusted if it is below the error of the guess.
        """
        lines = ["      rho       error   own error   error of the guess   trusted"]
        for rho, error, guess in self.levels:
            mark = "yes" if self.low <= rho <= self.high else "no"
            own = math.sqrt(max(error**2 - guess**2, 0.0))
            lines.append(f"{rho:9.3g}   {error:9.4g}   {own:9.4g}   {guess:18.4g}   {mark}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {
            "low": self.low,
            "high": self.high,
            "mean": self.mean.tolist(),
            "variance": self.variance,
            "levels": [list(level) for level in self.levels],
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NoiseRange:
        """What `to_dict` wrote.

        Raises:
            ConfigError: for anything else.
        """
        try:
            levels = tuple(Level(*map(float, level)) for level in data["levels"])
            mean = torch.tensor(data["mean"], dtype=torch.float64)
            numbers = (float(data[name]) for name in ("low", "high", "variance"))
            low, high, variance = numbers
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"not a noise range: {error!r}") from error
        return cls(low, high, mean, variance, levels)
