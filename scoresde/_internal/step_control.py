"""Step control for each sample by itself.

A sample's steps never depend on its batch-mates: each has its own position, step size and verdict.
One that has arrived, or that cannot be solved, leaves the batch, so that the others cost no more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

SHRINK, GROW = 0.2, 5.0  # a step changes by no more than these factors


@dataclass(frozen=True)
class StepControl:
    """An attempt is accepted where its error is at most 1; the next step is

        safety * error^-exponent

    times as long (Hairer, Norsett & Wanner, "Solving Ordinary Differential Equations I", 1993,
    II.4).

    Attributes:
        safety: factor below 1.
        exponent: usually 1 over the order of the local error.
        max_evals: evaluations that a sample may use; it is given up where the next attempt would
            need more.
        smallest: step at which a sample is given up, relative to the whole interval.
        largest: longest step.
        hold: do not lengthen a step right after a rejection.
        lattice: round the factor down to a whole power of 2^(1/lattice); 0 for no rounding.
            Positions are then the same where errors differ by round-off, unless one lies at a
            boundary.
    """

    safety: float
    exponent: float
    max_evals: int
    smallest: float = 1e-9
    largest: float = math.inf
    hold: bool = False
    lattice: int = 0

    def factor(self, error: Tensor) -> Tensor:
        """What the step is multiplied by after an attempt; the smallest factor for NaN."""
        wanted = self.safety * error.clamp_min(1e-12) ** -self.exponent
        if self.lattice:
            wanted = ((wanted.log2() * self.lattice).floor() / self.lattice).exp2()
        return wanted.clamp(SHRINK, GROW).nan_to_num(nan=SHRINK)


class Verdict(NamedTuple):
    """Which samples leave the batch, each of shape (b,), bool, and why."""

    done: Tensor
    late: Tensor
    stuck: Tensor

    @property
    def leave(self) -> Tensor:
        """Those of any reason."""
        return self.done | self.late | self.stuck


class Walk:
    """The samples that are still on their way, from `start` up to `stop`.

    Every tensor has one number for each of them, shape (b,).

    Attributes:
        index: place in the whole batch.
        at: position.
        h: length of the next attempt; it may be cut by `stop`.
        used: evaluations so far.
        good: whether the last attempt was accepted; True at first.

    Args:
        control: the rule.
        batch: number of samples.
        start, stop: the interval, ascending.
        first: length of the first attempt.
        like: of the dtype and device for positions.
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
        """Length and end of the next attempt."""
        left = self.stop - self.at
        h = torch.minimum(self.h, left)
        return h, torch.where(h < left, self.at + h, self.stop)

    def judge(self, error: Tensor, h: Tensor, end: Tensor) -> Tensor:
        """Take the step to `end` where the error is at most 1, set the next one, and say which."""
        good = error <= 1.0
        factor = self.control.factor(error)
        if self.control.hold:
            factor = torch.where(~self.good & good, factor.clamp_max(1.0), factor)
        self.h = (h * factor).clamp_max(self.control.largest)
        self.at = torch.where(good, end, self.at)
        self.good = good
        return good

    def verdict(self, cost: int | Tensor) -> Verdict:
        """Who leaves, where the next attempt costs so many evaluations."""
        done = self.good & (self.at >= self.stop)
        late = ~done & (self.used + cost > self.control.max_evals)
        stuck = ~done & (self.h <= self.control.smallest * (self.stop - self.start))
        return Verdict(done, late, stuck)

    def keep(self, rows: Tensor) -> Tensor:
        """Drop all but these, a mask of shape (b,); return their places among the former."""
        places = rows.nonzero().flatten()
        for name in ("index", "at", "h", "used", "good"):
            setattr(self, name, getattr(self, name)[places])
        return places


def wide(values: Tensor, like: Tensor) -> Tensor:
    """(b,) as (b, 1, ...) with the rank of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
