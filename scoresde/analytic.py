r"""Models whose score, density and flow are known in closed form: the truth for every test.

Data distributed as a Gaussian mixture stay one under a linear Gaussian diffusion: component k
has mean alpha mu_k and covariance P_k = alpha^2 C_k + sigma^2 I at every time. Each C_k is kept
as U diag(e) U^T + ridge I with orthonormal columns U, so isotropic (no columns), low rank and
full covariances are one case, and no D x D matrix is ever formed for the first two.

All arithmetic is float64 on the model's device, whatever the dtype of the state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import ConfigError, ShapeError
from .noise import NoiseStream
from .prediction import EPS, X0, Prediction
from .scalar import Scalar, scale
from .sde import SDE
from .sde.knot import CLEAN, Knot


class Covariance(NamedTuple):
    """U diag(e) U^T + ridge I, or diag(e) where U is None.

    Attributes:
        e: shape (r,), the variance along each column beyond the ridge.
        u: shape (D, r), orthonormal columns, or None for the coordinate axes (r = D).
        ridge: variance in every direction.
    """

    e: Tensor
    u: Tensor | None
    ridge: float
