"""Seeds of what a likelihood draws: probes and dequantization noise.

One seed a sample, and from it one independent stream for each purpose: a sample's estimate
depends on its own seed alone, and its probes not on its dequantization.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError
from ..noise import SampleSeeds, mix

PROBES, PIXELS, NOISE, TIMES = "probes", "pixels", "noise", "times"


def per_sample(seeds: int | Sequence[int], batch: int) -> tuple[int, ...]:
    """One seed a sample; a single number s stands for s, s + 1, ...

    Raises:
        ShapeError: if there is not one seed a sample.
    """
    if isinstance(seeds, int | np.integer):
        return tuple(range(int(seeds), int(seeds) + batch))
    given = tuple(int(seed) for seed in seeds)
    if len(given) != batch:
        raise ShapeError(
            f"{len(given)} seeds for a batch of {batch}; write seeds=range({batch}), or one number"
        )
    return given


def derived(seeds: Sequence[int], *purpose: int | str) -> SampleSeeds:
    """Streams for one purpose, independent of those for any other."""
    return SampleSeeds(tuple(mix(seed, *purpose) for seed in seeds))
