"""Other people's samplers behind one interface, driven by the same model in the same run.

One adapter a package. Nothing of a peer's code is here: packages are imported where they are
installed, repositories that are no packages from the folder of clones that the environment variable
`SCORESDE_PEERS` names. What is not there is listed by `absent()`, with how to get it.

    SCORESDE_PEERS=clones python -m benchmarks.peers        # what is here, what is not
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module

import torch
from torch import Tensor

from scoresde._internal.counted import Counted
from scoresde.model import Predictor
from scoresde.prediction import Prediction
from scoresde.sde import SDE
from scoresde.wrapper import Observer

from .source import Absent

KINDS = ("deterministic", "stochastic", "adaptive")
ADAPTERS = (
    "diffusers",
    "k_diffusion",
    "azula",
    "dpm_solver",
    "unipc",
    "diff_sampler",
    "edm",
    "score_sde",
    "sa_solver",
    "er_sde",
    "seeds",
    "torchsde",
)


@dataclass(frozen=True)
class Peer:
    """One sampler of another library, with its own grid and its own last step.

    Attributes:
        name: package, method and grid.
        package, version: where it comes from; a commit where there is no version.
        sample: (model, budget, start) -> samples.
        kind: one of `KINDS`; an adaptive method uses what it needs, whatever the budget.
        note: a known defect, or how the adapter had to deviate.
    """

    name: str
    package: str
    version: str
    sample: Callable[[Predictor, int, Tensor], Tensor]
    kind: str = "deterministic"
    note: str | None = None

    @property
    def stochastic(self) -> bool:
        """Whether noise is drawn along the way."""
        return self.kind == "stochastic"

    def run(
        self, model: Predictor, nfe: int, x: Tensor, seed: int = 0, t_min: float | None = None
    ) -> tuple[Tensor, int]:
        """Samples in float64 from the start x at t_max of the model's process, shape (B, *).

        Also the network evaluations per sample that were really used, counted: at most `nfe`
        (except for adaptive methods). Peers draw from torch's global generator; it is seeded here
        and given back as it was.

        Args:
            model: any predictor.
            nfe: the budget.
            x: the start.
            seed: of the noise.
            t_min: where the peer's grid ends, if not at the process's own t_min. Many peers take a
                last step of first order from there, whose error is a floor: DPM-Solver's authors
                advise 1e-3 for VP up to 15 evaluations, 1e-4 beyond. A model in closed form can be
                asked there; a network only where it was trained.
        """
        counted = Counted(model if t_min is None else _Until(model, t_min))
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices=devices), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.manual_seed(seed)
            out = self.sample(counted, nfe, x.double())
        used = counted.nfe(len(x))
        assert len(used.unique()) == 1
        return out.double().reshape(x.shape), int(used[0])

    def __reduce__(self) -> tuple[Callable[[str], Peer], tuple[str]]:
        """Modules cannot be pickled: another process finds the sampler by its name."""
        return named, (self.name,)


class _Until(Observer):
    """A model that may be asked down to another t_min."""

    def __init__(self, model: Predictor, t_min: float) -> None:
        super().__init__(model)
        self._sde = replace(model.sde, t_min=t_min)

    @property
    def sde(self) -> SDE:
        return self._sde

    def observe(self, prediction: Prediction) -> None:
        pass


def available(kind: str = "deterministic") -> list[Peer]:
    """The samplers of this kind whose package is here."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got {kind!r}")
    return [peer for peer in _find()[0] if peer.kind == kind]


def named(name: str) -> Peer:
    """The sampler with this name.

    Raises:
        KeyError: if its package is not here.
    """
    return {peer.name: peer for peer in _find()[0]}[name]


def absent() -> dict[str, str]:
    """Packages that are not here, each with how to get it."""
    return _find()[1]


def _find() -> tuple[list[Peer], dict[str, str]]:
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for adapter in ADAPTERS:
        try:
            found += import_module(f".{adapter}", __name__).peers()
        except Absent as reason:
            missing[adapter] = str(reason)
    return found, missing
