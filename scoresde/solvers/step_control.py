"""Adaptive steps, chosen for each sample by itself.

A sample's steps never depend on its batch-mates: each has its own position, step size and verdict.
One that has arrived, or that cannot be solved, leaves the batch, so that the others cost no more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, SolverError
from ..model import Predictor

_SHRINK, _GROW = 0.2, 5.0  # a step changes by no more than these factors


class Method(Protocol):
    """One attempt at a step. Positions `at` and steps `h` are float64, shape (B, 1, ...)."""

    def slope(self, model: Predictor, x: Tensor, at: Tensor) -> Tensor:
        """The evaluation at the step's start, shape (B, *): kept while attempts are rejected."""

    def attempt(
        self, model: Predictor, x: Tensor, slope: Tensor, at: Tensor, h: Tensor, rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The state at `at + h` by the lower and by the higher order, each of shape (B, *).

        `rows` says which samples these are, shape (B,).
        """

    @property
    def evals(self) -> int:
        """Network evaluations of an attempt, without the slope."""


@dataclass(frozen=True)
class Control:
    """When a step is accepted, and how long the next one is.

    The error is the root mean square over a sample's coordinates of (high - low) / tolerance, with
    tolerance max(atol, rtol |x|); x is the larger of this and the last lower-order result.
    The next step is safety * error^-exponent times as long.
    """

    atol: float
    rtol: float
    safety: float
    exponent: float
    max_evals: int

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0 and self.atol + self.rtol > 0):
            raise ConfigError(
                f"tolerances must be 0 or more and not both 0, got atol={self.atol!r}, "
                f"rtol={self.rtol!r}; write for example atol=0.0078, rtol=0.05"
            )
        if not 0 < self.safety < 1 or not self.exponent > 0 or self.max_evals < 1:
            raise ConfigError(
                "need 0 < safety < 1, exponent > 0 and max_evals >= 1, got "
                f"safety={self.safety!r}, exponent={self.exponent!r}, max_evals={self.max_evals!r}"
            )

    def error(self, low: Tensor, high: Tensor, last: Tensor) -> Tensor:
        """Shape (B, 1, ...), float64."""
        size = torch.maximum(low.abs(), last.abs()).double()
        ratio = (high.double() - low.double()) / (self.rtol * size).clamp_min(self.atol)
        flat = ratio.reshape(len(ratio), ratio.shape[1:].numel())
        error = flat.square().mean(1).sqrt().reshape(-1, *[1] * (low.ndim - 1))
        return torch.where(flat.isnan().any(1).reshape(error.shape), torch.nan, error)

    def factor(self, error: Tensor) -> Tensor:
        """What the step is multiplied by after an attempt."""
        wanted = self.safety * error.clamp_min(1e-12) ** -self.exponent
        return wanted.clamp(_SHRINK, _GROW)


def integrate(
    method: Method,
    model: Predictor,
    x: Tensor,
    start: float,
    stop: float,
    first: float,
    control: Control,
) -> Tensor:
    """The states at `stop`, shape (B, *), from x at `start` < `stop`.

    A sample that cannot be solved, for want of finite values or of evaluations, becomes NaN; the
    others go on.

    Raises:
        SolverError: if no sample could be solved.
    """
    column = (len(x), *[1] * (x.ndim - 1))
    rows = torch.arange(len(x), device=x.device)
    at = torch.full(column, start, dtype=torch.float64, device=x.device)
    h = torch.full_like(at, min(first, stop - start))
    used = torch.ones_like(at)
    out, last, part = torch.full_like(x, torch.nan), x, model
    solved = 0
    slope = method.slope(model, x, at) if len(x) else x
    while len(rows) > 0:
        step = torch.minimum(h, stop - at)
        low, high = method.attempt(part, x, slope, at, step, rows)
        used = used + method.evals
        error = control.error(low, high, last)
        good = error <= 1
        at = torch.where(good, torch.where(step >= stop - at, stop, at + step), at)
        x, last = torch.where(good, high, x), torch.where(good, low, last)
        h = step * control.factor(error)
        done = good & (at >= stop)
        stuck = (h < 1e-9 * (stop - start)) | (used >= control.max_evals)
        leave = (done | error.isnan() | stuck).flatten()
        if bool(leave.any()):
            arrived = done.flatten()
            out[rows[arrived]] = x[arrived]
            solved += int(arrived.sum())
            stay = ~leave
            rows, x, last, slope = rows[stay], x[stay], last[stay], slope[stay]
            at, h, used, good = at[stay], h[stay], used[stay], good[stay]
            part = model.rows(rows)
        fresh = good.flatten().nonzero().flatten()
        if len(fresh) == len(rows) > 0:
            slope = method.slope(part, x, at)
        elif len(fresh) > 0:
            slope = slope.clone()
            slope[fresh] = method.slope(part.rows(fresh), x[fresh], at[fresh])
        used = used + good
    if len(out) and bool(
        out.isnan().flatten(1).any(1).all() if out.ndim > 1 else out.isnan().all()
    ):
        raise SolverError(
            f"no sample arrived: values were not finite, or {control.max_evals} evaluations did "
            f"not suffice for atol={control.atol:g}, rtol={control.rtol:g}; write a larger "
            "tolerance or max_evals, or a float64 state"
        )
    return out
