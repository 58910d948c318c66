"""The result of tuning, and the JSON file that stores it."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from .._internal import specs
from .._internal.files import read_json, write_atomic
from .._internal.witness import name_of
from ..errors import CheckpointError, ConfigError, ScoreSDEError, ScoreSDEWarning
from ..grid import Grid, from_times
from ..metrics import Estimate
from ..model import Predictor
from ..sde import from_dict as sde_from_dict
from ..solvers.solver import Solver

_FORMAT = 5

MOST_KNOTS = 10_000
"""Largest number of times of a grid in a file."""


class TunedGridWarning(ScoreSDEWarning):
    """A tuned grid is used with another model or solver than it was tuned to."""


class TuningWarning(ScoreSDEWarning):
    """The result of tuning is uncertain."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """The result of `tune`: a solver with its grid, and the measured gain.

    Attributes:
        solver: the solver.
        grid: the grid.
        model: fingerprint of the model, or the name that was given as its key.
        nfe: network evaluations per sample of the solver on the grid.
        budget: network evaluations asked for; `nfe` is the largest number within it that the
            solver can use.
        source: name of the candidate from which it was found.
        metric: the quantity that was minimised: "RMS endpoint error", "KL bound", or the name of a
            metric of samples.
        error: its value on starts that the search did not use.
        ratio: `error` divided by that of the default solver and grid, with a paired interval; None
            for a metric of samples, whose value can be 0 or negative.
        typical: the same ratio for the median endpoint error; None for other metrics.
        change: for a metric of samples, `error` minus that of the default, with a paired interval.
        cost: evaluations of one sample that the search took, reference included.
    """

    solver: Solver
    grid: Grid
    model: str
    nfe: int
    budget: int
    source: str
    metric: str
    error: float
    ratio: Estimate | None
    typical: Estimate | None
    change: Estimate | None
    cost: int

    def save(self, path: str | Path) -> None:
        """Write a small JSON file that `load` reads.

        The file contains the names of the solver and of the process. If one of them is of your own
        class, give it to `load` again.
        """
        data = {
            "scoresde_grid": _FORMAT,
            **self.grid.to_dict(),
            "solver": specs.describe(self.solver),
            "own": specs.is_own(self.solver),
            "model": self.model,
            "nfe": self.nfe,
            "budget": self.budget,
            "source": self.source,
            "metric": self.metric,
            "error": self.error,
            "ratio": _listed(self.ratio),
            "typical": _listed(self.typical),
            "change": _listed(self.change),
            "cost": self.cost,
        }
        write_atomic(Path(path), json.dumps(data, indent=1).encode())

    def __str__(self) -> str:
        nearest = "" if self.nfe == self.budget else f" within a budget of {self.budget}"
        head = (
            f"{specs.describe(self.solver)} in {self.grid.steps} steps, {self.nfe} network "
            f"evaluations{nearest}; on other starts, {self.metric} {self.error:.3g}"
        )
        if self.source == "default":
            return f"{head}; no candidate is better than the default"
        typical = "" if self.typical is None else f", in the median {self.typical} times"
        gain = f"{self.ratio} times the default's{typical}"
        if self.change is not None:
            gain = f"{self.change} from the default's"
        return f"{head}, {gain} (found from: {self.source})"


def _listed(estimate: Estimate | None) -> list[float] | None:
    return None if estimate is None else list(estimate[:3])


def load(
    path: str | Path, model: Predictor, solver: Solver | None = None, *, key: str | None = None
) -> tuple[Solver, Grid]:
    """Load the solver and grid that `Tuned.save` wrote: `sample(model, *load(path, model), ...)`.

    The file is data. A name in it must be one of the library's, or the class of the model's own
    process. Nothing is imported or run for it.

    Args:
        path: the file.
        model: the model that will use them. If they were tuned to another one, a
            `TunedGridWarning` says so.
        solver: the solver to use on the grid, instead of the file's own. If it differs from that
            one, a `TunedGridWarning` says so. It is required if the file names a solver of your
            own.
        key: the model's name, if `tune` was given one.

    Raises:
        CheckpointError: if the file is not a tuned grid, or names a solver or a process that is
            neither the library's nor given.
        ConfigError: if the grid is of another process than the model's.
    """
    data = read_json(path)
    try:
        if data["scoresde_grid"] != _FORMAT:
            raise ValueError(f"format {data['scoresde_grid']!r}, this version reads {_FORMAT}")
        theirs = {"model": str(data["model"]), "solver": str(data["solver"])}
        own = bool(data["own"])
        times = [float(t) for t in data["times"]]
        if not 1 <= len(times) <= MOST_KNOTS or not all(map(math.isfinite, times)):
            raise ValueError(f"{len(times)} times; a grid has 1 to {MOST_KNOTS:,} finite times")
        sde = sde_from_dict(data["sde"], known=(type(model.sde),))
        grid = from_times(sde, times, clean=bool(data["clean"]))
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{path} is not a tuned grid: {said}") from error
    if solver is None:
        solver = _solver(path, theirs["solver"], own)
    if grid.sde != model.sde:
        raise ConfigError(f"{path} is a grid of {grid.sde!r}, the model's process is {model.sde!r}")
    mine = {"model": name_of(model, key), "solver": specs.describe(solver)}
    for what, value in mine.items():
        if theirs[what] != value:
            warnings.warn(
                f"{path} was tuned to {what} {theirs[what]}, and is used with {value}",
                TunedGridWarning,
                stacklevel=2,
            )
    return solver, grid


def _solver(path: str | Path, name: str, own: bool) -> Solver:
    """The library's solver that a file names."""
    hint = (
        f"write load({str(path)!r}, model, solver) with the solver, or on the command line "
        "--solver FILE.py:NAME beside --grid"
    )
    if own:
        raise CheckpointError(
            f"the solver of {path} is {name[:200]!r}, a class of your own that the file does not "
            f"contain; {hint}"
        )
    try:
        return specs.solver(name)
    except ScoreSDEError as error:
        raise CheckpointError(f"the solver of {path} is not the library's ({error}); {hint}") from (
            error
        )
