r"""Time grids tuned to a model, a solver and a budget.

A grid of n steps has n - 1 free knots between t_max and sigma = 0. They are found in three
stages, each of which starts where the last one ended:

1. *Equidistribution.* Along pilot trajectories, the leading error of an order-p step of length h
   in the angle a = atan(sigma/alpha) is c h^(p+1) |d^p v / da^p|. The error of all steps is least
   where each has the same share: knots are quantiles of the density |d^p v / da^p|^(1/(p+1)).
   (The equidistribution principle; de Boor, "Good Approximation by Splines with Variable Knots",
   1973.)
2. *Choice.* The result competes with stock grids that end at several noise levels.
3. *Refinement.* From the best ones, Gauss-Newton steps within a trust region (scipy) move the
   knots to reduce the endpoint errors themselves, against a tight solve from training starts.
   Knots are written as gaps exp(theta_i) in log(rho), so that they cannot cross; beyond 12 knots,
   theta is interpolated between 12 controls. Compare Xue et al., "Accelerating Diffusion Sampling
   with Optimized Time Steps", 2024, who minimise a bound instead of the error.

Other starts choose among all of these and the default, so the result is not worse than it on
them; a third set states the gain.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import names
from .bench.budget import grid_for
from .bench.reference import solve_reference
from .errors import CheckpointError, ConfigError, ScoreSDEError, require
from .grid import Grid, from_times, karras, uniform_lambda, uniform_t
from .identity import fingerprint
from .jobs import write_atomic
from .metrics import Estimate, endpoint_errors, error_ratio
from .model import Predictor
from .noise import SampleSeeds
from .sampling import iterate, sample
from .sde import CLEAN, SDE
from .sde import from_dict as sde_from_dict
from .solvers.base import Solver
from .solvers.exponential.presets import UniPC
from .solvers.relay import evaluations

Array = NDArray[np.float64]

_FORMAT = 1
_CONTROLS = 12
_ENDS = (0.003, 0.01, 0.03, 0.06, 0.12, 0.25)  # rho of the last knot before sigma = 0


class TunedGridWarning(UserWarning):
    """A grid that was tuned to another model or solver."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """A grid, what it was tuned to, and what that gained.

    Attributes:
        grid: the grid.
        solver: the solver, as it is written.
        model: fingerprint of the model.
        nfe: evaluations a sample that it takes.
        source: which candidate it is.
        ratio: RMS endpoint error over that of the default grid, on starts that took no part.
        error: RMS endpoint error on these starts.
        cost: evaluations of one sample that the search took, reference included.
    """

    grid: Grid
    solver: str
    model: str
    nfe: int
    source: str
    ratio: Estimate
    error: float
    cost: int

    def save(self, path: str | Path) -> None:
        """Write a small JSON file that `load` reads."""
        data = {
            "scoresde_grid": _FORMAT,
            **self.grid.to_dict(),
            "solver": self.solver,
            "model": self.model,
            "nfe": self.nfe,
            "source": self.source,
            "ratio": list(self.ratio),
            "error": self.error,
            "cost": self.cost,
        }
        write_atomic(Path(path), json.dumps(data, indent=1).encode())

    def __str__(self) -> str:
        return (
            f"{self.grid.steps} steps, {self.nfe} evaluations ({self.source}): RMS endpoint error "
            f"{self.error:.3g}, {self.ratio} of the default grid's"
        )


def load(path: str | Path, model: Predictor, solver: Solver) -> Grid:
    """The grid in a file of `Tuned.save`.

    Warns where it was tuned to another solver or to another model of the same process.

    Raises:
        CheckpointError: for a file that is not such a grid.
        ConfigError: for one of another process.
    """
    try:
        data = json.loads(Path(path).read_text())
        if data["scoresde_grid"] != _FORMAT:
            raise ValueError(f"format {data['scoresde_grid']!r}")
        grid = from_times(sde_from_dict(data["sde"]), data["times"], clean=data["clean"])
        theirs = {"model": data["model"], "solver": data["solver"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a tuned grid: {error!r}") from error
    if grid.sde != model.sde:
        raise ConfigError(f"{path} is a grid of {grid.sde!r}, the model's process is {model.sde!r}")
    mine = {"model": fingerprint(model), "solver": names.describe(solver)}
    for what, value in mine.items():
        if theirs[what] != value:
            warnings.warn(
                f"{path} was tuned to {what} {theirs[what]}, and is used with {value}",
                TunedGridWarning,
                stacklevel=2,
            )
    return grid


def tune(
    model: Predictor,
    solver: Solver | str,
    nfe: int,
    *,
    shape: Sequence[int] | None = None,
    starts: int = 64,
    held_out: int = 256,
    first_seed: int = 0,
    dtype: torch.dtype = torch.float32,
    rounds: int = 6,
    tolerance: float | None = None,
) -> Tuned:
    """Find the grid on which a solver makes the smallest endpoint error at a budget.

    Args:
        model: what predicts.
        solver: a deterministic solver, or its name; with "recommended", that and its own grid are
            what the search starts from, and the default that the gain is stated against.
        nfe: the budget; the nearest that the solver can meet is taken.
        shape: of one sample; that of a closed-form model by default.
        starts: starts to tune on. Few of them near a boundary of modes rule the RMS: take as many
            as the network allows.
        held_out: starts to choose on, and as many others to state the gain on.
        first_seed: first of the seeds of all starts.
        dtype: of the state.
        rounds: Gauss-Newton steps for each of the two best candidates; 0 leaves them as they are.
        tolerance: of the reference endpoints, see `scoresde.bench.solve_reference`.

    Raises:
        ConfigError: for a stochastic solver, or one that chooses its own steps.
    """
    rule, default = _default(model.sde, solver, nfe)
    if default.steps < 2:
        raise ConfigError(f"{nfe} evaluations leave no knot to move; write a larger nfe")
    known: Sequence[int] = getattr(model, "event_shape", ())
    event = tuple(known if shape is None else shape)
    if not event:
        raise ConfigError("the shape of a sample is not known; write shape=(1, 28, 28)")
    total = starts + 2 * held_out
    seeds = SampleSeeds(tuple(range(first_seed, first_seed + total)))
    x = model.sde.prior_sample(seeds.open((total, *event), dtype))
    reference = solve_reference(model, x, rtol=tolerance)
    ends = (0, starts, starts + held_out, total)
    train, choose, test = (_Trial(model, rule, x[a:b], reference.x[a:b]) for a, b in pairwise(ends))
    candidates = {"default": default, **_stock(model.sde, default.steps)}
    candidates["equidistributed"] = _equidistributed(model, rule, x[:16], default.steps)
    ranked = sorted(candidates, key=lambda name: train.rms(candidates[name]))
    for name in ranked[:2] if rounds else []:
        candidates[f"{name}, refined"] = _refine(train, candidates[name], rounds)
    best = min(candidates, key=lambda name: choose.rms(candidates[name]))
    chosen, stock = test.run(candidates[best]), test.run(default)
    return Tuned(
        grid=candidates[best],
        solver=names.describe(rule),
        model=fingerprint(model),
        nfe=evaluations(rule, default) or nfe,
        source=best,
        ratio=error_ratio(chosen, stock, test.reference),
        error=float(endpoint_errors(chosen, test.reference).square().mean().sqrt()),
        cost=reference.nfe * total + sum(trial.cost for trial in (train, choose, test)),
    )


def _default(sde: SDE, solver: Solver | str, nfe: int) -> tuple[Solver, Grid]:
    if isinstance(solver, str) and names.is_pair(solver):
        rule, grid = names.pair(solver)(sde, nfe)
    else:
        rule = names.solver(solver) if isinstance(solver, str) else solver
        grid = grid_for(rule, uniform_lambda, sde, nfe)
    if rule.stochastic:
        raise ConfigError(
            f"{rule!r} draws noise, so it has no endpoint errors; tune its deterministic form"
        )
    return rule, grid


class _Trial:
    """Runs from one set of starts, with their true endpoints and what they cost."""

    def __init__(self, model: Predictor, solver: Solver, x: Tensor, reference: Tensor) -> None:
        self.model, self.solver, self.x, self.reference = model, solver, x, reference
        self.cost = 0

    def run(self, grid: Grid) -> Tensor:
        """Endpoints, shape (B, *)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a candidate that diverges is just a bad one
            out = sample(self.model, self.solver, grid, x=self.x)
        self.cost += int(torch.as_tensor(out.nfe).max()) * len(self.x)
        return out.x

    def residuals(self, grid: Grid) -> Array:
        """All endpoint errors, scaled so that their sum of squares is the mean square error."""
        difference = self.run(grid).to(torch.float64) - self.reference
        flat: Array = difference.flatten().nan_to_num(1e3, 1e3, -1e3).numpy()
        return flat / math.sqrt(flat.size)

    def rms(self, grid: Grid) -> float:
        """RMS endpoint error."""
        return float(np.linalg.norm(self.residuals(grid)))


