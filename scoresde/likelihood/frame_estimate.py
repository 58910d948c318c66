"""Frames estimated from data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError, ShapeError, unknown_name
from ..exact.mixtures import Diagonal, Spectral
from ..noise import generator, normal
from .frame import Whitened

_FORMS = ("low rank", "diagonal", "dct", "one variance")


def estimate_frame(
    data: Tensor, form: str = "low rank", *, rank: int = 256, seed: int = 0
) -> Whitened:
    """Estimate a whitening frame from data, by their mean and covariance.

    Args:
        data: clean samples on the scale of the model, shape (N, *event), floating point.
        form: form of the covariance. "low rank": the leading directions and one variance (the
            ridge) for all others, by a randomized SVD (Halko, Martinsson & Tropp, "Finding
            Structure with Randomness", 2011, algorithm 4.4). "diagonal": one variance for each
            coordinate. "dct": one variance for each coefficient of the cosine transform over the
            last two axes, for images. "one variance": the same for all coordinates.
        rank: number of directions of "low rank", at most the number of coordinates.
        seed: seed of the randomized SVD.

    Raises:
        ShapeError: for fewer than two samples.
        ConfigError: for an unknown form, or data that do not vary.
    """
    if form not in _FORMS:
        raise unknown_name("form of a covariance", form, _FORMS)
    if data.ndim < 2 or len(data) < 2:
        raise ShapeError(f"need two samples or more, shape (N, *event), got {tuple(data.shape)}")
    flat = data.detach().to(torch.float64).flatten(1)
    count, size = flat.shape
    mean = flat.mean(0)
    centred = flat - mean
    variances = centred.square().sum(0) / (count - 1)
    if not float(variances.sum()) > 0:
        raise ConfigError(
            "all samples are equal, so a frame cannot be estimated; give different samples"
        )
    centre = mean.reshape(data.shape[1:])
    floor = 1e-8 * float(variances.mean())
    if form == "one variance":
        return Whitened(centre, float(variances.mean()))
    if form == "diagonal":
        return Whitened(centre, Diagonal(variances.clamp_min(floor).reshape(1, *centre.shape)))
    if form == "dct":
        if data.ndim < 3:
            raise ShapeError(
                f"the cosine transform needs two axes, data of shape {tuple(data.shape)} have "
                "one; write form='diagonal'"
            )
        columns = _cosines(*data.shape[-2:], planes=size // math.prod(data.shape[-2:])).to(flat)
        values = (centred @ columns).square().sum(0) / (count - 1)
        return Whitened(centre, Spectral(columns[None], values.clamp_min(floor)[None], _zero()))
    columns, values = _leading(centred, min(rank, size, count - 1), seed)
    if columns.shape[1] == size:
        return Whitened(centre, Spectral(columns[None], values.clamp_min(floor)[None], _zero()))
    ridge = (variances.sum() - values.sum()).clamp_min(floor * size) / (size - len(values))
    ridge = torch.minimum(ridge, values.min()).clamp_min(floor)
    return Whitened(centre, Spectral(columns[None], (values - ridge)[None], ridge.reshape(1)))


def _leading(centred: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvectors (D, r) and eigenvalues (r,) of the sample covariance."""
    count, size = centred.shape
    if rank == size:
        values, columns = torch.linalg.eigh(centred.T @ centred / (count - 1))
        return columns, values
    random = generator(seed, device=centred.device)
    sketch = centred.to(torch.float32)  # accurate enough for a subspace, at half the cost
    width = min(rank + 10, size)
    basis = normal((size, width), random)
    for _ in range(3):
        basis = torch.linalg.qr(sketch.T @ (sketch @ basis))[0]
    inside = (sketch @ basis).to(torch.float64)
    values, turn = torch.linalg.eigh(inside.T @ inside / (count - 1))
    columns = torch.linalg.qr(basis.to(torch.float64) @ turn[:, -rank:])[0]
    return columns, values[-rank:]


def _cosines(height: int, width: int, *, planes: int) -> Tensor:
    """Orthonormal cosines over each plane, as columns, shape (D, D): the DCT of type II."""

    def axis(n: int) -> Tensor:
        k = torch.arange(n, dtype=torch.float64)
        waves = torch.cos(math.pi * torch.outer(k + 0.5, k) / n)
        return waves / waves.square().sum(0).sqrt()

    return torch.kron(torch.eye(planes).double(), torch.kron(axis(height), axis(width)))


def _zero() -> Tensor:
    return torch.zeros(1, dtype=torch.float64)
