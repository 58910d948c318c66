"""The base of whatever wraps a model: guidance, products, clipping, caches, counters.

A wrapper takes one predictor or several and is a predictor. So every solver and every likelihood
takes it, and wrappers go round wrappers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from .errors import ConfigError
from .model import (
    Predictor,
    event_shape_of,
    floor_of,
    known,
    noise_range_of,
    parameters_of,
    predicts_of,
)
from .prediction import Parametrization, Prediction
from .scalar import Scalar
from .sde import SDE
from .sde.knot import Knot
from .trusted import NoiseRange


class Wrapper(ABC):
    """A predictor made of other predictors of one process.

    A subclass defines `__call__(x, knot)`, asks `self.model` (or each of `self.models`) there, and
    returns a `Prediction`, most simply `prediction.with_x0(...)`, `with_eps(...)` or
    `with_score(...)`. Everything else is done here. A subclass with a condition of its own, one row
    a sample, also extends `rows`; one that remembers anything extends `begin`. Both return a copy,
    which shares its attributes with the original until they are set anew.

    Likelihoods use a model's closed-form `divergence(x, knot)`, which is the divergence of its
    score. A wrapper does not pass it on, since it changes the score; an `Observer` does.

    Attributes:
        models: what is wrapped. Other attributes may hold further modules (a classifier): their
            parameters are found too.

    Raises:
        ConfigError: for no model, what is not a predictor, or models of different processes.
    """

    def __init__(self, *models: Predictor) -> None:
        if not models:
            raise ConfigError(f"{type(self).__name__} needs a model to wrap")
        for model in models:
            # By its members: torch.compile does not follow isinstance(model, Predictor) everywhere.
            whole = callable(model) and hasattr(model, "sde") and hasattr(model, "rows")
            if isinstance(model, type) or not whole:
                kind = model.__name__ if isinstance(model, type) else type(model).__name__
                raise ConfigError(
                    f"{type(self).__name__} wraps models, got {kind}; wrap a network first: "
                    "ScoreModel(net, VPSDE(), predicts='eps', time=...)"
                )
            if model is not models[0] and model.sde != models[0].sde:
                raise ConfigError(
                    f"{type(self).__name__} needs models of one process, got {models[0].sde!r} "
                    f"and {model.sde!r}"
                )
        self.models: tuple[Predictor, ...] = models

    @abstractmethod
    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The prediction at the state x, shape (B, *), and a knot."""

    @property
    def model(self) -> Predictor:
        """The model, or the first of several."""
        return self.models[0]

    @property
    def sde(self) -> SDE:
        """The process, one for all models."""
        return self.models[0].sde

    def rows(self, index: Tensor) -> Self:
        """See `Predictor`: a copy whose models follow their samples."""
        return self._copy(tuple(model.rows(index) for model in self.models))

    def begin(self) -> Self:
        """The wrapper for one run: a copy, which every driver makes before its first step.

        Extend it where a wrapper remembers anything, so that each run starts afresh and the
        wrapper itself never changes.
        """
        return self._copy(tuple(begin(model) for model in self.models))

    def score(self, x: Tensor, t: Scalar) -> Tensor:
        """The score -eps / sigma at x, shape (B, *); t is a float or a tensor (B,)."""
        return self(x, self.sde.at(t, like=x)).score

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of all models, and of modules among the attributes, each once."""
        yield from parameters_of(vars(self))

    @property
    def device(self) -> torch.device | None:
        """Where the first model that knows it computes; None where none does."""
        return next((d for m in self.models if (d := known(m, "device")) is not None), None)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype in which the first model that knows it computes; None where none does."""
        return next((d for m in self.models if (d := known(m, "dtype")) is not None), None)

    @property
    def evals_per_call(self) -> int:
        """Network evaluations of one call, which budgets (`nfe=`) go by: the sum over the models.

        Override it where a call asks a model more than once, or not always. What a run took is
        counted, whatever this says.
        """
        return sum(map(evals_per_call, self.models))

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """The shape of one sample, of the first model that knows it; None where none does."""
        return next((e for m in self.models if (e := event_shape_of(m)) is not None), None)

    @property
    def predicts(self) -> Parametrization | None:
        """What the first model that knows it predicts; None where none does."""
        return next((p for m in self.models if (p := predicts_of(m)) is not None), None)

    @property
    def floor(self) -> float:
        """The largest of the models' floors, see `scoresde.model.floor_of`."""
        return max(map(floor_of, self.models))

    @property
    def noise_range(self) -> NoiseRange | None:
        """Where the first model that knows it is trusted; None where none does."""
        return next((r for m in self.models if (r := noise_range_of(m)) is not None), None)

    def _copy(self, models: tuple[Predictor, ...]) -> Self:
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.models = models
        return new


class Observer(Wrapper):
    """A wrapper that looks at every prediction and changes none.

    A subclass defines `observe(prediction)`. What is to be read after a run goes into an object
    that copies share, such as a list: drivers work with copies (see `Wrapper.begin`).
    """

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The model's prediction, observed."""
        prediction = self.models[0](x, knot)
        self.observe(prediction)
        return prediction

    @abstractmethod
    def observe(self, prediction: Prediction) -> None:
        """Look at a prediction; `prediction.x` and `prediction.knot` say where it was made."""

    @property
    def divergence(self) -> Any:
        """The model's own closed-form divergence; absent (AttributeError) where it has none."""
        return self.models[0].divergence  # type: ignore[attr-defined]


def evals_per_call(model: Any) -> int:
    """Network evaluations of one call of a model: 2 under guidance, 1 where it does not say."""
    found = getattr(model, "evals_per_call", 1)
    return found if isinstance(found, int) and found > 0 else 1


def begin(model: Predictor) -> Predictor:
    """The model for one run, see `Wrapper.begin`; called by whatever drives a solver."""
    return model.begin() if isinstance(model, Wrapper) else model
