"""The result of a comparison: cells, settings, and the table that shows them."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from .._internal.labels import of_rows
from ..errors import unknown_name
from ..metrics import Estimate, difference
from ..metrics.estimate import badness

OWN_GRID = "its own"
"""Written in the column of grids for a row that has its own grid."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One solver on one grid at one budget.

    Attributes:
        solver, grid: names; `grid` is empty for a solver that chooses its steps.
        budget: network evaluations asked for; None if the solver chooses its steps.
        process: name of the process; empty if the table has only one.
        nfe: network evaluations taken, per sample, on average.
        steps: steps of the grid.
        seconds: wall-clock time of the run.
        memory: peak memory above that before the run, in bytes.
        scores: values of the metrics by name.
        path_error: pairs (sigma / alpha, RMS distance of the normalised state from the exact path),
            one for each knot, from a few starts.
        failed: the reason why there are no scores; empty if there is none.
        shown: the first few samples, for pictures.
        trajectory: states of a few samples, shape (steps + 1, k, *), divided by
            sqrt(alpha^2 + sigma^2).
    """

    solver: str
    grid: str
    budget: int | None
    process: str = ""
    nfe: float = math.nan
    steps: int = 0
    seconds: float = math.nan
    memory: float = math.nan
    scores: Mapping[str, Estimate] = field(default_factory=dict)
    path_error: tuple[tuple[float, float], ...] = ()
    failed: str = ""
    shown: torch.Tensor | None = field(default=None, repr=False)
    trajectory: torch.Tensor | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The cell as JSON-able data, without samples; an unknown number is None."""
        data = {k: v for k, v in vars(self).items() if k not in ("shown", "trajectory")}
        for name in ("nfe", "seconds", "memory"):
            data[name] = _known(data[name])
        data["scores"] = {name: [*map(_known, score[:3])] for name, score in self.scores.items()}
        data["path_error"] = [list(pair) for pair in self.path_error]
        return data


@dataclass(frozen=True)
class Setup:
    """Settings that all cells of a table share.

    Attributes:
        models: for each process (the key is empty if there is only one): the model's name
            and fingerprint, its process, and accuracy and cost of its reference endpoints.
        samples: number of samples in a cell.
        seed: sample k has the seed `seed + k`.
        dtype: dtype of the state.
        truth: number of true samples; 0 if there are none.
        better: "lower", "higher" or "zero", by metric.
        floor: value of each metric for other true samples, by name.
        absent: peers that are not installed, and how to install each.
        environment: versions and hardware.
        command: the command line that made the table; empty if it was made in Python.
        truth_digest: fingerprint of the true samples.
        event_shape: shape of one sample.
        tolerance: tolerance of reference endpoints; None for the default.
        date: when the table was made, UTC.
        given: names given on the command line: the model, its true samples, features.
    """

    models: Mapping[str, Mapping[str, Any]]
    samples: int
    seed: int
    dtype: str
    truth: int = 0
    better: Mapping[str, str] = field(default_factory=dict)
    floor: Mapping[str, Estimate] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    truth_digest: str = ""
    event_shape: tuple[int, ...] = ()
    tolerance: float | None = None
    date: str = ""
    given: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """How the table was made, in a few lines."""
        last = self.seed + self.samples - 1
        out = [f"Command: `{self.command}`"] if self.command else []
        if self.date:
            out.append(f"Date: {self.date}")
        if self.given:
            out.append("Given: " + ", ".join(f"{what} {name}" for what, name in self.given.items()))
        out.append(
            f"{self.samples} samples a cell, seeds {self.seed} to {last}, {self.dtype}"
            + (f", against {self.truth} true samples" if self.truth else "")
        )
        for process, model in self.models.items():
            of = f" of {process}" if process else ""
            named = [str(model[what]) for what in ("name", "model") if model.get(what)]
            out.append(f"Model{of}: {', '.join([*named, _plain(model.get('sde'))])}")
        if self.environment:
            out.append(", ".join(f"{what} {value}" for what, value in self.environment.items()))
        return out


