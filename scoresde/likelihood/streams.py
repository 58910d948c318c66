"""Seeds of the random numbers of a likelihood: probes, dequantization noise, times.

Each sample has one seed, from which it gets an independent stream for each purpose. So the estimate
of a sample depends only on its own seed, and its probes do not depend on its dequantization.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import ShapeError
from ..noise import SampleSeeds, mix

PROBES, PIXELS, NOISE, TIMES = "probes", "pixels", "noise", "times"


def per_sample(seeds: int | Sequence[int], batch: int) -> tuple[int, ...]:
    """One seed for each sample; a single number s means s, s + 1, ...

    Raises:
        ShapeError: if the number of seeds is not the number of samples.
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
    """Seeds of streams for one purpose, independent of those for other purposes."""
    return SampleSeeds(tuple(mix(seed, *purpose) for seed in seeds))
