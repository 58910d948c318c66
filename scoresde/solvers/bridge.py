"""Brownian bridges, by which a solver may reject a step without forgetting its noise."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b

import torch
from torch import Tensor

from ..noise import NoiseStream
from ..scalar import scale
from ..sde.knot import Knot


class Bridge:
    """One sample's Brownian path between two values of its clock, rho^2, met by any steps.

    What has been asked for is remembered until the path has gone past it, so that answers agree
    with one another; new values are drawn from the law given their neighbours.
    """

    def __init__(self, low: float, high: float, total: Tensor, seed: int) -> None:
        self.clocks = [low, high]
        self.values = [torch.zeros_like(total), total]
        self.generator = torch.Generator(total.device).manual_seed(seed)

    def increment(self, high: float, low: float) -> Tensor:
        """B(high) - B(low), the path having come down to `high`."""
        top = self._at(high)
        bottom = self._at(low)
        keep = bisect_left(self.clocks, high) + 1
        del self.clocks[keep:], self.values[keep:]
        return top - bottom

    def _at(self, clock: float) -> Tensor:
        clock = min(max(clock, self.clocks[0]), self.clocks[-1])
        place = bisect_left(self.clocks, clock)
        if self.clocks[place] == clock:
            return self.values[place]
        (a, b), (u, v) = self.clocks[place - 1 : place + 1], self.values[place - 1 : place + 1]
        share = (clock - a) / (b - a)
        z = torch.randn(u.shape, generator=self.generator, dtype=u.dtype, device=u.device)
        value: Tensor = torch.lerp(u, v, share) + z * ((clock - a) * (1 - share)) ** 0.5
        self.clocks.insert(place, clock)
        self.values.insert(place, value)
        return value


def bridges(t: Knot, s: Knot, noise: NoiseStream) -> list[Bridge]:
    """One bridge a sample, over the stream's own increment from t to s.

    Seeds come from one draw of the stream, so that a sample's path depends on its noise alone.
    """
    high, low = float(t.rho) ** 2, float(s.rho) ** 2
    total = scale((high - low) ** 0.5, noise.increment(t, s).double())
    seeds = [seed_from(row) for row in noise.normal()]
    return [Bridge(low, high, row, seed) for row, seed in zip(total, seeds, strict=True)]


def seed_from(z: Tensor) -> int:
    """A seed made of every bit of some noise."""
    return int.from_bytes(
        blake2b(z.double().cpu().numpy().tobytes(), digest_size=7).digest(), "big"
    )
