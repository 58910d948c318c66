"""score_sde's samplers on its linear VP process: four-dimensional states, float32 in the ODE."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scoresde.model import Predictor
from scoresde.sde import VPSDE

from . import Peer
from .source import clone


class Net(torch.nn.Module):
    """A model as score_sde's continuous VP networks are: eps, told 999 t."""

    def __init__(self, model: Predictor, shape: torch.Size) -> None:
        super().__init__()
        self.model, self.shape = model, shape

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Eps at one time of the whole batch."""
        knot = self.model.sde.at(float(labels[0]) / 999)
        return self.model(x.double().reshape(self.shape), knot).eps.reshape(x.shape).to(x)


@dataclass(frozen=True)
class Code:
    """The modules of the repository."""

    sde_lib: ModuleType
    sampling: ModuleType

    def process(self, model: Predictor, steps: int) -> Any:
        """Its own process object."""
        sde = model.sde
        if not isinstance(sde, VPSDE) or sde.t_max != 1:
            raise ValueError(f"this adapter knows VPSDE up to t = 1, not {sde!r}")
        return self.sde_lib.VPSDE(sde.beta_min, sde.beta_max, steps)


@dataclass(frozen=True)
class PredictorCorrector:
    """Any of its predictors, with a Langevin corrector or without."""

    code: Code
    predictor: str
    corrector: str = "none"
    snr: float = 0.16

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """N steps, of one evaluation or two."""
        sampling = self.code.sampling
        process = self.code.process(model, nfe // (1 + (self.corrector != "none")))
        start = x.flatten(1)[:, :, None, None]
        process.prior_sampling = lambda shape: start
        run = sampling.get_pc_sampler(
            process, start.shape, sampling.get_predictor(self.predictor),
            sampling.get_corrector(self.corrector), lambda y: y, self.snr,
            continuous=True, eps=model.sde.t_min, device="cpu",
        )  # fmt: skip
        out: Tensor = run(Net(model, x.shape))[0]
        return out


@dataclass(frozen=True)
class RK45:
    """Its probability-flow sampler, which ends at t_min."""

    code: Code
    tolerance: float

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """It takes the evaluations that it needs, and x0 one more."""
        start = x.flatten(1)[:, :, None, None]
        run = self.code.sampling.get_ode_sampler(
            self.code.process(model, 1000), start.shape, lambda y: y, denoise=False,
            rtol=self.tolerance, atol=self.tolerance, eps=model.sde.t_min, device="cpu",
        )  # fmt: skip
        out = run(Net(model, x.shape), start)[0].double().reshape(x.shape)
        return model(out, model.sde.at(model.sde.t_min)).x0


def load() -> tuple[Code, list[ModuleType], str]:
    """Processes and samplers; then `likelihood`; and the commit."""
    (sde_lib, sampling, likelihood), commit = clone(
        "score_sde_pytorch", "yang-song/score_sde_pytorch", "sde_lib", "sampling", "likelihood"
    )
    return Code(sde_lib, sampling), [likelihood], commit


def peers() -> list[Peer]:
    """All of them."""
    code, _, commit = load()
    rows = {
        "Euler-Maruyama": PredictorCorrector(code, "euler_maruyama"),
        "reverse diffusion": PredictorCorrector(code, "reverse_diffusion"),
        "ancestral": PredictorCorrector(code, "ancestral_sampling"),
        "PC": PredictorCorrector(code, "reverse_diffusion", "langevin"),
    }
    note = "beta(t) / N for a step of the grid: a step size off by 1/N, and NaN at small N"
    found = [
        Peer(f"score_sde {name} uniform t", "score_sde_pytorch", commit, run, "stochastic", note)
        for name, run in rows.items()
    ]
    return found + [
        Peer(
            f"score_sde RK45 rtol {tolerance:g}", "score_sde_pytorch", commit,
            RK45(code, tolerance), "adaptive", "float32 state; one step size for the whole batch",
        )
        for tolerance in (1e-3, 1e-5)
    ]  # fmt: skip
