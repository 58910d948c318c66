"""Counting network evaluations, the unit in which samplers are compared."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..errors import TimeRangeError
from ..model import Predictor
from ..prediction import Prediction
from ..sde import SDE
from ..sde.knot import Knot


class Counted:
    """A predictor that counts the network evaluations of one run.

    The driver puts it round the model for that run alone; the model itself is never touched.
    Where a solver asks for a part of the batch, the count is kept for each sample.
    """

    def __init__(self, model: Predictor, index: Tensor | None = None, tally: _Tally | None = None):
        self._model, self._index = model, index
        self._tally = tally if tally is not None else _Tally()

    @property
    def sde(self) -> SDE:
        """The model's process."""
        return self._model.sde

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The model's prediction, counted.

        Raises:
            TimeRangeError: at the clean end, where no network may be asked.
        """
        if knot.is_clean:
            raise TimeRangeError(
                "the solver asked the network at sigma = 0; where s.is_clean, step to s from the "
                "prediction at t, such as model(x, t).x0"
            )
        prediction = self._model(x, knot)
        self._tally.add(prediction.cost, self._index)
        return prediction

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the model, for adjoints; none where it has none."""
        yield from getattr(self._model, "parameters", tuple)()

    def rows(self, index: Tensor) -> Counted:
        """See `Predictor`; samples keep their place in the count."""
        places = index if self._index is None else self._index[index]
        return Counted(self._model.rows(index), places, self._tally)

    def nfe(self, batch: int) -> int | Tensor:
        """Evaluations per sample: a number, or shape (batch,) where they differ."""
        return self._tally.total(batch)


def told(nfe: int | Tensor) -> str:
    """A number of evaluations, or the least and the most of several, in words."""
    if not isinstance(nfe, Tensor) or nfe.numel() == 0:
        return f"{nfe if isinstance(nfe, int) else 'no'} evaluations a sample"
    least, most = int(nfe.min()), int(nfe.max())
    return f"{least}{f' to {most}' if most > least else ''} evaluations a sample"


class _Tally:
    def __init__(self) -> None:
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
