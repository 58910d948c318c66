"""The process as the codes that share DPM-Solver's `NoiseScheduleVP` know it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scoresde.model import Predictor
from scoresde.sde import SDE, VPSDE, DiscreteVPSDE


def schedule(module: ModuleType, sde: SDE) -> Any:
    """The module's own schedule object, in float64."""
    if isinstance(sde, VPSDE):
        return module.NoiseScheduleVP(
            "linear", continuous_beta_0=sde.beta_min, continuous_beta_1=sde.beta_max,
            dtype=torch.float64,
        )  # fmt: skip
    if isinstance(sde, DiscreteVPSDE):
        logs = torch.tensor(sde.log_alphas, dtype=torch.float64)
        return module.NoiseScheduleVP(
            "discrete", alphas_cumprod=(2 * logs).exp(), dtype=torch.float64
        )
    raise ValueError(f"{module.__name__} knows the linear VP process and its tables, not {sde!r}")


def noise(model: Predictor, times: Any, shape: torch.Size) -> Any:
    """eps(x, t), asked at the log-SNR that the schedule gives t."""

    def eps(x: Tensor, t: Tensor) -> Tensor:
        lam = float(times.marginal_lambda(t.reshape(-1)[:1].double()))
        return model(x.reshape(shape), model.sde.at_lambda(lam)).eps.reshape(x.shape)

    return eps


def last_time(sde: SDE) -> float:
    """t_min on the schedule's clock, which runs from 0 to 1."""
    if isinstance(sde, DiscreteVPSDE):
        return 1 / len(sde.log_alphas)
    return sde.t_min


def first_time(sde: SDE) -> float:
    """t_max on the schedule's clock."""
    return 1.0 if isinstance(sde, DiscreteVPSDE) else sde.t_max
