"""The prior: the density at t_max, to which the log-likelihood adds the change along the flow.

| prior | density of x at t_max |
| --- | --- |
| None | N(0, sigma^2 I) |
| `MomentMatched(mean, covariance)` | N(alpha mean, alpha^2 covariance + sigma^2 I) |
| a `GaussianMixture` | its own density at t_max, the exact prior of a closed-form model |
| any object with `log_prob(x)` | its density; `log_prob` returns nats, shape (B,) |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ..errors import ConfigError, ShapeError
from ..exact.mixtures import Gaussian, GaussianMixture
from ..sde import SDE
from ..sde.knot import Knot
from .frame import CovarianceLike, as_covariance


class Prior(Protocol):
    """A density of the state at t_max."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, shape (B,), for x of shape (B, *)."""


@dataclass(frozen=True, eq=False)
class MomentMatched:
    """The Gaussian prior with the moments of the noised data at t_max.

    Attributes:
        mean: mean of the data, shape (*event).
        covariance: covariance of the data: one variance, variances of shape (*event), a matrix
            (D, D), or one of `scoresde.exact`'s covariances.
    """

    mean: Tensor
    covariance: CovarianceLike

    def at(self, sde: SDE) -> Gaussian:
        """The Gaussian model of the data under a process."""
        return Gaussian(sde, self.mean, as_covariance(self.covariance, self.mean))


def prior_log_prob(prior: Any, sde: SDE, knot: Knot, x: Tensor) -> Tensor:
    """Log-density of the prior at x, shape (B, *), in nats, shape (B,).

    Raises:
        ConfigError: for an object without `log_prob`.
        ShapeError: if `log_prob` does not return one number for each sample.
    """
    if prior is None:
        return sde.prior_log_prob(x, knot)
    if isinstance(prior, MomentMatched):
        prior = prior.at(sde)
    if isinstance(prior, GaussianMixture):
        return prior.log_prob(x, knot)
    log_prob = getattr(prior, "log_prob", None)
    if log_prob is None:
        raise ConfigError(
            f"a prior needs log_prob(x), {type(prior).__name__} has none; write None for "
            "N(0, sigma^2), MomentMatched(mean, covariance), or your own object"
        )
    value: Tensor = log_prob(x)
    if value.shape != x.shape[:1]:
        raise ShapeError(
            f"the prior's log_prob must have shape {tuple(x.shape[:1])}, one number for each "
            f"sample, got {tuple(value.shape)}; wrap it in torch.distributions.Independent to sum "
            "over events"
        )
    return value
