"""Settings of a comparison: its starts, and what samples are compared with."""

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
        count: number of samples in each cell.
        seed: sample k has the seed `seed + k`, in every cell.
        event_shape: shape of one sample, without the batch; None takes it from the true samples
            or from a closed-form model.
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
        """The seed of each sample."""
        return tuple(range(self.seed, self.seed + self.count))

    def draw(self, model: Predictor, event: Sequence[int]) -> Tensor:
        """States at the model's t_max, shape (count, *event)."""
        stream = SampleSeeds(self.seeds).open((self.count, *event), self.dtype)
        return model.sde.prior_sample(stream)

    def event(self, model: Any, truth: Tensor | None) -> tuple[int, ...]:
        """The shape of one sample: as given, or from the true samples or the model.

        Raises:
            ConfigError: if no shape is known.
            ShapeError: if the given shape differs from the known one.
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
        truth: true samples, shape (m, *); by default a closed-form model draws them.
        features: maps samples (B, *) to features (B, F), see `scoresde.metrics.features`.
        tolerance: of the reference endpoints of deterministic solvers, see `solve_reference`.
    """

    truth: Tensor | None = None
    features: Features | None = None
    tolerance: float | None = None

    def split(self, model: Any, count: int) -> tuple[Tensor | None, Tensor | None]:
        """True samples to compare with, and `count` others for the floor.

        The floor is the metric of a perfect sampler. Either part is None if there are not enough
        true samples.
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
