"""EDM's own sampler (algorithm 2 of Karras et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from scoresde.model import Predictor

from . import Peer
from .denoiser import Denoiser
from .source import clone


@dataclass(frozen=True)
class Sampler:
    """Heun's method, with churn or without."""

    generate: ModuleType
    churn: float = 0.0

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """Two evaluations a step, one for the last."""
        net = Denoiser(model)
        out: Tensor = self.generate.edm_sampler(
            net, net.start(x) / net.sigma_max, num_steps=max(2, (nfe + 1) // 2),
            sigma_min=net.sigma_min, sigma_max=net.sigma_max,
            S_churn=self.churn, S_min=0.05, S_max=50, S_noise=1.003,
        )  # fmt: skip
        return out


def load() -> tuple[ModuleType, str]:
    """The module `generate`, without the networks and the pictures that it imports."""
    stubs = ("click", "PIL", "PIL.Image", "dnnlib", "torch_utils", "torch_utils.distributed")
    (generate,), commit = clone("edm", "NVlabs/edm", "generate", stubs=stubs)
    return generate, commit


def peers() -> list[Peer]:
    """With churn and without."""
    generate, commit = load()
    return [
        Peer("EDM Heun karras", "edm", commit, Sampler(generate)),
        Peer("EDM Heun churn 40", "edm", commit, Sampler(generate, 40.0), "stochastic"),
    ]
