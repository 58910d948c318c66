"""Counts network evaluations, the unit in which samplers are compared."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from ..errors import ShapeError, TimeRangeError
from ..model import Predictor
from ..prediction import Prediction
from ..sde.knot import Knot
from ..wrapper import Observer


class Counted(Observer):
    """A predictor that counts the network evaluations of one run.

    The driver wraps the model in it for one run; the model itself does not change. If a solver
    evaluates a part of the batch, each sample has its own count.

    Args:
        model: the model.
        remember: keep the last prediction, see `last`.
    """

    def __init__(self, model: Predictor, remember: bool = False) -> None:
        super().__init__(model)
        self._index: Tensor | None = None
        self._tally = _Tally(remember)

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The model's prediction, counted.

        Raises:
            TimeRangeError: at sigma = 0, where a network must not be evaluated.
            ShapeError: if the prediction is for another batch.
        """
        if knot.is_clean:
            raise TimeRangeError(
                "the solver called the network at sigma = 0; if s.is_clean, step to s from the "
                "prediction at t, such as model(x, t).x0"
            )
        self._tally.last = None  # before the call, so that memory never holds two
        prediction = super().__call__(x, knot)
        if prediction.x.shape != x.shape:
            raise ShapeError(
                f"the model answered for states of shape {tuple(prediction.x.shape)}, and was "
                f"called with {tuple(x.shape)}; return a Prediction of the x that was given"
            )
        return prediction

    def observe(self, prediction: Prediction) -> None:
        """Count the prediction."""
        self._tally.add(prediction.cost, self._index)
        if self._tally.remember and self._index is None:
            self._tally.last = prediction

    def rows(self, index: Tensor) -> Self:
        """See `Predictor`; each sample keeps its own count."""
        part = super().rows(index)
        part._index = index if self._index is None else self._index[index]
        return part

    @property
    def last(self) -> Prediction | None:
        """The last prediction, if `remember` is True and it was made for the whole batch."""
        return self._tally.last

    def nfe(self, batch: int) -> Tensor:
        """Evaluations of each sample, shape (batch,), int64, on the CPU."""
        return spread_nfe(self.cost(batch), batch)

    def cost(self, batch: int) -> int | Tensor:
        """`nfe` as one int, without a torch operation, if all samples have the same number."""
        return self._tally.total(batch)


def spread_nfe(cost: int | Tensor, batch: int) -> Tensor:
    """The evaluations of each sample, shape (batch,), int64, from one number or one each."""
    return cost if isinstance(cost, Tensor) else torch.full((batch,), cost, dtype=torch.long)


def mean_nfe(nfe: Tensor) -> float:
    """The mean over samples, shape (B,); NaN for no samples."""
    return float(nfe.double().mean())


def format_nfe(nfe: Tensor) -> str:
    """The evaluations of samples, shape (B,), in words: one number, or the least and the most."""
    if nfe.numel() == 0:
        return "no network evaluations"
    least, most = int(nfe.min()), int(nfe.max())
    return f"{least}{f' to {most}' if most > least else ''} network evaluations a sample"


class _Tally:
    def __init__(self, remember: bool) -> None:
        self.remember = remember
        self.last: Prediction | None = None
        self.common = 0
        self.single: list[tuple[Tensor, int]] = []

    def add(self, cost: int, index: Tensor | None) -> None:
        if index is None:
            self.common += cost
        else:
            self.single.append((index, cost))

    def total(self, batch: int) -> int | Tensor:
        if not self.single:
            return self.common
        count = torch.full((batch,), self.common, dtype=torch.long)
        for index, cost in self.single:
            count.index_add_(0, index.cpu(), torch.full((len(index),), cost, dtype=torch.long))
        return count
