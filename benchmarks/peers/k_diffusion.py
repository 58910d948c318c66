"""k-diffusion's samplers, on its own grids: "karras" and "exponential" (uniform in lambda)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scoresde.model import Predictor

from . import Peer
from .denoiser import Denoiser
from .source import double, part

# Name, evaluations a step, options.
_DETERMINISTIC: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Euler": ("sample_euler", 1, {}),
    "Heun": ("sample_heun", 2, {}),
    "DPM2": ("sample_dpm_2", 2, {}),
    "LMS-4": ("sample_lms", 1, {}),
    "DPM++2M": ("sample_dpmpp_2m", 1, {}),
}
_STOCHASTIC: dict[str, tuple[str, int, dict[str, Any]]] = {
    "Euler ancestral": ("sample_euler_ancestral", 1, {}),
    "DPM2 ancestral": ("sample_dpm_2_ancestral", 2, {}),
    "DPM++2S ancestral": ("sample_dpmpp_2s_ancestral", 2, {}),
    "DPM++ SDE": ("sample_dpmpp_sde", 2, {}),
    "DPM++2M SDE": ("sample_dpmpp_2m_sde", 1, {}),
    "DPM++2M SDE heun": ("sample_dpmpp_2m_sde", 1, {"solver_type": "heun"}),
    "DPM++3M SDE": ("sample_dpmpp_3m_sde", 1, {}),
    "Heun churn": ("sample_heun", 2, {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0}),
}
_NOTES = {
    "sample_dpmpp_sde": "draws its two noises as if they were increments of equal weight",
    "sample_dpmpp_2m_sde": "last step to sigma = 0 of first order",
    "sample_dpmpp_3m_sde": "last step to sigma = 0 of first order",
    "sample_dpmpp_2m": "last step to sigma = 0 of first order",
}


@dataclass(frozen=True)
class OnGrid:
    """A sampler that follows a list of sigmas, the last of them 0."""

    sampling: ModuleType
    function: str
    per_step: int
    grid: str
    options: tuple[tuple[str, Any], ...] = ()

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """The last step always takes one evaluation."""
        net = Denoiser(model)
        steps = max(1, (nfe + self.per_step - 1) // self.per_step)
        with double():
            make = getattr(self.sampling, f"get_sigmas_{self.grid}")
            sigmas = make(steps, net.sigma_min, net.sigma_max)
            run = getattr(self.sampling, self.function)
            out: Tensor = run(net, net.start(x), sigmas, disable=True, **dict(self.options))
        return out


@dataclass(frozen=True)
class OnRange:
    """DPM-Solver-fast (single steps of order 3), and the adaptive one; then x0."""

    sampling: ModuleType
    adaptive: tuple[tuple[str, float], ...] = ()

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """The adaptive one takes what it needs."""
        net = Denoiser(model)
        ends = (net, net.start(x), net.sigma_min, net.sigma_max)
        with double():
            if self.adaptive:
                y = self.sampling.sample_dpm_adaptive(*ends, disable=True, **dict(self.adaptive))
            else:
                y = self.sampling.sample_dpm_fast(*ends, n=nfe - 1, disable=True)
        return net.forward(y, torch.tensor([net.sigma_min]))


def peers() -> list[Peer]:
    """All of them."""
    sampling, version = part("k_diffusion", "sampling", "k-diffusion")

    def peer(name: str, sample: Callable[..., Tensor], kind: str, note: str | None = None) -> Peer:
        return Peer(f"k-diffusion {name}", "k-diffusion", version, sample, kind, note)

    found = [
        peer(
            f"{name} {grid}",
            OnGrid(sampling, function, per_step, grid, tuple(options.items())),
            kind,
            _NOTES.get(function),
        )
        for kind, rows in (("deterministic", _DETERMINISTIC), ("stochastic", _STOCHASTIC))
        for name, (function, per_step, options) in rows.items()
        for grid in ("karras", "exponential")
    ]
    found.append(peer("DPM-Solver-fast", OnRange(sampling), "deterministic"))
    for tolerance in (5e-2, 1e-3, 1e-5):
        options = (("rtol", tolerance), ("atol", 0.156 * tolerance), ("order", 3))
        note = "one step size for the whole batch"
        name = f"DPM-adaptive-3 rtol {tolerance:g}"
        found.append(peer(name, OnRange(sampling, options), "adaptive", note))
    return found
