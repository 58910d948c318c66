"""Grids, noise and watchers that the checks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..grid import Grid, from_lambdas
from ..model import Predictor
from ..noise import BatchSeed, NoiseSource, NoiseStream, generator, normal
from ..prediction import Prediction
from ..sampling.run import StepInfo, iterate
from ..sde import EDMSDE, SDE, VESDE, VPSDE, CosineVPSDE, FlowSDE, SubVPSDE
from ..sde.knot import Knot
from ..solvers.solver import Solver
from ..wrapper import Observer

PROCESSES: tuple[SDE, ...] = (
    VPSDE(), SubVPSDE(), VESDE(), EDMSDE(), CosineVPSDE(), FlowSDE(),
)  # fmt: skip

_FIRST, _LAST = -math.log(4.0), math.log(10.0)  # rho from 4 to 0.1, where the modes part


def even(sde: SDE, n: int) -> Grid:
    """n equal steps in log-SNR."""
    return from_lambdas(sde, np.linspace(_FIRST, _LAST, n + 1).tolist(), clean=False)


def uneven(sde: SDE, n: int) -> Grid:
    """n steps in log-SNR whose widths alternate 1 : 3 and shrink fivefold along the way."""
    widths = np.array([(1 + 2 * (k % 2)) * 5.0 ** (-k / n) for k in range(n)])
    places = _FIRST + (_LAST - _FIRST) * np.append(0.0, np.cumsum(widths) / widths.sum())
    return from_lambdas(sde, places.tolist(), clean=False)


def to_clean(sde: SDE, n: int, last_rho: float = 0.02) -> Grid:
    """n steps: even in log-SNR down to `last_rho`, then to sigma = 0."""
    lams = np.linspace(_FIRST if n > 1 else -math.log(last_rho), -math.log(last_rho), n)
    return from_lambdas(sde, lams.tolist())


class Watched(Observer):
    """A predictor that keeps note of where it was asked.

    Attributes:
        asked: the knots.
        dtypes: those of the states.
    """

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.asked: list[Knot] = []
        self.dtypes: set[torch.dtype] = set()

    def observe(self, prediction: Prediction) -> None:
        """Note where it was made."""
        self.asked.append(prediction.knot)
        self.dtypes.add(prediction.x.dtype)

    def outside(self) -> list[float]:
        """Times at which the network was asked outside the range that it was trained on."""
        times = [
            float(t)
            for k in self.asked
            for t in torch.as_tensor(k.t, dtype=torch.float64).flatten()
        ]
        low, high = self.sde.t_min, self.sde.t_max
        return [t for t in times if not low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


@dataclass(frozen=True, eq=False)
class Given(NoiseSource):
    """A stream that is open already."""

    stream: NoiseStream

    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """The stream."""
        return self.stream


class Tape(NoiseStream):
    """Noise that can be played again: the same draws, in any dtype, and how many there were."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0):
        self.shape, self.dtype, self.seed = tuple(shape), dtype, seed
        self.draws: list[Tensor] = []
        self.played = 0

    def normal(self) -> Tensor:
        """The next draw, made where there is none yet."""
        if self.played == len(self.draws):
            z = normal(self.shape, generator(self.seed, len(self.draws)), torch.float64)
            self.draws.append(z)
        self.played += 1
        return self.draws[self.played - 1].to(self.dtype)


def end(
    model: Predictor,
    solver: Solver,
    grid: Grid,
    x: Tensor,
    noise: NoiseSource | NoiseStream | None = None,
) -> StepInfo:
    """The last of a run's states."""
    if isinstance(noise, NoiseStream):
        noise = Given(noise)
    *_, last = iterate(model, solver, grid, x=x, noise=noise or BatchSeed(0))
    return last


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.double().square().mean().sqrt())


def observed_order(errors: Sequence[float], floor: float) -> float:
    """How fast errors fall with each doubling of the steps, over the last two doublings.

    Over two, because an error that changes its sign falls too fast and then too slowly. NaN where
    fewer than two errors lie above the floor.
    """
    above = [error for error in errors if error > floor][-3:]
    if len(above) < 2:
        return math.nan
    return math.log2(above[0] / above[-1]) / (len(above) - 1)
