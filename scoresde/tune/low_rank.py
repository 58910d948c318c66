"""Reduce a low-rank mixture to few coordinates: the same endpoint errors at a lower cost.

Take the span of all means and factors of a mixture. If all components have the same variance
outside this span, the probability flow multiplies that part of a state by a number, and so does
every step of a deterministic solver. So the norm of that part is enough, and one coordinate
replaces it. Distances between endpoints do not change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..exact.mixtures import Covariance, GaussianMixture, Spectral
from ..model import Predictor


def in_its_span(model: Predictor, x: Tensor) -> tuple[Predictor, Tensor]:
    """A smaller model and its starts, shape (B, r + 1); both unchanged if the cost is not lower.

    The RMS over coordinates of a difference grows by sqrt(D / (r + 1)).
    """
    if not isinstance(model, GaussianMixture) or (found := reduced(model)) is None:
        return model, x
    smaller, basis = found
    flat = x.flatten(1).to(basis)
    along = flat @ basis
    across = (flat - along @ basis.T).norm(dim=1, keepdim=True)
    return smaller, torch.cat([along, across], 1).to(x)


def reduced(model: GaussianMixture) -> tuple[GaussianMixture, Tensor] | None:
    """The reduced mixture, in r coordinates of the span and one outside, and the span's basis.

    The basis is orthonormal, shape (D, r). None for a mixture of another kind, or if the span has
    more than half of all dimensions.
    """
    covariance, size = model.covariance, math.prod(model.event_shape)
    if type(model) is not GaussianMixture or not isinstance(covariance, Spectral):
        return None
    means = model.means.flatten(1)
    columns = len(means) * (1 + covariance.e.shape[1])
    if 2 * columns > size or bool((covariance.ridge != covariance.ridge[0]).any()):
        return None
    factors = (covariance.u * covariance.e.sqrt()[:, None]).expand(-1, size, -1)
    basis = torch.linalg.qr(torch.cat([means.T, *factors], 1))[0]
    inside = torch.cat([basis.T @ factors, factors.new_zeros(len(factors), 1, factors.shape[2])], 1)
    smaller = GaussianMixture(
        model.sde,
        torch.nn.functional.pad(means @ basis, (0, 1)),
        Covariance.low_rank(inside, covariance.ridge[0]),
        model.weights,
    )
    return smaller, basis
