"""Random probes for trace estimates, with one stream of random numbers for each sample."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..noise import generator
from .divergence import Divergence
from .streams import PROBES, derived


class ProbeStream:
    """A source of probes of shape (P, B, *); each call of `draw` gives new ones.

    The k-th draw of a sample depends only on the sample's seed, not on its batch. Streams of `rows`
    share their generators with this stream.
    """

    def __init__(
        self, divergence: Divergence, seeds: Sequence[int], like: Tensor, *, salt: str = PROBES
    ) -> None:
        self.divergence, self.like = divergence, like.new_empty(0, *like.shape[1:])
        self.generators = [
            generator(seed, device=like.device)
            for seed in (() if divergence.exact else derived(seeds, salt).seeds)
        ]

    def draw(self) -> Tensor | None:
        """New probes for every sample; None for an exact divergence."""
        if self.divergence.exact:
            return None
        event = (self.divergence.columns, *self.like.shape[1:])
        drawn = [self.divergence.draw(event, g, self.like) for g in self.generators]
        return torch.stack(drawn, 1) if drawn else self.like.new_empty(event[0], *self.like.shape)

    def rows(self, index: Tensor) -> ProbeStream:
        """The streams of these samples."""
        part = object.__new__(ProbeStream)
        part.divergence, part.like = self.divergence, self.like
        part.generators = [self.generators[i] for i in index.tolist()] if self.generators else []
        return part
