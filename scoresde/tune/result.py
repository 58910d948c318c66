"""What tuning finds, and the small file that keeps it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path

from .._internal import specs
from .._internal.files import write_atomic
from .._internal.witness import name_of
from ..errors import CheckpointError, ConfigError
from ..grid import Grid, from_times
from ..metrics import Estimate
from ..model import Predictor
from ..sde import from_dict as sde_from_dict
from ..solvers.solver import Solver

_FORMAT = 4


class TunedGridWarning(UserWarning):
    """A grid that was tuned to another model or solver."""


class TuningWarning(UserWarning):
    """What tuning could not make sure of."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """A solver with its grid, what they were tuned to, and what that gained.

    Attributes:
        solver: the solver.
        grid: the grid.
        model: fingerprint of the model, or the name that was given as its key.
        nfe: evaluations a sample that it takes.
        budget: what was asked for; `nfe` is the most of it that the solver can use.
        source: which candidate it is.
        metric: what was made small: "RMS endpoint error", "KL bound", or the name of a metric.
        error: the metric, on starts that took no part.
        ratio: `error` over that of the default solver and grid, with a paired interval; None for a
            metric, which may be 0 or below.
        typical: the same for the median endpoint error; None for other metrics.
        change: for a metric, `error` less that of the default, with a paired interval.
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
        """Write a small JSON file that `load` reads."""
        data = {
            "scoresde_grid": _FORMAT,
            **self.grid.to_dict(),
            "solver": specs.describe(self.solver),
            "from": specs.origin(self.solver),
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
        nearest = "" if self.nfe == self.budget else f" of {self.budget}, which it cannot meet"
        head = (
            f"{specs.describe(self.solver)} in {self.grid.steps} steps, {self.nfe} evaluations"
            f"{nearest}; on starts that took no part, {self.metric} {self.error:.3g}"
        )
        if self.source == "default":
            return f"{head}; nothing better than the default was found"
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
    """The solver and the grid in a file of `Tuned.save`: `sample(model, *load(path, model), ...)`.

    Args:
        path: the file.
        model: what they will be used with. Warns where they were tuned to another one.
        solver: to be used on the grid instead of the file's own. Warns where it differs.
        key: the model's name, where it was tuned under one.

    Raises:
        CheckpointError: for a file that is not such a grid, or one of a solver that is not found.
        ConfigError: for one of another process.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}") from error
    try:
        data = json.loads(text)
        if data["scoresde_grid"] != _FORMAT:
            raise ValueError(f"format {data['scoresde_grid']!r}, this version reads {_FORMAT}")
        grid = from_times(sde_from_dict(data["sde"]), data["times"], clean=data["clean"])
        theirs = {"model": data["model"], "solver": data["solver"]}
        home = f"{data['from']}:" if data["from"] else ""
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a tuned grid: {error!r}") from error
    try:
        own = specs.solver(f"{home}{theirs['solver']}") if solver is None else solver
    except ConfigError as error:
        raise CheckpointError(
            f"the solver of {path} is not found ({error}); write load({str(path)!r}, model, "
            "solver), or on the command line --solver FILE.py:NAME beside --grid"
        ) from error
    if grid.sde != model.sde:
        raise ConfigError(f"{path} is a grid of {grid.sde!r}, the model's process is {model.sde!r}")
    mine = {"model": name_of(model, key), "solver": specs.describe(own)}
    for what, value in mine.items():
        if theirs[what] != value:
            warnings.warn(
                f"{path} was tuned to {what} {theirs[what]}, and is used with {value}",
                TunedGridWarning,
                stacklevel=2,
            )
    return own, grid
