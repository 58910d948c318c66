"""What a comparison found, and how it is read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..errors import unknown_name
from ..metrics import Estimate

OWN_GRID = "its own"
"""The grid of a solver that came with one."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One solver on one grid at one budget.

    Attributes:
        solver, grid: as they are written; `grid` is empty for a solver that chooses its steps.
        budget: evaluations asked for; None where the solver decides.
        nfe: evaluations taken, per sample, on average.
        steps: steps of the grid.
        seconds: wall-clock time of the run.
        scores: measures by name.
        failed: why there are no scores, or empty.
        shown: the first few samples, for pictures.
    """

    solver: str
    grid: str
    budget: int | None
    nfe: float = math.nan
    steps: int = 0
    seconds: float = math.nan
    scores: dict[str, Estimate] = field(default_factory=dict)
    failed: str = ""
    shown: torch.Tensor | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data, without the samples."""
        data = {key: value for key, value in vars(self).items() if key != "shown"}
        data["scores"] = {name: list(score) for name, score in self.scores.items()}
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cell:
        """What `to_dict` wrote."""
        scores = {name: Estimate(*score) for name, score in data["scores"].items()}
        return cls(**{**data, "scores": scores})


@dataclass(frozen=True)
class Setup:
    """What all cells of a table share.

    Attributes:
        model: fingerprint of the model.
        sde: the process.
        samples: samples a cell.
        first_seed: seeds are `first_seed, first_seed + 1, ...`.
        dtype: of the state.
        reference: accuracy and cost of the reference endpoints, or empty.
        floor: measures of true samples against others, by name.
        environment: versions and hardware.
    """

    model: str
    sde: dict[str, Any]
    samples: int
    first_seed: int
    dtype: str
    reference: dict[str, float]
    floor: dict[str, Estimate]
    environment: dict[str, str]


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a comparison. It prints as Markdown."""

    cells: tuple[Cell, ...]
    setup: Setup

    @property
    def measures(self) -> list[str]:
        """Names of the measures, in order of appearance."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.scores))

    @property
    def budgets(self) -> list[int]:
        """Budgets asked for, ascending."""
        return sorted({cell.budget for cell in self.cells if cell.budget is not None})

    def label(self, cell: Cell) -> str:
        """The solver of a cell, with its grid where the table has several."""
        several = len({c.grid for c in self.cells} - {"", OWN_GRID}) > 1
        return f"{cell.solver}, {cell.grid}" if several and cell.grid else cell.solver

    def best(self, budget: int, measure: str | None = None) -> Cell | None:
        """The cell with the smallest value of a measure (the first by default) at a budget."""
        name = self._measure(measure)
        found = [c for c in self.cells if c.budget == budget and name in c.scores]
        return min(found, key=lambda c: abs(c.scores[name].value), default=None)

    def markdown(self, measure: str | None = None, *, intervals: bool = False) -> str:
        """One measure (the first by default): a row for each solver and grid, a column a budget.

        The best value of a column is bold. Where the cost is not the budget, it stands beside
        the value; solvers that choose their own steps are listed below with their cost.
        """
        name = self._measure(measure)
        rows: dict[str, dict[int, Cell]] = {}
        for cell in self.cells:
            if cell.budget is not None and (name in cell.scores or cell.failed):
                rows.setdefault(self.label(cell), {})[cell.budget] = cell
        lines = [_line([name, *(f"{b} NFE" for b in self.budgets)])]
        lines.append(_line(["---", *["---:"] * len(self.budgets)]))
        best = {budget: self.best(budget, name) for budget in self.budgets}
        for label, by_budget in rows.items():
            shown = []
            for budget in self.budgets:
                cell_or_none = by_budget.get(budget)
                text = _show(cell_or_none, name, intervals) if cell_or_none else ""
                shown.append(f"**{text}**" if cell_or_none is best[budget] and text else text)
            lines.append(_line([label, *shown]))
        if floor := self.setup.floor.get(name):
            lines.append(_line(["true samples", *[number(floor.value)] * len(self.budgets)]))
        lines += self._adaptive(name, intervals)
        failures = [f"{c.solver} at {c.budget}: {c.failed}" for c in self.cells if c.failed]
        return "\n".join(lines + (["", "Failed: " + "; ".join(failures)] if failures else []))

    def __str__(self) -> str:
        return "\n\n".join(self.markdown(name) for name in self.measures)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the samples, as JSON-able data."""
        setup = asdict(self.setup)
        setup["floor"] = {name: list(value) for name, value in self.setup.floor.items()}
        return {"setup": setup, "cells": [cell.to_dict() for cell in self.cells]}

    def csv(self) -> str:
        """One line for each cell and measure."""
        out = io.StringIO()
        writer = csv.writer(out)
        head = ["solver", "grid", "budget", "nfe", "steps", "seconds"]
        writer.writerow([*head, "measure", "value", "low", "high", "failed"])
        for cell in self.cells:
            own = [getattr(cell, key) for key in head]
            for name, score in cell.scores.items() or [("", ("", "", ""))]:
                writer.writerow([*own, name, *score, cell.failed])
        return out.getvalue()

    def _measure(self, measure: str | None) -> str:
        if measure is None:
            return self.measures[0] if self.measures else ""
        if measure not in self.measures:
            raise unknown_name("measure", measure, self.measures)
        return measure

    def _adaptive(self, name: str, intervals: bool) -> list[str]:
        own = [c for c in self.cells if c.budget is None and name in c.scores]
        if not own:
            return []
        lines = ["", _line([f"{name}, steps of its own choice", "NFE", "value"])]
        lines.append(_line(["---", "---:", "---:"]))
        return lines + [
            _line([cell.solver, f"{cell.nfe:.0f}", _show(cell, name, intervals)]) for cell in own
        ]


def _show(cell: Cell, name: str, intervals: bool) -> str:
    if cell.failed:
        return "failed"
    score = cell.scores[name]
    text = str(score) if intervals else number(score.value)
    off = cell.budget is not None and cell.nfe != cell.budget
    return f"{text} ({cell.nfe:g})" if off else text


def number(value: float) -> str:
    """A measured value in two or three digits."""
    return f"{value:.1e}" if 0 < abs(value) < 0.1 else f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
