"""The base class of ODE solvers for a whole batch, and a way to isolate samples that fail.

The solvers of other libraries choose one step size for the whole batch and stop at the first
number that is not finite. `integrate_rows` splits a batch that failed, so that only the samples
that cause the failure are lost.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import ConfigError, SolverError

Parts = tuple[Tensor, ...]
"""The state of an ODE: tensors of shape (B, *), each with an error norm of its own."""


class Field(Protocol):
    """The right-hand side d parts / d tau."""

    def __call__(self, tau: float, parts: Parts) -> Parts:
        """The derivative at tau."""

    def rows(self, index: Tensor) -> Field:
        """The right-hand side for these samples."""


@dataclass(frozen=True)
class Backend(ABC):
    """An ODE solver as a frozen value.

    Attributes:
        rtol, atol: tolerances of adaptive methods for the root mean square of the local error.
        max_evals: the most evaluations of the field in one solve.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_evals: int = 10_000

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.max_evals > 0):
            raise ConfigError(
                "rtol, atol and max_evals must be positive, got "
                f"rtol={self.rtol!r}, atol={self.atol!r}, max_evals={self.max_evals!r}"
            )

    @property
    @abstractmethod
    def order(self) -> float:
        """Order of convergence of the method."""

    @property
    def evals_per_solve(self) -> int | None:
        """Network evaluations of one solve; None if they depend on the data."""
        return None

    @abstractmethod
    def integrate(self, field: Field, parts: Parts, start: float, end: float) -> Parts:
        """The state at tau = end, from the state at start; end may be larger or smaller.

        States must be float64, since some libraries cast time to the state's dtype.

        Raises:
            SolverError: if the solver stops early, or a value is not finite.
        """


class Solved(NamedTuple):
    """The states at the end; those in `failures`, by index in the batch, are NaN."""

    parts: Parts
    failures: dict[int, str]


def integrate_rows(
    backend: Backend, field: Field, parts: Parts, start: float, end: float
) -> Solved:
    """Integrate a batch; if that fails, find the samples that cause it and solve the others.

    After an error the batch is split in two and solved again, down to single samples. If some
    results are not finite, those samples are dropped and the others are solved again, since they
    shared a step size.

    Args:
        backend: the solver.
        field: the right-hand side.
        parts: the state at `start`, each of shape (B, *).
        start, end: the interval of tau, in either direction.
    """
    batch = parts[0].shape[0]
    if batch == 0 or start == end:
        return Solved(parts, {})
    whole = _finite_rows(parts)
    if not bool(whole.all()):
        lost = {int(i): "not finite at the start" for i in (~whole).nonzero()}
        rest = whole.nonzero().flatten()
        return _merge(parts, (rest,), backend, field, start, end, lost)
    try:
        out = backend.integrate(field, parts, start, end)
    except SolverError as error:
        if batch == 1:
            return Solved(tuple(torch.full_like(p, math.nan) for p in parts), {0: str(error)})
        halves = torch.arange(batch, device=parts[0].device).chunk(2)
        return _merge(parts, halves, backend, field, start, end, {})
    finite = _finite_rows(out)
    bad = (~finite).nonzero().flatten()
    if len(bad) == 0:
        return Solved(out, {})
    failures = {int(i): f"not finite on the way from {start:.6g} to {end:.6g}" for i in bad}
    good = finite.nonzero().flatten()
    return _merge(parts, (good,), backend, field, start, end, failures)


def _merge(
    parts: Parts,
    groups: tuple[Tensor, ...],
    backend: Backend,
    field: Field,
    start: float,
    end: float,
    failures: dict[int, str],
) -> Solved:
    """Solve groups of rows separately and merge the results; rows in no group are NaN."""
    out = tuple(torch.full_like(p, math.nan) for p in parts)
    for index in groups:
        solved = integrate_rows(
            backend, field.rows(index), tuple(p[index] for p in parts), start, end
        )
        out = tuple(o.index_copy(0, index, p) for o, p in zip(out, solved.parts, strict=True))
        failures |= {int(index[i]): reason for i, reason in solved.failures.items()}
    return Solved(out, failures)


def _finite_rows(parts: Parts) -> Tensor:
    rows = [torch.isfinite(p.reshape(len(p), -1)).all(1) for p in parts]
    return torch.stack(rows).all(0)


class Flat:
    """A field of parts as a function of a flat vector, which other libraries need.

    Args:
        check: raise an error at a value that is not finite. Without it adaptive methods would
            never end. Methods with fixed steps may continue, since their samples are independent.
    """

    def __init__(self, field: Field, parts: Parts, backend: Backend, *, check: bool) -> None:
        self.field, self.backend, self.check = field, backend, check
        self.shapes = [p.shape for p in parts]
        self.sizes = [p.numel() for p in parts]
        self.calls = 0

    def pack(self, parts: Parts) -> Tensor:
        """One flat float64 vector."""
        return torch.cat([p.to(torch.float64).reshape(-1) for p in parts])

    def unpack(self, flat: Tensor) -> Parts:
        """The parts of a flat vector."""
        pieces = torch.split(flat, self.sizes)
        return tuple(p.reshape(shape) for p, shape in zip(pieces, self.shapes, strict=True))

    def tolerance(self, tol: float, like: Tensor) -> float | Tensor:
        """The tolerance of each entry of the flat vector.

        It makes the mean square over all entries the sum of the parts' mean squares, so that a
        short part counts as much as a long one.
        """
        if len(self.sizes) == 1:
            return tol
        shares = [math.sqrt(n / sum(self.sizes)) for n in self.sizes]
        return torch.cat(
            [like.new_full((n,), tol * w) for n, w in zip(self.sizes, shares, strict=True)]
        )

    def __call__(self, tau: float, flat: Tensor) -> Tensor:
        """The derivative at tau, flat."""
        self.calls += 1
        if self.calls > self.backend.max_evals:
            raise SolverError(
                f"not done after {self.backend.max_evals} evaluations, at {tau:.6g}; write a "
                "larger rtol, atol or max_evals"
            )
        out = self.pack(self.field(tau, self.unpack(flat)))
        if self.check and not bool(torch.isfinite(out).all()):
            raise SolverError(f"the field is not finite at {tau:.6g}")
        return out
