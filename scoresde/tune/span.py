"""Mixtures of low rank in the few coordinates that matter: the same errors at a fraction of cost.

Where all components have one variance outside the span of their means and factors, the probability
flow there is one linear map, and every solver's step is one too. That part of a state is carried by
its length alone: distances between endpoints are what they were, to the last digit.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..analytic import GaussianMixture, Spectral, low_rank
from ..model import Predictor


def in_its_span(model: Predictor, x: Tensor) -> tuple[Predictor, Tensor]:
    """A smaller model and its starts, shape (B, r + 1); both unchanged where nothing is gained.

    The RMS over coordinates of a difference grows by sqrt(D / (r + 1)).
    """
    covariance = model.covariance if type(model) is GaussianMixture else None
    if not isinstance(covariance, Spectral) or not isinstance(model, GaussianMixture):
        return model, x
    means, size = model.means.flatten(1), math.prod(model.event_shape)
    columns = len(means) * (1 + covariance.e.shape[1])
    if 2 * columns > size or bool((covariance.ridge != covariance.ridge[0]).any()):
        return model, x
    factors = covariance.u * covariance.e.sqrt()[:, None]
    basis = torch.linalg.qr(torch.cat([means.T, *factors.expand(-1, size, -1)], 1))[0]
    inside = torch.cat([basis.T @ factors, factors.new_zeros(len(factors), 1, factors.shape[2])], 1)
    smaller = GaussianMixture(
        model.sde,
        torch.nn.functional.pad(means @ basis, (0, 1)),
        low_rank(inside, covariance.ridge[0]),
        model.weights,
    )
    flat = x.flatten(1).to(basis)
    along = flat @ basis
    across = (flat - along @ basis.T).norm(dim=1, keepdim=True)
    return smaller, torch.cat([along, across], 1).to(x)
