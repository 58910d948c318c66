"""The loop of adaptive solvers: each sample has its own steps (`_internal.step_control`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .._internal.step_control import StepControl, Walk, wide
from ..errors import ConfigError, SolverError
from ..model import Predictor


class Method(Protocol):
    """A method with an error estimate. Positions `at` and steps `h`: float64, (B, 1, ...)."""

    def slope(self, model: Predictor, x: Tensor, at: Tensor) -> Tensor:
        """The slope at the step's start, shape (B, *). Rejected attempts reuse it."""

    def attempt(
        self, model: Predictor, x: Tensor, slope: Tensor, at: Tensor, h: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state at `at + h` with the lower and with the higher order, each of shape (B, *).

        `rows` are the indices of these samples in the whole batch, shape (B,).
        """

    @property
    def evals_per_attempt(self) -> int:
        """Network evaluations of one attempt, without that of the slope."""


@dataclass(frozen=True)
class Tolerance:
    """Tolerances, and the error of an attempt relative to them.

    The error is the root mean square over a sample's coordinates of

        (high - low) / max(atol, rtol |x|)

    where |x| is the larger of two lower-order results: this attempt's and the last accepted one's.
    """

    atol: float
    rtol: float

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0 and self.atol + self.rtol > 0):
            raise ConfigError(
                f"tolerances must be 0 or more and not both 0, got atol={self.atol!r}, "
                f"rtol={self.rtol!r}; write for example atol=0.0078, rtol=0.05"
            )

    def error(self, low: Tensor, high: Tensor, last: Tensor) -> Tensor:
        """The error of each sample, shape (B,), float64. NaN if any coordinate is NaN."""
        size = torch.maximum(low.abs(), last.abs()).double()
        ratio = (high.double() - low.double()) / (self.rtol * size).clamp_min(self.atol)
        flat = ratio.reshape(len(ratio), ratio.shape[1:].numel())
        return torch.where(flat.isnan().any(1), torch.nan, flat.square().mean(1).sqrt())


def check_max_evals(max_evals: int) -> None:
    """Raise ConfigError unless max_evals is a whole number, 1 or more."""
    if not isinstance(max_evals, int) or max_evals < 1:
        raise ConfigError(f"max_evals must be a whole number, 1 or more, got {max_evals!r}")


def integrate(
    method: Method,
    model: Predictor,
    x: Tensor,
    start: float,
    stop: float,
    first: float,
    tolerance: Tolerance,
    control: StepControl,
) -> Tensor:
    """The states at `stop`, shape (B, *), from x at `start` < `stop`.

    A sample becomes NaN if its values are not finite or if it needs more than the allowed
    evaluations; the other samples continue.

    Raises:
        SolverError: if no sample could be solved.
    """
    like = torch.empty(0, dtype=torch.float64, device=x.device)
    walk = Walk(control, len(x), start, stop, min(first, stop - start), like)
    out, last, part = torch.full_like(x, torch.nan), x, model
    slope = method.slope(model, x, wide(walk.at, x)) if len(x) else x
    walk.used = walk.used + 1
    solved = 0
    while len(walk):
        h, end = walk.attempt()
        low, high = method.attempt(part, x, slope, wide(walk.at, x), wide(h, x), walk.index)
        error = tolerance.error(low, high, last)
        good = walk.judge(error, h, end)
        walk.used = walk.used + method.evals_per_attempt
        pick = wide(good, x)
        x, last = torch.where(pick, high, x), torch.where(pick, low, last)
        verdict = walk.verdict(method.evals_per_attempt + good.long())
        leave = verdict.leave | error.isnan()
        if bool(leave.any()):
            out[walk.index[verdict.done]] = x[verdict.done]
            solved += int(verdict.done.sum())
            places = walk.keep(~leave)
            x, last, slope = x[places], last[places], slope[places]
            part = model.rows(walk.index)
        fresh = walk.good.nonzero().flatten()
        if len(fresh) == len(walk) > 0:
            slope = method.slope(part, x, wide(walk.at, x))
        elif len(fresh) > 0:
            slope = slope.clone()
            slope[fresh] = method.slope(part.rows(fresh), x[fresh], wide(walk.at[fresh], x))
        walk.used = walk.used + walk.good
    if len(out) and not solved:
        raise SolverError(
            "no sample could be solved: values were not finite, or more than "
            f"{control.max_evals} evaluations were needed for atol={tolerance.atol:g}, "
            f"rtol={tolerance.rtol:g}; write a larger tolerance or max_evals, or a float64 state"
        )
    return out
