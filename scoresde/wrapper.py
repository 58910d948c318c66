"""The base class of wrappers of models: guidance, products, clipping, caches, counters.

A wrapper takes one or more predictors and is itself a predictor. So every solver and every
likelihood accepts it, and wrappers can be nested.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor, nn

from ._internal.net_facts import heed_mode
from .errors import ConfigError
from .model import (
    Predictor,
    ScoreModel,
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

    A subclass defines `__call__(x, knot)`: it calls `self.model` (or each of `self.models`) and
    returns a `Prediction`, for example `prediction.with_x0(...)`, `with_eps(...)` or
    `with_score(...)`. This class does everything else. A subclass that has its own condition, with
    one row per sample, also extends `rows`; one that stores anything during a run extends `begin`.
    Both return a copy, which shares its attributes with the original until they are assigned.

    A closed-form model may have `divergence(x, knot)`, the divergence of its score, which
    likelihoods use. A wrapper does not offer it, since it changes the score; an `Observer` does.

    Attributes:
        models: the wrapped models. Other attributes may hold further modules, such as a
            classifier; their parameters are found too.

    Raises:
        ConfigError: for no model, something that is not a predictor, or models of different
            processes.
    """

    def __init__(self, *models: Predictor) -> None:
        if not models:
            raise ConfigError(f"{type(self).__name__} needs a model to wrap")
        for model in models:
            # Checks the members: torch.compile cannot always trace isinstance(model, Predictor).
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
        """See `Predictor`: a copy whose models are those for these samples."""
        return self._copy(tuple(model.rows(index) for model in self.models))

    def begin(self) -> Self:
        """The wrapper for one run: a copy, which every driver makes before its first step.

        Extend it if the wrapper stores anything during a run: reset that in the copy. Then each
        run starts from the same state, and the wrapper itself never changes.
        """
        return self._copy(tuple(begin(model) for model in self.models))

    def score(self, x: Tensor, t: Scalar) -> Tensor:
        """The score -eps / sigma at x, shape (B, *); t is a float or a tensor (B,)."""
        return self(x, self.sde.at(t, like=x)).score

    def parameters(self) -> Iterator[nn.Parameter]:
        """The parameters of all models, and of modules in the attributes, each once."""
        yield from parameters_of(vars(self))

    @property
    def device(self) -> torch.device | None:
        """The device of the first model that knows it; None if none does."""
        return next((d for m in self.models if (d := known(m, "device")) is not None), None)

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the first model that knows it; None if none does."""
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
        """The shape of one sample, from the first model that knows it; None if none does."""
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
    """A wrapper that reads every prediction and changes none.

    A subclass defines `observe(prediction)`. Drivers use copies of it (see `Wrapper.begin`), so
    store results in an object that the copies share, such as a list.
    """

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The model's prediction, after `observe` has received it."""
        prediction = self.models[0](x, knot)
        self.observe(prediction)
        return prediction

    @abstractmethod
    def observe(self, prediction: Prediction) -> None:
        """Called with every prediction; `prediction.x` and `prediction.knot` are its arguments."""

    @property
    def divergence(self) -> Any:
        """The model's closed-form divergence; raises AttributeError if it has none."""
        return self.models[0].divergence  # type: ignore[attr-defined]


def evals_per_call(model: Any) -> int:
    """Network evaluations of one call of a model: 2 under guidance, 1 where it does not say."""
    found = getattr(model, "evals_per_call", 1)
    return found if isinstance(found, int) and found > 0 else 1


def begin(model: Predictor) -> Predictor:
    """The model for one run, see `Wrapper.begin`. Every driver of a solver calls this, with
    gradients on only if it keeps a graph.

    Warns:
        TrainingModeWarning: where a network is in training mode, once for each network.
    """
    for net in networks_of(model):
        heed_mode(net)
    return model.begin() if isinstance(model, Wrapper | ScoreModel) else model


def networks_of(model: Any) -> Iterator[nn.Module]:
    """The modules that a predictor calls: networks, classifiers of guidance."""
    if isinstance(model, ScoreModel):
        model = model.net
    if isinstance(model, nn.Module):
        yield model
    elif isinstance(model, Wrapper):
        for part in (*model.models, *vars(model).values()):
            yield from networks_of(part)
