"""SA-Solver's own code ("few steps", which it recommends), down to t_min and then to x0."""

from __future__ import annotations

from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from types import ModuleType

from torch import Tensor

from scoresde.model import Predictor

from . import Peer
from .noise_schedule import first_time, last_time, noise, schedule
from .source import clone, double


@dataclass(frozen=True)
class Sampler:
    """Orders of predictor and corrector, share of noise, and grid."""

    module: ModuleType
    predictor: int
    corrector: int
    tau: float
    spacing: str

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """One evaluation is kept for x0."""
        steps = nfe - 1
        with double(), redirect_stderr(StringIO()):  # its progress bar
            times = schedule(self.module, model.sde)
            solver = self.module.SASolver(noise(model, times, x.shape), times)
            end = solver.sample_few_steps(
                x, lambda _: self.tau, steps, t_start=first_time(model.sde),
                t_end=last_time(model.sde), skip_type=self.spacing,
                predictor_order=min(self.predictor, steps),
                corrector_order=min(self.corrector, steps + 1),
            )  # fmt: skip
        return model(end, model.sde.at(model.sde.t_min)).x0


def peers() -> list[Peer]:
    """All of them, with full noise throughout."""
    (module,), commit = clone("SA-Solver", "scxue/SA-Solver", "sa_solver")
    return [
        Peer(
            f"SA-Solver P{p}C{c} tau 1 {grid}", "SA-Solver", commit,
            Sampler(module, p, c, 1.0, spacing), "stochastic",
        )
        for p, c in ((2, 2), (3, 3), (3, 4))
        for spacing, grid in (("logSNR", "uniform lambda"), ("time", "uniform t"))
    ]  # fmt: skip
