"""One way of wrapping a network, and its loss at noise levels: what candidates are compared by.

A wrapping is a process, a time convention, a parametrization, a sign, and a range of the data. All
wrappings of a network meet the same data, the same noise and the same noise levels (in units of the
deviation of the data), so that their losses are compared in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, ScoreSDEError
from ..model import Predictor, ScoreModel
from ..noise import generator, normal
from ..prediction import Parametrization, Prediction, PredictsF, PredictsFlow
from ..prediction import to_dict as name_of
from ..scalar import affine
from ..sde import SDE
from ..time_input import TimeInput

_WORST = 1e6  # a squared error above this, or one that is not finite, counts as this


@dataclass(frozen=True, eq=False)
class Told:
    """A time convention with the words to write for it."""

    time: TimeInput
    text: str


@dataclass(frozen=True, eq=False)
class DataMap:
    """The data as `scale * data + shift`, with the words to write for it."""

    scale: float = 1.0
    shift: float = 0.0
    text: str = "data"


SAME_DATA = DataMap()


@dataclass(frozen=True, eq=False)
class Wrapping:
    """How a network may be wrapped.

    Attributes:
        sde: the process.
        sde_text: what to write for it.
        told: the time convention.
        predicts: what the raw output means.
        sign: 1, or -1 for the negated output.
        data: the range of the data.
        mistakes: names of what differs from the given wrapping.
    """

    sde: SDE
    sde_text: str
    told: Told
    predicts: Parametrization
    sign: float = 1.0
    data: DataMap = SAME_DATA
    mistakes: tuple[str, ...] = ()

    def text(self) -> str:
        """The line of code that wraps the network this way."""
        sign = "-" if self.sign < 0 else ""
        return (
            f"ScoreModel(model.net, {self.sde_text}, predicts={predicts_text(self.predicts)}, "
            f"time={self.told.text}, output=lambda out: {sign}model.output(out))"
        ).replace("lambda out: model.output(out)", "model.output")


def predicts_text(predicts: Parametrization) -> str:
    """What to write for a parametrization."""
    if isinstance(predicts, PredictsF):
        return f"PredictsF(sigma_data={predicts.sigma_data:.3g})"
    if isinstance(predicts, PredictsFlow):
        return '"flow"'
    name = name_of(predicts)
    return f'"{name}"' if isinstance(name, str) else repr(predicts)


class Asked:
    """A network with data and noise, asked in many ways; counts what it was asked.

    Args:
        model: as the user wrapped it.
        data: shape (N, *), on the model's device.
        levels: noise levels as rho over the deviation of the data.
        seed: of the noise.
        tick: called with the number of evaluations after each call of the network.
    """

    def __init__(
        self,
        model: Predictor,
        data: Tensor,
        levels: Sequence[float],
        seed: int,
        tick: Callable[[int], object] = lambda n: None,
    ) -> None:
        self.model, self.data, self.levels = model, data, list(levels)
        self.std = math.sqrt(variance_of(data))
        self.noise = [
            normal(
                data.shape,
                generator("check_model", seed, k, device=data.device),
                dtype=data.dtype,
                device=data.device,
            )
            for k in range(len(self.levels))
        ]
        self.nfe = 0
        self._tick = tick

    def other(self, levels: Sequence[float], seed: int) -> Asked:
        """The same model and data at other noise levels, counted on its own."""
        return Asked(self.model, self.data, levels, seed, self._tick)

    def count(self, n: int) -> None:
        """Count evaluations."""
        self.nfe += n
        self._tick(n)

    def rhos(self, data: DataMap = SAME_DATA) -> list[float]:
        """The noise levels as rho = sigma / alpha, for data in this range."""
        return [level * self.std * abs(data.scale) for level in self.levels]

    def guess(self) -> Tensor:
        """The squared error of eps of a guess that knows mean and variance, float64, (levels,)."""
        levels = torch.tensor(self.levels, dtype=torch.float64)
        return 1.0 / (1.0 + levels * levels)

    def own_errors(self) -> Tensor:
        """Squared errors of the model as it is, float64, (levels, N); see `errors`."""
        return self._table(self.model, self.model.sde, SAME_DATA, [_eps], len(self.data))[0]

    def errors(
        self, wrapping: Wrapping, readings: Sequence[Wrapping], n: int
    ) -> list[Tensor] | None:
        """Squared errors of eps under each reading, a mean over dimensions, float64, (levels, n).

        The network is called once a level with the input of `wrapping`; the readings differ from it
        in what the output means. A level outside the process is NaN.

        Args:
            wrapping: says what the network receives.
            readings: wrappings of the same input.
            n: number of data, from the first.

        Returns:
            A table for each reading; None where the network refuses such an input.
        """
        try:
            model = with_wrapping(self.model, wrapping)
            readers = [_reader(reading) for reading in readings]
            return self._table(model, wrapping.sde, wrapping.data, readers, n)
        except (ScoreSDEError, RuntimeError, ValueError, IndexError, ArithmeticError, TypeError):
            return None

    def _table(
        self,
        model: Predictor,
        sde: SDE,
        data: DataMap,
        readers: Sequence[Callable[[Prediction], Tensor]],
        n: int,
    ) -> list[Tensor]:
        x0 = data.scale * self.data[:n] + data.shift
        shape = len(self.levels), n
        found = [torch.full(shape, torch.nan, dtype=torch.float64) for _ in readers]
        for place, rho in enumerate(self.rhos(data)):
            try:
                knot = sde.at_rho(rho)
            except ScoreSDEError:
                continue  # the process does not reach this level
            if float(knot.t) < 0:
                continue
            for start in range(0, n, _BATCH):
                rows = torch.arange(start, min(start + _BATCH, n), device=x0.device)
                eps = self.noise[place][rows]
                said = model.rows(rows)(affine(knot.alpha, x0[rows], knot.sigma, eps), knot)
                self.count(len(rows))
                for reader, table in zip(readers, found, strict=True):
                    square = (reader(said) - eps).double().square().flatten(1).mean(1)
                    square = square.nan_to_num(_WORST, _WORST).clamp(max=_WORST)
                    table[place, start : start + len(rows)] = square.cpu()
        return found


def _eps(said: Prediction) -> Tensor:
    return said.eps


def _reader(reading: Wrapping) -> Callable[[Prediction], Tensor]:
    return lambda said: Prediction(said.x, said.knot, reading.sign * said.raw, reading.predicts).eps


def with_wrapping(given: Predictor, wrapping: Wrapping) -> ScoreModel:
    """The network of a model, with its conditions, wrapped in another way."""
    if not isinstance(given, ScoreModel):
        raise ConfigError(f"only a ScoreModel can be wrapped again, got {type(given).__name__}")
    made = ScoreModel(
        given.net,
        wrapping.sde,
        predicts=wrapping.predicts,
        time=wrapping.told.time,
        output=given.output,
        net_dtype=given.net_dtype,
    )
    made.conditions = given.conditions
    return made


_BATCH = 256


def variance_of(data: Tensor) -> float:
    """Variance of the data, a mean over coordinates."""
    return float(data.double().var(0).mean())


# -- paired comparison ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Gain:
    """How much smaller one loss is than another.

    Attributes:
        mean: mean over levels of log(first loss / second loss).
        stderr: its standard error, from the data they share.
    """

    mean: float
    stderr: float

    @property
    def factor(self) -> float:
        """By which the first loss is larger, a geometric mean over levels."""
        return math.exp(self.mean)


def gain(first: Tensor, second: Tensor) -> Gain:
    """The paired comparison of two tables of squared errors, (levels, n), at levels both have."""
    both = ~(first.isnan().any(1) | second.isnan().any(1))
    if not both.any():
        return Gain(-math.inf, 0.0)
    one, two = first[both], second[both]
    a, b = (part.mean(1, keepdim=True).clamp(min=1e-300) for part in (one, two))
    influence = (one / a - two / b).mean(0)
    mean = float((a.log() - b.log()).mean())
    return Gain(mean, float(influence.std()) / math.sqrt(influence.numel()))


def log_loss(errors: Tensor, guess: Tensor) -> float:
    """Mean over levels of log(loss / guess), at the levels that the errors have."""
    have = ~errors.isnan().any(1)
    if int(have.sum()) * 2 < len(guess):
        return math.inf
    return float((errors[have].mean(1).clamp(min=1e-300) / guess[have]).log().mean())
