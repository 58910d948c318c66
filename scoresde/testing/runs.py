"""Grids, noise and observers that the checks share."""

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

_FIRST, _LAST = -math.log(4.0), math.log(10.0)  # rho from 4 to 0.1, where the modes separate


def even(sde: SDE, n: int) -> Grid:
    """A grid of n equal steps in log-SNR."""
    return from_lambdas(sde, np.linspace(_FIRST, _LAST, n + 1).tolist(), clean=False)


def uneven(sde: SDE, n: int) -> Grid:
    """A grid of n steps in log-SNR whose widths alternate 1 : 3 and shrink by a factor of 5."""
    widths = np.array([(1 + 2 * (k % 2)) * 5.0 ** (-k / n) for k in range(n)])
    places = _FIRST + (_LAST - _FIRST) * np.append(0.0, np.cumsum(widths) / widths.sum())
    return from_lambdas(sde, places.tolist(), clean=False)


def to_clean(sde: SDE, n: int, last_rho: float = 0.02) -> Grid:
    """A grid of n steps: even in log-SNR down to `last_rho`, then one to sigma = 0."""
    lams = np.linspace(_FIRST if n > 1 else -math.log(last_rho), -math.log(last_rho), n)
    return from_lambdas(sde, lams.tolist())


class Watched(Observer):
    """A predictor that records its calls.

    Attributes:
        asked: the knots of all calls.
        dtypes: the dtypes of all states.
    """

    def __init__(self, model: Predictor) -> None:
        super().__init__(model)
        self.asked: list[Knot] = []
        self.dtypes: set[torch.dtype] = set()

    def observe(self, prediction: Prediction) -> None:
        """Record the knot and the dtype."""
        self.asked.append(prediction.knot)
        self.dtypes.add(prediction.x.dtype)

    def outside(self) -> list[float]:
        """Times of calls outside the range on which the network was trained."""
        times = [
            float(t)
            for k in self.asked
            for t in torch.as_tensor(k.t, dtype=torch.float64).flatten()
        ]
        low, high = self.sde.t_min, self.sde.t_max
        return [t for t in times if not low * (1 - 1e-9) <= t <= high * (1 + 1e-9)]


@dataclass(frozen=True, eq=False)
class Given(NoiseSource):
    """A source that returns a stream which is already open."""

    stream: NoiseStream

    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """The stream."""
        return self.stream


class Tape(NoiseStream):
    """Noise that can be replayed: the same draws in any dtype; it also counts them."""

    def __init__(self, shape: Sequence[int], dtype: torch.dtype = torch.float64, seed: int = 0):
        self.shape, self.dtype, self.seed = tuple(shape), dtype, seed
        self.draws: list[Tensor] = []
        self.played = 0

    def normal(self) -> Tensor:
        """The next draw; a new one if the tape has no further draw."""
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
    """The last state of a run."""
    if isinstance(noise, NoiseStream):
        noise = Given(noise)
    *_, last = iterate(model, solver, grid, x=x, noise=noise or BatchSeed(0))
    return last


def rms(x: Tensor) -> float:
    """Root mean square."""
    return float(x.double().square().mean().sqrt())


def observed_order(errors: Sequence[float], floor: float) -> float:
    """The observed order of convergence, from the errors over the last two doublings of the steps.

    Two doublings, because an error that changes its sign falls too fast and then too slowly. NaN
    if fewer than two errors are above the floor.
    """
    above = [error for error in errors if error > floor][-3:]
    if len(above) < 2:
        return math.nan
    return math.log2(above[0] / above[-1]) / (len(above) - 1)
