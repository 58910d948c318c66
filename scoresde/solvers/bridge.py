"""Brownian bridges: a solver that rejects a step keeps the noise that the step used."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b

import torch
from torch import Tensor

from ..noise import NoiseStream, generator, normal
from ..scalar import scale
from ..sde.knot import Knot

_SAME = 1e-12  # clocks with a smaller relative difference count as equal


class Bridges:
    """One Brownian path per sample between two knots, in the clock rho^2, for steps of any size.

    The noise stream gives the increment over the whole interval. A new value inside is drawn from
    its law given its neighbours, with the sample's own generator. Values are stored until the
    sample's steps have passed them, so repeated queries agree.
    """

    def __init__(self, t: Knot, s: Knot, noise: NoiseStream) -> None:
        high, low = float(t.rho) ** 2, float(s.rho) ** 2
        total = scale((high - low) ** 0.5, noise.increment(t, s).double())
        self.clocks = [[low, high] for _ in total]
        self.values = [[torch.zeros_like(row), row] for row in total]
        # One draw of the stream gives the seeds: a path depends only on its sample's noise.
        self.generators = [generator(seed_from(row), device=row.device) for row in noise.normal()]

    def increments(self, rows: list[int], high: list[float], low: list[float]) -> Tensor:
        """B(high) - B(low) for these samples, shape (B, *); values above `high` are forgotten."""
        tops, aboves, belows, weights = [], [], [], []
        z = torch.zeros(len(rows), *self.values[rows[0]][0].shape, dtype=torch.float64)
        z = z.to(self.values[rows[0]][0].device)
        places = []
        for i, (row, u, v) in enumerate(zip(rows, high, low, strict=True)):
            clocks, values = self.clocks[row], self.values[row]
            top = bisect_left(clocks, u * (1 - _SAME), hi=len(clocks) - 1)
            del clocks[top + 1 :], values[top + 1 :]
            place = bisect_left(clocks, v * (1 - _SAME), hi=top)
            tops.append(values[top])
            aboves.append(values[place])
            if place == 0 or clocks[place] <= v * (1 + _SAME):
                belows.append(values[place])
                weights.append((0.0, 0.0))
                places.append(0)
                continue
            a, b = clocks[place - 1], clocks[place]
            part = (v - a) / (b - a)
            belows.append(values[place - 1])
            weights.append((part, ((v - a) * (1 - part)) ** 0.5))
            z[i] = normal(z[i].shape, self.generators[row], z.dtype)
            places.append(place)
        below = torch.stack(belows)
        factors = torch.tensor(weights, dtype=z.dtype, device=z.device)
        share, spread = factors.reshape(len(rows), 2, *[1] * (z.ndim - 1)).unbind(1)
        found = below + share * (torch.stack(aboves) - below) + spread * z
        for row, place, v, value in zip(rows, places, low, found, strict=True):
            if place > 0:
                self.clocks[row].insert(place, v)
                self.values[row].insert(place, value)
        return torch.stack(tops) - found


def seed_from(z: Tensor) -> int:
    """A seed: a hash of all bits of z."""
    return int.from_bytes(
        blake2b(z.double().cpu().numpy().tobytes(), digest_size=7).digest(), "big"
    )
