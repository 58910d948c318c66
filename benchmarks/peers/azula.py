"""azula's samplers, which step evenly in t, on the model's own process.

Two clocks, as in the schedules that it ships: even steps in t (its VPSchedule) and in log-SNR (its
VESchedule).
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from scoresde.model import Predictor
from scoresde.sde import SDE
from scoresde.sde.knot import Knot

from . import Peer
from .source import package

# Class, options, evaluations a step, whether it may step to sigma = 0.
_DETERMINISTIC: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "DDIM": ("DDIMSampler", {}, 1, True),
    "Heun": ("HeunSampler", {}, 2, False),
    **{f"zAB-{k}": ("zABSampler", {"order": k}, 1, True) for k in (2, 3, 4)},
    **{f"vAB-{k}": ("vABSampler", {"order": k}, 1, True) for k in (2, 3, 4)},
    **{f"zEAB-{k}": ("zEABSampler", {"order": k}, 1, False) for k in (2, 3, 4)},
    **{f"xEAB-{k}": ("xEABSampler", {"order": k}, 1, False) for k in (2, 3, 4)},
    "REAB-3": ("REABSampler", {"order": 3}, 1, False),
}
_STOCHASTIC: dict[str, tuple[str, dict[str, Any], int, bool]] = {
    "DDPM": ("DDPMSampler", {}, 1, True),
    "Ito": ("ItoSampler", {}, 1, False),
    "PC": ("PCSampler", {"corrections": 1, "delta": 0.01}, 2, True),
}
_NOTES = {"REABSampler": "one sigma_t stands for a sigma_s: order 1"}


class Schedule:
    """The process as azula's schedules are: (alpha, sigma) at times from 0 to 1."""

    def __init__(self, sde: SDE, clock: str, to_clean: bool) -> None:
        self.sde, self.clock, self.to_clean = sde, clock, to_clean

    def knot(self, u: float) -> Knot:
        """From the clean end, or t_min, to t_max."""
        low, high = self.sde.at(self.sde.t_min), self.sde.at(self.sde.t_max)
        if u == 0:
            return self.sde.clean if self.to_clean else low
        if self.clock == "uniform lambda":
            return self.sde.at_lambda(float(low.lam + u * (high.lam - low.lam)))
        start = 0.0 if self.to_clean else self.sde.t_min
        return self.sde.at(min(start + u * (self.sde.t_max - start), self.sde.t_max))

    def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma at a time or at several."""
        knots = [self.knot(float(u)) for u in t.reshape(-1)]
        alpha = torch.tensor([float(k.alpha) for k in knots], dtype=torch.float64)
        sigma = torch.tensor([float(k.sigma) for k in knots], dtype=torch.float64)
        return alpha.reshape(t.shape), sigma.reshape(t.shape)


class Denoiser:
    """A model as azula's denoisers are."""

    def __init__(self, model: Predictor, schedule: Schedule) -> None:
        self.model, self.schedule = model, schedule

    def __call__(self, x: Tensor, t: Tensor, **_: object) -> SimpleNamespace:
        """The posterior's mean."""
        return SimpleNamespace(mean=self.model(x, self.schedule.knot(float(t))).x0)


@dataclass(frozen=True)
class Sampler:
    """One of azula's classes; one that cannot step to sigma = 0 ends with x0."""

    azula: ModuleType
    kind: str
    options: tuple[tuple[str, Any], ...]
    per_step: int
    to_clean: bool
    clock: str

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """As many steps as the budget allows."""
        denoiser = Denoiser(model, Schedule(model.sde, self.clock, self.to_clean))
        steps = (nfe - (not self.to_clean)) // self.per_step
        sampler = getattr(self.azula, self.kind)(
            denoiser, start=1.0, stop=0.0, steps=max(1, steps), silent=True,
            dtype=torch.float64, **dict(self.options),
        )  # fmt: skip
        out: Tensor = sampler(x)
        return out if self.to_clean else denoiser(out, torch.zeros(())).mean


def peers() -> list[Peer]:
    """All of them; those that step to sigma = 0 on clocks that reach it."""
    azula, version = package("azula.sample", "azula")
    clocks = ("uniform t", "uniform lambda")
    return [
        Peer(
            f"azula {name} {clock}", "azula", version,
            Sampler(
                azula, cls, tuple(options.items()), per_step, clean and clock == clocks[0], clock
            ),
            kind, _NOTES.get(cls),
        )
        for kind, rows in (("deterministic", _DETERMINISTIC), ("stochastic", _STOCHASTIC))
        for name, (cls, options, per_step, clean) in rows.items()
        for clock in clocks
    ]  # fmt: skip
