"""The schedulers of diffusers, on a table of 1000 indices taken from the process.

A scheduler is told betas; where the process is continuous, index i stands for the time
t_max (i + 1) / 1000. The network is asked at the index that the scheduler names, whole or not, and
the scheduler keeps its own float32 arithmetic.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from scoresde.model import Predictor
from scoresde.sde import SDE, DiscreteVPSDE
from scoresde.sde.knot import Knot

from . import Peer
from .source import package

N = 1000
ROUNDED = "asks the network at whole indices, whatever the noise level"


def knot_of(sde: SDE, index: float) -> Knot:
    """What a (fractional) index of the table stands for."""
    if isinstance(sde, DiscreteVPSDE):
        return sde.at(index)
    return sde.at(sde.t_max * (index + 1) / N)


def betas(sde: SDE) -> np.ndarray:
    """The table whose cumulated products are alpha^2 at the indices."""
    if abs(float(sde.at(sde.t_max).radius) - 1) > 1e-9:
        raise ValueError(f"diffusers' schedulers preserve the variance, {sde!r} does not")
    if isinstance(sde, DiscreteVPSDE) and len(sde.log_alphas) != N:
        raise ValueError(f"the table must have {N} entries")
    logs = np.array([2 * float(knot_of(sde, i).log_alpha) for i in range(N)])
    table: np.ndarray = -np.expm1(np.diff(logs, prepend=0.0))
    return table


@dataclass(frozen=True)
class Scheduler:
    """A scheduler class, its settings, whether its state is x / alpha, evaluations a step."""

    kind: str
    config: tuple[tuple[str, object], ...] = ()
    scaled: bool = False
    per_step: int = 1

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """The longest run that asks the network at most `nfe` times."""
        scheduler = self._make(model.sde, nfe)
        if self.scaled:
            x = x * (float(scheduler.sigmas[0]) / float(model.sde.at(model.sde.t_max).sigma))
        for t in scheduler.timesteps:
            inner = scheduler.scale_model_input(x, t)
            eps = model(inner, knot_of(model.sde, float(t))).eps
            x = scheduler.step(eps, t, x).prev_sample
        return x

    def _make(self, sde: SDE, nfe: int) -> Any:
        import diffusers

        table = betas(sde)
        for steps in range(nfe // self.per_step + 1, 0, -1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                scheduler = getattr(diffusers, self.kind)(
                    num_train_timesteps=N, trained_betas=table, **dict(self.config)
                )
                scheduler.set_timesteps(steps)
            if len(scheduler.timesteps) <= nfe:
                return scheduler
        raise ValueError(f"{self.kind} cannot run with {nfe} evaluations")


_TWO_STAGES = ("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DPMSolverSDEScheduler")
_MULTISTEP = "DPMSolverMultistepScheduler"
_DETERMINISTIC: dict[str, tuple[str, dict[str, object], bool]] = {
    "DDIM": (
        "DDIMScheduler",
        {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"},
        False,
    ),
    "DPM++2M": (_MULTISTEP, {"solver_order": 2}, False),
    "DPM++2M karras": (_MULTISTEP, {"solver_order": 2, "use_karras_sigmas": True}, False),
    "DPM++2M lu": (_MULTISTEP, {"solver_order": 2, "use_lu_lambdas": True}, False),
    "DPM++2M uniform lambda": (
        _MULTISTEP,
        {"solver_order": 2, "use_exponential_sigmas": True},
        False,
    ),
    "DPM++3M": (_MULTISTEP, {"solver_order": 3}, False),
    "DPM++3M lu": (_MULTISTEP, {"solver_order": 3, "use_lu_lambdas": True}, False),
    "UniPC-2": ("UniPCMultistepScheduler", {"solver_order": 2}, False),
    "UniPC-3": ("UniPCMultistepScheduler", {"solver_order": 3}, False),
    "UniPC-3 karras": (
        "UniPCMultistepScheduler",
        {"solver_order": 3, "use_karras_sigmas": True},
        False,
    ),
    "DEIS-3": ("DEISMultistepScheduler", {"solver_order": 3}, False),
    "DEIS-3 karras": (
        "DEISMultistepScheduler",
        {"solver_order": 3, "use_karras_sigmas": True},
        False,
    ),
    "PNDM": ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}, False),
    "Euler karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}, True),
    "Heun": ("HeunDiscreteScheduler", {}, True),
    "Heun karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}, True),
    "DPM2": ("KDPM2DiscreteScheduler", {}, True),
    "LMS": ("LMSDiscreteScheduler", {}, True),
    "LMS karras": ("LMSDiscreteScheduler", {"use_karras_sigmas": True}, True),
}
_STOCHASTIC: dict[str, tuple[str, dict[str, object], bool]] = {
    "DDPM": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}, False),
    "DPM++2M SDE": (_MULTISTEP, {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}, False),
    "DPM++2M SDE karras": (
        _MULTISTEP,
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "use_karras_sigmas": True},
        False,
    ),
    "DPM++2M SDE uniform lambda": (
        _MULTISTEP,
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": True},
        False,
    ),
    "DPM++ SDE karras": ("DPMSolverSDEScheduler", {"use_karras_sigmas": True}, True),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}, True),
    "SA-Solver P2C1": ("SASolverScheduler", {}, False),
    "SA-Solver P3C4 tau 1": (
        "SASolverScheduler",
        {"predictor_order": 3, "corrector_order": 4, "tau_func": lambda t: 1.0},
        False,
    ),
}


def peers() -> list[Peer]:
    """All of them."""
    _, version = package("diffusers")
    return [
        Peer(
            f"diffusers {name}", "diffusers", version,
            Scheduler(kind, tuple(config.items()), scaled, 2 if kind in _TWO_STAGES else 1), label,
            ROUNDED if not scaled else None,
        )
        for label, rows in (("deterministic", _DETERMINISTIC), ("stochastic", _STOCHASTIC))
        for name, (kind, config, scaled) in rows.items()
    ]  # fmt: skip