@dataclass(frozen=True, eq=False)
class Table:
    """The result of a comparison: its cells and settings. It prints as Markdown."""

    cells: tuple[Cell, ...]
    setup: Setup

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics, in the order in which they were given."""
        found = {name for cell in self.cells for name in cell.scores}
        known = [name for name in self.setup.better if name in found]
        return known + sorted(found - set(known))

    @property
    def budgets(self) -> list[int]:
        """Budgets asked for, ascending."""
        return sorted({cell.budget for cell in self.cells if cell.budget is not None})

    def label(self, cell: Cell) -> str:
        """The solver of a cell, with its process and grid if the table has several of them."""
        several = len({c.grid for c in self.cells} - {"", OWN_GRID}) > 1
        label = f"{cell.solver}, {cell.grid}" if several and cell.grid else cell.solver
        return f"{cell.process}: {label}" if cell.process else label

    def short_labels(self) -> dict[str, str]:
        """Labels of pictures by those of `label`: brief, and still all different."""
        several = len({c.grid for c in self.cells} - {"", OWN_GRID}) > 1
        return of_rows(
            (self.label(c), c.process, c.solver, c.grid if several else "") for c in self.cells
        )

    def ranked(self, budget: int | None, metric: str | None = None) -> list[Cell]:
        """The cells at a budget, sorted by a metric (the first by default), best first."""
        name = self._metric(metric)
        found = [c for c in self.cells if c.budget == budget and name in c.scores]
        better = self.setup.better.get(name, "lower")
        return sorted(found, key=lambda c: badness(c.scores[name].value, better))

    def best(self, budget: int | None, metric: str | None = None) -> Cell | None:
        """The best cell at a budget; None if no cell there has the metric."""
        return next(iter(self.ranked(budget, metric)), None)

    def tied(self, cell: Cell, metric: str | None = None) -> bool:
        """Whether a cell is not clearly worse than the best at its budget.

        The test is a paired bootstrap at 95 % if both cells have resamples; else it asks whether
        their intervals overlap.
        """
        name = self._metric(metric)
        best = self.best(cell.budget, name)
        if best is None or best is cell or name not in cell.scores:
            return best is cell
        a, b = cell.scores[name], best.scores[name]
        gap = difference(a, b, better=self.setup.better.get(name, "lower"))
        if gap is not None:
            return not gap.low > 0
        return a.low <= b.high and b.low <= a.high

    def markdown(self, metric: str | None = None, *, intervals: bool = False) -> str:
        """A Markdown table of one metric (the first by default).

        It has a row for each solver and grid, and a column for each budget. The best value of a
        column is bold. An asterisk marks values that are not clearly worse. If the cost differs
        from the budget, it stands in brackets after the value. Solvers that choose their own steps
        are listed below with their cost.
        """
        name = self._metric(metric)
        rows: dict[str, dict[int, Cell]] = {}
        for cell in self.cells:
            if cell.budget is not None and (name in cell.scores or cell.failed):
                rows.setdefault(self.label(cell), {})[cell.budget] = cell
        lines = [_line([name, *(f"{b} NFE" for b in self.budgets)])]
        lines.append(_line(["---", *["---:"] * len(self.budgets)]))
        for label, by_budget in rows.items():
            shown = [
                self._text(by_budget[budget], name, intervals) if budget in by_budget else ""
                for budget in self.budgets
            ]
            lines.append(_line([label, *shown]))
        if floor := self.setup.floor.get(name):
            lines.append(_line(["true samples", *[number(floor.value)] * len(self.budgets)]))
        return "\n".join(lines + self._adaptive(name, intervals))

    def __repr__(self) -> str:
        return f"Table({len(self.cells)} cells of {', '.join(self.metrics) or 'no metric'})"

    def __str__(self) -> str:
        parts = [self.markdown(name) for name in self.metrics]
        return "\n\n".join([*parts, *self.notes()])

    def notes(self) -> list[str]:
        """Notes below the tables: marks, accuracy of the reference, and cells that failed."""
        out = []
        if self.metrics:
            out.append("Bold: the best of a column. *: not clearly worse (paired bootstrap, 95 %).")
        if any(c.scores and c.budget not in (None, c.nfe) for c in self.cells):
            out.append(
                "In brackets: network evaluations taken, if they differ from the column's budget."
            )
        if silent := dict.fromkeys(
            self.label(c) for c in self.cells if not c.scores and not c.failed
        ):
            out.append(
                f"Not measured: {', '.join(silent)}. Endpoint errors are only for solvers that "
                "start at t_max and draw no noise. For others, give true samples (truth=..., or "
                "--truth) and a metric of distributions."
            )
        for process, model in self.setup.models.items():
            if reference := model.get("reference"):
                of = f" of {process}" if process else ""
                out.append(
                    f"Reference endpoints{of} are accurate to {reference['accuracy']:.1e} (RMS)."
                )
                if reference.get("missing"):
                    out.append(f"{missing(reference['missing'], self.setup.samples, of)}.")
        if failures := self._failures():
            out.append(f"Failed: {'; '.join(failures)}.")
        if self.setup.absent:
            names = ", ".join(self.setup.absent)
            out.append(f"Not installed: {names}; report.json says how to install each.")
        return out

    def _failures(self) -> list[str]:
        """Cells that failed, by reason; reasons that differ only in numbers count as one."""
        alike: dict[str, list[Cell]] = {}
        for cell in self.cells:
            if cell.failed:
                alike.setdefault(re.sub(r"[\d.e+-]*\d", "#", cell.failed), []).append(cell)
        out = []
        for cells in alike.values():
            rows: dict[str, list[str]] = {}
            for cell in cells:
                own = [] if cell.budget is None else [str(cell.budget)]
                rows.setdefault(self.label(cell), []).extend(own)
            named = [f"{row} at {', '.join(at)}" if at else row for row, at in rows.items()]
            out.append(f"{', '.join(named)}: {cells[0].failed}")
        return out

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-able data, without the samples."""
        setup = asdict(self.setup)
        setup["floor"] = {k: [*map(_known, v[:3])] for k, v in self.setup.floor.items()}
        cells = [
            {**cell.to_dict(), "tied_with_best": [m for m in cell.scores if self.tied(cell, m)]}
            for cell in self.cells
        ]
        return {"setup": setup, "cells": cells}

    def csv(self) -> str:
        """The table as CSV, one line for each cell and metric."""
        out = io.StringIO()
        writer = csv.writer(out)
        head = ["solver", "grid", "process", "budget", "nfe", "steps", "seconds", "memory"]
        writer.writerow([*head, "metric", "value", "low", "high", "tied", "failed"])
        for cell in self.cells:
            own = [getattr(cell, key) for key in head]
            for name, score in cell.scores.items():
                writer.writerow([*own, name, *score[:3], int(self.tied(cell, name)), ""])
            if not cell.scores:
                writer.writerow([*own, "", "", "", "", "", cell.failed])
        return out.getvalue()

    def _metric(self, metric: str | None) -> str:
        if metric is None:
            return self.metrics[0] if self.metrics else ""
        if metric not in self.metrics:
            raise unknown_name("metric", metric, self.metrics)
        return metric

    def _adaptive(self, name: str, intervals: bool) -> list[str]:
        own = [c for c in self.cells if c.budget is None and name in c.scores]
        if not own:
            return []
        lines = ["", _line([f"{name}, solvers that choose their steps", "NFE", "value"])]
        lines.append(_line(["---", "---:", "---:"]))
        return lines + [
            _line([self.label(c), f"{c.nfe:.0f}", _value(c, name, intervals)]) for c in own
        ]

    def _text(self, cell: Cell, name: str, intervals: bool) -> str:
        if cell.failed:
            return "failed"
        text = _value(cell, name, intervals)
        if cell.nfe != cell.budget:
            text += f" ({cell.nfe:g})"
        if cell is self.best(cell.budget, name):
            return f"**{text}**"
        return text + "*" if self.tied(cell, name) else text


def missing(count: int, samples: int, of: str = "") -> str:
    """Message: how many samples are excluded because their reference is not finite."""
    return (
        f"The reference endpoint{of} of {count} of {samples} samples is not finite: endpoint "
        "errors exclude these samples"
    )


def number(value: float) -> str:
    """A measured value in two or three digits."""
    return f"{value:.1e}" if 0 < abs(value) < 0.1 else f"{value:.3g}"


def _value(cell: Cell, name: str, intervals: bool) -> str:
    score = cell.scores[name]
    return str(score) if intervals else number(score.value)


def _plain(sde: Any) -> str:
    """A process in the form of `SDE.to_dict`, without lists and tables."""
    shown = {k: v for k, v in (sde or {}).items() if not isinstance(v, list | tuple | dict)}
    return ", ".join(f"{k} {v}" for k, v in shown.items())


def _known(value: float) -> float | None:
    """The value, or None if it is not finite, since JSON has no NaN."""
    return value if math.isfinite(value) else None


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