# -- candidates --------------------------------------------------------------------------------


def _stock(sde: SDE, steps: int) -> dict[str, Grid]:
    """Hand-made grids that end at several noise levels."""
    found = {"uniform_t": uniform_t(sde, steps)}
    makers: dict[str, Callable[..., Grid]] = {
        "uniform_lambda": uniform_lambda,
        "karras": karras,
        "uniform_t": uniform_t,
    }
    for rho in _ENDS:
        end = float(sde.at_lambda(-math.log(rho)).t)
        if sde.t_min < end:
            for name, maker in makers.items():
                found[f"{name} down to rho = {rho:g}"] = maker(sde, steps, t_min=end)
    return found


def _equidistributed(model: Predictor, solver: Solver, x: Tensor, steps: int) -> Grid:
    """Stage 1: quantiles of the density of the leading error along pilot trajectories."""
    order = max(1, min(int(solver.order), 4))
    fine = uniform_lambda(model.sde, 12 * max(10, order * 5))
    angles, values = [], []
    for info in iterate(model, UniPC(), fine, x=x.to(torch.float64)):
        if not info.knot.is_clean:
            angles.append(float(info.knot.angle))
            values.append(model(info.x, info.knot).v.to(torch.float64).flatten().numpy())
    grid, table = np.array(angles), np.stack(values)
    for _ in range(order):  # divided differences, up to a factor
        table = np.diff(table, axis=0) / np.diff(grid)[:, None]
        grid = 0.5 * (grid[1:] + grid[:-1])
    slope = np.sqrt(np.mean(table**2, axis=1)) ** (1.0 / (order + 1))
    slope = np.maximum(slope, 1e-3 * slope.max())
    mass = np.concatenate([[0.0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * -np.diff(grid))])
    shares = np.interp(np.linspace(0, mass[-1], steps + 1)[1:-1], mass, grid)
    first = model.sde.at(model.sde.t_max)
    lams = [-math.log(math.tan(angle)) for angle in shares]
    knots = [first, *(model.sde.at_lambda(lam) for lam in lams if lam > float(first.lam))]
    while len(knots) < steps:  # quantiles that fell together at the noisy end
        knots.insert(1, model.sde.at_lambda(0.5 * float(knots[0].lam + knots[1].lam)))
    return Grid(model.sde, (*knots, CLEAN))


