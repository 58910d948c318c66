"""What tuning asks of a model, and what that costs."""

from __future__ import annotations

from ..errors import require
from ..model import Predictor
from ..prediction import Prediction
from ..wrapper import Observer


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


class Metered(Observer):
    """A predictor that counts evaluations of one sample: all calls, each by its batch.

    Args:
        model: what predicts.
        bar: where the count is shown.
    """

    def __init__(self, model: Predictor, bar: Bar | None = None) -> None:
        super().__init__(model)
        self.bar = Bar(False) if bar is None else bar
        self._spent = [0]  # one count for all copies

    @property
    def spent(self) -> int:
        """Evaluations so far."""
        return self._spent[0]

    def observe(self, prediction: Prediction) -> None:
        """Count it."""
        evaluations = prediction.cost * len(prediction.x)
        self._spent[0] += evaluations
        self.bar.add(evaluations)
