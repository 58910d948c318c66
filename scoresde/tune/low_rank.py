"""Mixtures of low rank in the few coordinates that matter: the same errors at a fraction of cost.

Where all components have one variance outside the span of their means and factors, the probability
flow there is one linear map, and every solver's step is one too. That part of a state is carried by
its length alone: distances between endpoints are what they were, to the last digit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..exact.mixtures import Covariance, GaussianMixture, Spectral
from ..model import Predictor


def in_its_span(model: Predictor, x: Tensor) -> tuple[Predictor, Tensor]:
    """A smaller model and its starts, shape (B, r + 1); both unchanged where nothing is gained.

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
    """A mixture in the r coordinates of the span and one outside it, and the span's orthonormal
    basis, shape (D, r); None for a mixture of another kind, or where little is gained.
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
