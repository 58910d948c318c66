"""The cost of tuning: a counter of evaluations, and a progress bar."""

from __future__ import annotations

from ..errors import require
from ..model import Predictor
from ..prediction import Prediction
from ..wrapper import Observer


class Bar:
    """A progress bar: the current stage and evaluations so far. Without `progress` it is empty."""

    def __init__(self, progress: bool) -> None:
        bar = require("tqdm.auto", "cli").tqdm if progress else None
        self._bar = None if bar is None else bar(unit=" evaluations", unit_scale=True)

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def says(self, what: str) -> None:
        """Show the stage that begins now."""
        if self._bar is not None:
            self._bar.set_description_str(what)

    def add(self, evaluations: int) -> None:
        """Add evaluations to the bar."""
        if self._bar is not None:
            self._bar.update(evaluations)


class Metered(Observer):
    """A predictor that counts evaluations of one sample: each call counts its batch size.

    Args:
        model: the model.
        bar: shows the count.
    """

    def __init__(self, model: Predictor, bar: Bar | None = None) -> None:
        super().__init__(model)
        self.bar = Bar(False) if bar is None else bar
        self._spent = [0]  # a list, so that all copies share one count

    @property
    def spent(self) -> int:
        """Evaluations so far."""
        return self._spent[0]

    def observe(self, prediction: Prediction) -> None:
        """Count the evaluations of a call."""
        evaluations = prediction.cost * len(prediction.x)
        self._spent[0] += evaluations
        self.bar.add(evaluations)
