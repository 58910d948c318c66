"""How a comparison is measured: from which starts, and against what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._internal.checks import check_dtype, check_event_shape
from ..errors import ConfigError
from ..metrics.features import Features
from ..model import Predictor, event_shape_of
from ..noise import SampleSeeds


@dataclass(frozen=True)
class Starts:
    """The starts that all cells of a comparison share.

    Attributes:
        count: samples a cell.
        seed: sample k has the seed `seed + k`, in every cell.
        event_shape: shape of one sample, without the batch; None for that of the true samples or
            of a closed-form model.
        dtype: of the state.

    Raises:
        ConfigError: for fewer than one sample.
    """

    count: int = 64
    seed: int = 0
    event_shape: tuple[int, ...] | None = None
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise ConfigError(
                f"a cell needs 1 sample or more, got Starts(count={self.count!r}); write Starts(64)"
            )
        check_dtype(self.dtype)

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed a sample."""
        return tuple(range(self.seed, self.seed + self.count))

    def draw(self, model: Predictor, event: Sequence[int]) -> Tensor:
        """States at the model's t_max, shape (count, *event)."""
        stream = SampleSeeds(self.seeds).open((self.count, *event), self.dtype)
        return model.sde.prior_sample(stream)

    def event(self, model: Any, truth: Tensor | None) -> tuple[int, ...]:
        """The shape of one sample: as given, or that of true samples or of the model.

        Raises:
            ConfigError: if it is not known.
            ShapeError: if it is another than theirs.
        """
        known = truth.shape[1:] if truth is not None else event_shape_of(model)
        if self.event_shape is not None:
            return check_event_shape(self.event_shape, known)
        if known is None:
            raise ConfigError(
                "the shape of a sample is not known; write starts=Starts(event_shape=(1, 28, 28))"
            )
        return tuple(known)


@dataclass(frozen=True, eq=False)
class Against:
    """What samples are compared with.

    Attributes:
        truth: true samples, shape (m, *); drawn from the model where it is a closed-form one.
        features: maps samples (B, *) to features (B, F), see `scoresde.metrics.features`.
        tolerance: of the reference endpoints of deterministic solvers, see `solve_reference`.
    """

    truth: Tensor | None = None
    features: Features | None = None
    tolerance: float | None = None

    def split(self, model: Any, count: int) -> tuple[Tensor | None, Tensor | None]:
        """True samples to compare with, and `count` others, which tell the floor: what a perfect
        sampler would score. None where there are not enough.
        """
        if self.truth is not None:
            if len(self.truth) < 2 * count:
                return self.truth, None
            return self.truth[count:], self.truth[:count]
        if hasattr(model, "log_prob") and hasattr(model, "sample"):
            true = model.sample(max(2000, count), seed=2**31)
            return true, model.sample(count, seed=2**31 + 1)
        return None, None


STARTS, NOTHING_MORE = Starts(), Against()
