"""What every comparison of a preset with a peer's code shares: problem, grids, start, noise.

Two grids of 20 steps, both strongly non-uniform in log-SNR, on VPSDE: Karras' for codes in EDM's
form, uniform in t for the others. One module a group of peers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from scoresde import VPSDE, Grid, Predictor, Predrawn, sample
from scoresde.exact.problems import ring8
from scoresde.grid import karras, uniform_t
from scoresde.sde.knot import Knot
from scoresde.solvers.solver import Solver

SDE = VPSDE()
MODEL = ring8(SDE, seed=4)
STEPS = 20
KARRAS = karras(SDE, STEPS, clean=False)
UNIFORM = uniform_t(SDE, STEPS, clean=False)
RHOS = torch.tensor([float(knot.rho) for knot in KARRAS.knots], dtype=torch.float64)
TIMES = torch.tensor([float(knot.t) for knot in UNIFORM.knots], dtype=torch.float64)


def normals(count: int, seed: int) -> tuple[Tensor, ...]:
    """Standard normals of the state's shape."""
    generator = torch.Generator().manual_seed(seed)
    shape = (16, 2)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count))


START = float(SDE.at(1.0).sigma) * normals(1, 0)[0]
DRAWS = normals(3 * STEPS, 1)


@dataclass(frozen=True)
class Pair:
    """One comparison: ours and theirs, and why they may differ."""

    ours: str
    peer: str
    run: Callable[[], tuple[Tensor, Tensor]]
    tolerance: float = 1e-11
    reason: str = ""  # of a tolerance that is not round-off, or of a difference
    differs: bool = False  # by a defect of the peer's


@dataclass(frozen=True)
class Group:
    """The comparisons with one package."""

    package: str
    version: str
    pairs: list[Pair]


def ours(
    solver: Solver,
    grid: Grid = KARRAS,
    draws: tuple[Tensor, ...] = DRAWS,
    *,
    x: Tensor = START,
    model: Predictor = MODEL,
) -> Tensor:
    """The state at the grid's end."""
    return sample(model, solver, grid, x=x, noise=Predrawn(draws)).x


def scaled(x: Tensor, knot: Knot = KARRAS.knots[-1]) -> Tensor:
    """x / alpha."""
    return x / float(knot.alpha)


def churned(draws: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Of one draw a step, those where Heun raises the noise: rho from 0.05 to 50."""
    levels = zip(draws, KARRAS.knots[:-1], strict=False)
    return tuple(z for z, knot in levels if 0.05 <= float(knot.rho) <= 50.0)


def in_order(draws: tuple[Tensor, ...] = DRAWS) -> Callable[..., Tensor]:
    """A function that hands the draws out, whatever it is asked."""
    waiting = iter(draws)
    return lambda *_, **__: next(waiting)


@contextmanager
def seeded() -> Iterator[tuple[Tensor, ...]]:
    """What a code that calls torch.randn_like will draw."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        draws = tuple(torch.randn_like(START) for _ in range(3 * STEPS))
        torch.manual_seed(7)
        yield draws


def label(solver: Solver) -> str:
    """A preset's class and what differs from its defaults."""
    base = type(solver)()
    told = [
        f"{f.name}={getattr(solver, f.name)!r}"
        for f in fields(solver)
        if getattr(solver, f.name) != getattr(base, f.name)
    ]
    return f"{type(solver).__name__}({', '.join(told)})"


@contextmanager
def silent() -> Iterator[None]:
    """No progress bars and no prints."""
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        yield
