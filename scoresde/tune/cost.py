"""What tuning asks of a model, and what that costs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import require
from ..model import Predictor, device_of
from ..prediction import Prediction
from ..sde import SDE
from ..sde.knot import Knot


class Bar:
    """How far a search is: what it does now, and evaluations so far. Nothing without `progress`."""

    def __init__(self, progress: bool) -> None:
        bar = require("tqdm.auto", "cli").tqdm if progress else None
        self._bar = None if bar is None else bar(unit=" evaluations", unit_scale=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def says(self, what: str) -> None:
        """What begins now."""
        if self._bar is not None:
            self._bar.set_description_str(what)

    def add(self, evaluations: int) -> None:
        """What has been spent."""
        if self._bar is not None:
            self._bar.update(evaluations)


class Metered:
    """A predictor that counts evaluations of one sample: all calls, each by its batch.

    Attributes:
        bar: where the count is shown.
        spent: how many so far.
    """

    def __init__(self, model: Predictor, bar: Bar | None = None) -> None:
        self._model, self.spent = model, 0
        self.bar = Bar(False) if bar is None else bar

    @property
    def sde(self) -> SDE:
        """The process."""
        return self._model.sde

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return device_of(self._model)

    def rows(self, index: Tensor) -> Predictor:
        """See `Predictor`."""
        return _Part(self, self._model.rows(index))

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The model's answer, counted."""
        return self.ask(self._model, x, knot)

    def ask(self, model: Predictor, x: Tensor, knot: Knot) -> Prediction:
        """The answer of the model, or of some of its rows."""
        found = model(x, knot)
        spent = found.cost * len(x)
        self.spent += spent
        self.bar.add(spent)
        return found


class _Part:
    """Some rows of a model, on the same count."""

    def __init__(self, meter: Metered, model: Predictor) -> None:
        self._meter, self._model = meter, model

    @property
    def sde(self) -> SDE:
        return self._meter.sde

    def rows(self, index: Tensor) -> Predictor:
        return _Part(self._meter, self._model.rows(index))

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        return self._meter.ask(self._model, x, knot)
