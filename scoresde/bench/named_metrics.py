"""Metrics by name, made from the reference, true samples and features that are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from torch import Tensor

from ..errors import ConfigError, unknown_name
from ..exact.mixtures import GaussianMixture
from ..metrics import (
    MMD,
    EndpointError,
    EnergyDistance,
    FrechetDistance,
    KernelDistance,
    Metric,
    ModeWeights,
    Neighbours,
    NLLGap,
    SlicedWasserstein,
    Wasserstein2,
)
from ..metrics.features import Features
from ..model import Predictor

_T = TypeVar("_T")
_EXACT = 2000  # true samples used by metrics of quadratic or cubic cost, at most
METRICS: Mapping[str, Callable[[AtHand], Metric]] = MappingProxyType(
    {
        "rms": lambda at: EndpointError(at.endpoints()),
        "median": lambda at: EndpointError(at.endpoints(), "median"),
        "energy": lambda at: EnergyDistance(at.samples()[:_EXACT]),
        "mmd": lambda at: MMD(at.samples()[:_EXACT]),
        "sliced_w2": lambda at: SlicedWasserstein(at.samples()),
        "w2": lambda at: Wasserstein2(at.samples()[:_EXACT]),
        "nll_gap": lambda at: NLLGap(_density(at.mixture()), at.samples()),
        "mode_weights": lambda at: ModeWeights(at.mixture()),
        "frechet": lambda at: FrechetDistance(at.samples(), at.extractor()),
        "kernel": lambda at: KernelDistance(at.samples()[:_EXACT], at.extractor()),
        "precision": lambda at: at.neighbours("precision"),
        "recall": lambda at: at.neighbours("recall"),
        "density": lambda at: at.neighbours("density"),
        "coverage": lambda at: at.neighbours("coverage"),
    }
)
"""Maps each name to a function that makes the metric from an `AtHand`."""

ENDPOINTS = ("rms", "median")
"""Names of metrics that compare with reference endpoints and use no true samples."""

FEATURES = ("frechet", "kernel", "precision", "recall", "density", "coverage")
"""Names of metrics that take features."""
ALIASES: Mapping[str, str] = MappingProxyType({"fid": "frechet", "kid": "kernel"})
"""The usual names of two of them when the features are those of the Inception network."""


@dataclass(frozen=True, eq=False)
class AtHand:
    """The data that a metric can compare samples with; None for data that are not given.

    Attributes:
        model: the model.
        reference: true endpoints of the starts, shape (B, *).
        truth: true samples, shape (m, *).
        features: maps samples to features.
    """

    model: Predictor
    reference: Tensor | None = None
    truth: Tensor | None = None
    features: Features | None = None

    def endpoints(self) -> Tensor:
        """The true endpoints of the starts."""
        return _given(self.reference, "endpoints of a deterministic solver; list one")

    def samples(self) -> Tensor:
        """The true samples."""
        return _given(self.truth, "true samples; write truth=images, or --truth images.npy")

    def extractor(self) -> Features:
        """The features."""
        return _given(
            self.features, "features; write features=digit_features(), or --features digits"
        )

    def mixture(self) -> GaussianMixture:
        """The model, if it is a closed-form mixture."""
        return _given(
            self.model if isinstance(self.model, GaussianMixture) else None,
            "a closed-form model, such as those of scoresde.exact.problems",
        )

    def neighbours(self, name: str) -> Neighbours:
        """Precision, recall, density or coverage, in features if they are given."""
        return Neighbours(self.samples()[:_EXACT], name, self.features)

    def defaults(self) -> list[str]:
        """Names of the default metrics for the given data, the most informative first."""
        names = [] if self.reference is None else ["rms", "median"]
        if self.truth is None:
            return names
        names += ["energy"] if self.features is None else ["frechet", "energy"]
        return [*names, "nll_gap"] if isinstance(self.model, GaussianMixture) else names

    def make(self, metric: Wanted) -> Metric:
        """A metric from its name or a function of an `AtHand`; a `Metric` is returned unchanged.

        Raises:
            ConfigError: for an unknown name, a metric whose data are not given, or a function that
                does not return a metric.
        """
        if isinstance(metric, Metric) and not isinstance(metric, type):
            return metric
        maker: object = metric
        if isinstance(metric, str):
            name = metric.lower()
            maker = METRICS.get(ALIASES.get(name, name))
            if maker is None:
                raise unknown_name("metric", metric, METRICS, ALIASES)
        if not callable(maker):
            raise ConfigError(f"{metric!r} is not a metric; write its name, or a Metric")
        try:
            made = maker(self)
        except LookupError as missing:
            raise ConfigError(f"{metric!r} needs {missing.args[0]}") from None
        if not isinstance(made, Metric):
            raise ConfigError(f"{metric!r} made {type(made).__name__}, not a scoresde Metric")
        return made

    def all(self, metric: Wanted | Sequence[Wanted] | None) -> list[Metric]:
        """The given metrics, or the default ones.

        Raises:
            ConfigError: see `make`; also if there is no metric.
        """
        if metric is None:
            metric = self.defaults()
        given = [metric] if isinstance(metric, str) or callable(metric) else list(metric)
        if not given:
            raise ConfigError(
                "there is no metric: those of stochastic solvers compare distributions and need "
                "true samples; write compare(..., against=Against(truth=images)), or metric=..."
            )
        return [self.make(one) for one in given]


Wanted = Metric | str | Callable[[AtHand], Metric]
"""A metric, its name, or a function that makes it from an `AtHand`."""


def _given(value: _T | None, what: str) -> _T:
    if value is None:
        raise LookupError(what)
    return value


def _density(mixture: GaussianMixture) -> Callable[[Tensor], Tensor]:
    return lambda x: mixture.log_prob(x, mixture.sde.clean)
