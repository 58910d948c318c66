"""Metrics by name, made from what is at hand to compare with."""

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
_EXACT = 2000  # true samples that metrics of quadratic or cubic cost take
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
"""What each name stands for, given what there is to compare with."""

ENDPOINTS = ("rms", "median")
"""Names of metrics that compare with reference endpoints, and with no true samples."""

FEATURES = ("frechet", "kernel", "precision", "recall", "density", "coverage")
"""Names of metrics that take features."""
ALIASES: Mapping[str, str] = MappingProxyType({"fid": "frechet", "kid": "kernel"})
"""What the field calls two of them, with the features of the Inception network."""


@dataclass(frozen=True, eq=False)
class AtHand:
    """What there is to compare samples with; None for what there is not.

    Attributes:
        model: the model.
        reference: endpoints of the starts, shape (B, *).
        truth: true samples, shape (m, *).
        features: maps samples to features.
    """

    model: Predictor
    reference: Tensor | None = None
    truth: Tensor | None = None
    features: Features | None = None

    def endpoints(self) -> Tensor:
        """Endpoints of deterministic solvers."""
        return _given(self.reference, "endpoints of a deterministic solver; list one")

    def samples(self) -> Tensor:
        """True samples."""
        return _given(self.truth, "true samples; write truth=images, or --truth images.npy")

    def extractor(self) -> Features:
        """The features."""
        return _given(
            self.features, "features; write features=digit_features(), or --features digits"
        )

    def mixture(self) -> GaussianMixture:
        """The model, where it is of closed form."""
        return _given(
            self.model if isinstance(self.model, GaussianMixture) else None,
            "a closed-form model, such as those of scoresde.exact.problems",
        )

    def neighbours(self, name: str) -> Neighbours:
        """One of the four, in features where some are given."""
        return Neighbours(self.samples()[:_EXACT], name, self.features)

    def defaults(self) -> list[str]:
        """Names of the metrics that there is enough for, the most telling first."""
        names = [] if self.reference is None else ["rms", "median"]
        if self.truth is None:
            return names
        names += ["energy"] if self.features is None else ["frechet", "energy"]
        return [*names, "nll_gap"] if isinstance(self.model, GaussianMixture) else names

    def make(self, metric: Wanted) -> Metric:
        """The metric of a name, or of your own function of an `AtHand`; a metric is given back
        as it is.

        Raises:
            ConfigError: for an unknown name, a metric that there is not enough for, or what makes
                no metric.
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
            raise ConfigError(f"{metric!r} takes {missing.args[0]}") from None
        if not isinstance(made, Metric):
            raise ConfigError(f"{metric!r} made {type(made).__name__}, not a scoresde Metric")
        return made

    def all(self, metric: Wanted | Sequence[Wanted] | None) -> list[Metric]:
        """The metrics asked for, or the default ones.

        Raises:
            ConfigError: see `make`; also if there is nothing to measure.
        """
        if metric is None:
            metric = self.defaults()
        given = [metric] if isinstance(metric, str) or callable(metric) else list(metric)
        if not given:
            raise ConfigError(
                "nothing to measure: stochastic solvers are judged by distribution, which takes "
                "true samples; write compare(..., truth=images), or metric=..."
            )
        return [self.make(one) for one in given]


Wanted = Metric | str | Callable[[AtHand], Metric]
"""A metric, its name, or what makes it of that which is at hand."""


def _given(value: _T | None, what: str) -> _T:
    if value is None:
        raise LookupError(what)
    return value


def _density(mixture: GaussianMixture) -> Callable[[Tensor], Tensor]:
    return lambda x: mixture.log_prob(x, mixture.sde.clean)
