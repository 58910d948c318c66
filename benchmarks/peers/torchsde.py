"""torchsde's solvers on the reverse SDE in t, then x0."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from scoresde.model import Predictor

from . import Peer
from .source import package


class Reverse(torch.nn.Module):
    """The reverse SDE with its time turned round, as torchsde wants it: drift f, diffusion g."""

    noise_type = "diagonal"

    def __init__(self, model: Predictor, shape: torch.Size, sde_type: str) -> None:
        super().__init__()
        self.sde_type = sde_type  # the noise is additive: both mean the same
        self.model, self.shape = model, shape
        self.low, self.high = model.sde.t_min, model.sde.t_max

    def _time(self, u: Tensor) -> float:
        return min(max(self.high - float(u), self.low), self.high)

    def f(self, u: Tensor, x: Tensor) -> Tensor:
        """-(f x - g^2 score) at t = t_max - u."""
        t, sde = self._time(u), self.model.sde
        score = self.model(x.reshape(self.shape), sde.at(t)).score.reshape(x.shape)
        return float(sde.g2(t)) * score - float(sde.f(t)) * x

    def g(self, u: Tensor, x: Tensor) -> Tensor:
        """The diffusion coefficient, the same everywhere."""
        return torch.full_like(x, float(self.model.sde.g2(self._time(u))) ** 0.5)


@dataclass(frozen=True)
class Sampler:
    """A fixed-step method of torchsde."""

    torchsde: ModuleType
    method: str
    sde_type: str
    per_step: int

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """One evaluation goes to torchsde's check of shapes, and one to x0."""
        sde = Reverse(model, x.shape, self.sde_type)
        length = sde.high - sde.low
        steps = max(1, (nfe - 2) // self.per_step)
        flat = x.flatten(1)
        times = torch.tensor([0.0, length], dtype=torch.float64)
        path = self.torchsde.BrownianInterval(
            0.0, length, size=flat.shape, dtype=torch.float64,
            levy_area_approximation="space-time", entropy=int(torch.randint(2**31, ())),
        )  # fmt: skip
        out = self.torchsde.sdeint(
            sde, flat, times, bm=path, method=self.method, dt=length / steps * (1 + 1e-6)
        )
        return model(out[-1].reshape(x.shape), model.sde.at(model.sde.t_min)).x0


def peers() -> list[Peer]:
    """Those that take one or two evaluations a step (its `srk` takes ten)."""
    torchsde, version = package("torchsde")
    return [
        Peer(
            f"torchsde {method} uniform t", "torchsde", version,
            Sampler(torchsde, method, sde_type, per_step), "stochastic",
        )
        for method, sde_type, per_step in (
            ("euler", "ito", 1), ("heun", "stratonovich", 2), ("midpoint", "stratonovich", 2),
        )
    ]  # fmt: skip
