"""DPM-Solver's own code, down to t_min and then to x0 (its `denoise_to_zero`)."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from scoresde.model import Predictor

from . import Peer
from .noise_schedule import first_time, last_time, noise, schedule
from .source import clone, double


@dataclass(frozen=True)
class Sampler:
    """One of its methods."""

    module: ModuleType
    algorithm: str
    order: int
    method: str
    spacing: str = "logSNR"
    rtol: float = 0.05

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """One evaluation is kept for the last step."""
        with double(), redirect_stdout(io.StringIO()):  # the adaptive one prints
            times = schedule(self.module, model.sde)
            solver = self.module.DPM_Solver(noise(model, times, x.shape), times, self.algorithm)
            out: Tensor = solver.sample(
                x, steps=max(self.order, nfe - 1), order=min(self.order, nfe - 1),
                t_start=first_time(model.sde), t_end=last_time(model.sde),
                skip_type=self.spacing, method=self.method, denoise_to_zero=True,
                rtol=self.rtol, atol=0.156 * self.rtol,
            )  # fmt: skip
        return out


_NAMES = {"logSNR": "uniform lambda", "time_uniform": "uniform t", "time_quadratic": "quadratic"}


def peers() -> list[Peer]:
    """All of them."""
    (module,), commit = clone("dpm-solver", "LuChengTHU/dpm-solver", "dpm_solver_pytorch")

    def peer(name: str, kind: str, *fields: object) -> Peer:
        note = "the last step, to sigma = 0, is of first order"
        sampler = Sampler(module, *fields)  # type: ignore[arg-type]
        return Peer(f"dpm-solver {name}", "dpm-solver", commit, sampler, kind, note)

    found = [
        peer(f"{label}-{order}{how} {grid}", "deterministic", algorithm, order, method, spacing)
        for label, algorithm in (("DPM-Solver", "dpmsolver"), ("DPM-Solver++", "dpmsolver++"))
        for order, method, how in (
            (2, "multistep", "M"), (3, "multistep", "M"), (2, "singlestep", "S"),
            (3, "singlestep", "S"),
        )
        for spacing, grid in _NAMES.items() if spacing != "time_quadratic"
    ]  # fmt: skip
    for rtol in (5e-2, 1e-3):
        name = f"DPM-Solver-23 rtol {rtol:g}"
        found.append(peer(name, "adaptive", "dpmsolver", 3, "adaptive", "logSNR", rtol))
    return found
