"""Shared by several test files: one process of each kind, and small exact models."""

from __future__ import annotations

import math

import numpy as np
import torch

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    Covariance,
    DiscreteVPSDE,
    FlowSDE,
    Gaussian,
    GaussianMixture,
    SubVPSDE,
    TrigonometricSDE,
    cosine_betas,
    linear_betas,
    sigmoid_betas,
)

CONTINUOUS = {
    "vp": VPSDE(),
    "subvp": SubVPSDE(),
    "ve": VESDE(),
    "edm": EDMSDE(),
    "cosine": CosineVPSDE(),
    "flow": FlowSDE(t_max=0.999),
    "ot": FlowSDE(0.02, t_min=0.0, t_max=0.999),
    "trig": TrigonometricSDE(t_max=0.999),
}

ZERO_SNR_TABLE = np.cos(np.linspace(0.05, math.pi / 2, 100)) ** 2
ZERO_SNR_TABLE[-1] = 0.0

DISCRETE = {
    "linear table": DiscreteVPSDE.from_betas(linear_betas(1000)),
    "cosine table": DiscreteVPSDE.from_betas(cosine_betas(1000)),
    "sigmoid table": DiscreteVPSDE.from_betas(sigmoid_betas(1000)),
    "zero-SNR table": DiscreteVPSDE.from_alphas_cumprod(ZERO_SNR_TABLE),
}

PROCESSES = {**CONTINUOUS, **DISCRETE}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def gaussian(sde, *event: int, seed: int = 7) -> Gaussian:
    """A Gaussian of distinct variances, between 0.1 and 1, off centre."""
    event = event or (3,)
    spread = torch.rand(1, *event, generator=generator(seed), dtype=torch.float64)
    return Gaussian(
        sde, 0.5 * randn(*event, seed=seed + 1), Covariance.diagonal(0.1 + 0.9 * spread)
    )


def mixture(sde, *event: int, components: int = 3, seed: int = 3) -> GaussianMixture:
    """A mixture with well-separated modes and unequal weights."""
    event = event or (2,)
    weights = torch.arange(1.0, components + 1)
    return GaussianMixture(
        sde, randn(components, *event, seed=seed), Covariance.isotropic(0.05), weights
    )