# -- refinement --------------------------------------------------------------------------------


def _refine(trial: _Trial, grid: Grid, rounds: int) -> Grid:
    """Stage 3: the knots that reduce the endpoint errors, found from those of `grid`."""
    gaps = np.diff([float(knot.lam) for knot in grid.knots[:-1]])
    theta = _at_controls(np.log(gaps))
    sde = trial.model.sde

    def residuals(theta: Array) -> Array:
        return trial.residuals(_from_gaps(sde, theta, len(gaps)))

    def jacobian(theta: Array) -> Array:
        base, step = residuals(theta), 0.02
        columns = [(residuals(theta + step * unit) - base) / step for unit in np.eye(len(theta))]
        return np.stack(columns, 1)

    optimize = require("scipy.optimize", "bench")
    try:
        found = optimize.least_squares(
            residuals, theta, jacobian, method="trf", x_scale=0.3, max_nfev=rounds
        )
    except ScoreSDEError:
        return grid
    return _from_gaps(sde, found.x, len(gaps))


def _at_controls(log_gaps: Array) -> Array:
    places = np.linspace(0, len(log_gaps) - 1, min(len(log_gaps), _CONTROLS))
    read: Array = np.interp(places, np.arange(len(log_gaps)), log_gaps)
    return read


def _from_gaps(sde: SDE, theta: Array, count: int) -> Grid:
    """The grid whose gaps in log-SNR are exp(theta), shrunk if it would pass t_min."""
    places = np.linspace(0, count - 1, len(theta))
    gaps = np.exp(np.clip(np.interp(np.arange(count), places, theta), -6, 3))
    first, last = sde.at(sde.t_max), sde.at(sde.t_min)
    room = float(last.lam - first.lam)
    if gaps.sum() > room:
        gaps *= room / gaps.sum()
    lams = float(first.lam) + np.cumsum(gaps)
    inner = [sde.at_lambda(min(float(lam), float(last.lam))) for lam in lams]
    return Grid(sde, (first, *inner, CLEAN))
