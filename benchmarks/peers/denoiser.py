"""A model as the codes written for EDM's form see it: x0 from y = x / alpha and sigma = rho."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde.model import Predictor


class Denoiser(torch.nn.Module):
    """D(y, sigma), for k-diffusion, EDM and diff-sampler; any process."""

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.model = model
        self.top, self.bottom = (model.sde.at(t) for t in (model.sde.t_max, model.sde.t_min))
        self.sigma_max, self.sigma_min = float(self.top.rho), float(self.bottom.rho)

    def start(self, x: Tensor) -> Tensor:
        """x at t_max as y."""
        return x / float(self.top.alpha)

    def forward(self, y: Tensor, sigma: Tensor, *_: object, **__: object) -> Tensor:
        """x0, for one noise level of the whole batch."""
        rho = float(sigma.reshape(-1)[0])
        # Rounding must not carry a level beyond the process.
        near = abs(rho / self.sigma_max - 1) < 1e-5
        knot = self.top if near else self.model.sde.at_lambda(-math.log(rho))
        return self.model(y * float(knot.alpha), knot).x0

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """EDM asks which levels a network knows: all."""
        return torch.as_tensor(sigma)
