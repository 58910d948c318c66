"""Step control for each sample separately.

The steps of a sample never depend on the other samples: each has its own position and step size. A
sample that is finished, or that cannot be solved, leaves the batch, so it costs no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SHRINK, GROW = 0.2, 5.0  # the smallest and the largest factor between two steps


@dataclass(frozen=True)
class StepControl:
    """The rule that accepts attempts and chooses the next step.

    An attempt is accepted if its error is at most 1. The next step is

        safety * error^-exponent

    times as long (Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I", 1993,
    II.4).

    Attributes:
        safety: safety factor, below 1.
        exponent: usually 1 over the order of the local error.
        max_evals: the most evaluations of a sample; it stops if the next attempt would need more.
        smallest: smallest step, relative to the whole interval; a sample that needs less stops.
        largest: longest step.
        hold: do not lengthen a step directly after a rejection.
        lattice: round the factor down to a whole power of 2^(1/lattice); 0 for no rounding.
            With rounding, errors that differ by round-off give the same steps, unless one lies at
            a boundary.
    """

    safety: float
    exponent: float
    max_evals: int
    smallest: float = 1e-9
    largest: float = math.inf
    hold: bool = False
    lattice: int = 0

    def factor(self, error: Tensor) -> Tensor:
        """The factor on the step after an attempt; the smallest factor if the error is NaN."""
        wanted = self.safety * error.clamp_min(1e-12) ** -self.exponent
        if self.lattice:
            wanted = ((wanted.log2() * self.lattice).floor() / self.lattice).exp2()
        return wanted.clamp(SHRINK, GROW).nan_to_num(nan=SHRINK)


class Verdict(NamedTuple):
    """The samples that leave the batch, by reason: bool tensors of shape (b,)."""

    done: Tensor
    late: Tensor
    stuck: Tensor

    @property
    def leave(self) -> Tensor:
        """The samples that leave for any reason."""
        return self.done | self.late | self.stuck


class Walk:
    """The samples that are still between `start` and `stop`.

    Every tensor has one number per remaining sample, shape (b,).

    Attributes:
        index: index in the whole batch.
        at: position.
        h: length of the next attempt; it is shorter if `stop` comes before its end.
        used: evaluations so far.
        good: whether the last attempt was accepted; True at the beginning.

    Args:
        control: the rule for steps.
        batch: number of samples.
        start, stop: the interval, ascending.
        first: length of the first attempt.
        like: a tensor with the dtype and device for positions.
    """

    def __init__(
        self, control: StepControl, batch: int, start: float, stop: float, first: float,
        like: Tensor,
    ) -> None:  # fmt: skip
        self.control, self.start, self.stop = control, start, stop
        self.index = torch.arange(batch, device=like.device)
        self.at = like.new_full((batch,), start)
        self.h = like.new_full((batch,), first)
        self.used = like.new_zeros(batch)
        self.good = torch.ones(batch, dtype=torch.bool, device=like.device)

    def __len__(self) -> int:
        return len(self.index)

    def attempt(self) -> tuple[Tensor, Tensor]:
        """The length and the end of the next attempt."""
        left = self.stop - self.at
        h = torch.minimum(self.h, left)
        return h, torch.where(h < left, self.at + h, self.stop)

    def judge(self, error: Tensor, h: Tensor, end: Tensor) -> Tensor:
        """Move samples with an error of at most 1 to `end` and set all next steps.

        Returns:
            Which samples were accepted.
        """
        good = error <= 1.0
        factor = self.control.factor(error)
        if self.control.hold:
            factor = torch.where(~self.good & good, factor.clamp_max(1.0), factor)
        self.h = (h * factor).clamp_max(self.control.largest)
        self.at = torch.where(good, end, self.at)
        self.good = good
        return good

    def verdict(self, cost: int | Tensor) -> Verdict:
        """The samples that leave, if the next attempt costs this many evaluations."""
        done = self.good & (self.at >= self.stop)
        late = ~done & (self.used + cost > self.control.max_evals)
        stuck = ~done & (self.h <= self.control.smallest * (self.stop - self.start))
        return Verdict(done, late, stuck)

    def keep(self, rows: Tensor) -> Tensor:
        """Keep only these samples, a mask of shape (b,), and return their previous indices."""
        places = rows.nonzero().flatten()
        for name in ("index", "at", "h", "used", "good"):
            setattr(self, name, getattr(self, name)[places])
        return places


def wide(values: Tensor, like: Tensor) -> Tensor:
    """Reshape (b,) to (b, 1, ...) with the rank of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
