"""UniPC's own code, down to t_min and then to x0 (its `denoise_to_zero`).

It takes four-dimensional states only.
"""

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
    """One variant and order."""

    module: ModuleType
    variant: str
    order: int
    spacing: str = "logSNR"
    lower: bool = True
    algorithm: str = "data_prediction"

    def __call__(self, model: Predictor, nfe: int, x: Tensor) -> Tensor:
        """One evaluation is kept for the last step."""
        with double(), redirect_stdout(io.StringIO()):  # it prints at every run
            times = schedule(self.module, model.sde)
            solver = self.module.UniPC(
                noise(model, times, x.shape), times, self.algorithm, variant=self.variant
            )
            out: Tensor = solver.sample(
                x.flatten(1)[:, :, None, None], steps=nfe - 1, order=min(self.order, nfe - 1),
                t_start=first_time(model.sde), t_end=last_time(model.sde),
                skip_type=self.spacing, lower_order_final=self.lower, denoise_to_zero=True,
            )  # fmt: skip
        return out


def peers() -> list[Peer]:
    """All of them."""
    (module,), commit = clone("UniPC", "wl-zhao/UniPC", "uni_pc")
    rows = [
        ("bh1", 2, "logSNR", True), ("bh1", 3, "logSNR", True), ("bh2", 2, "logSNR", True),
        ("bh2", 3, "logSNR", True), ("bh2", 3, "time_uniform", True), ("bh2", 3, "logSNR", False),
        ("bh2", 4, "logSNR", False), ("vary_coeff", 3, "logSNR", True),
    ]  # fmt: skip
    grids = {"logSNR": "uniform lambda", "time_uniform": "uniform t"}
    last = {True: "", False: ", order kept to the end"}
    return [
        Peer(
            f"UniPC {variant}-{order} {grids[spacing]}{last[lower]}", "UniPC", commit,
            Sampler(module, variant, order, spacing, lower),
            note="vary_coeff does not reach its order" if variant == "vary_coeff" else None,
        )
        for variant, order, spacing, lower in rows
    ]  # fmt: skip
