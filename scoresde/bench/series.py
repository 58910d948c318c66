"""Which rows of a table stand out in its pictures, and in what colours.

A picture of many rows shows five in colour and the others thin and grey: more colours are not told
apart. The colours are the first of Okabe & Ito, "Color Universal Design", 2008, told apart by
readers with any colour vision. The PNG and the page take them from here, in one order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ..metrics.estimate import badness
from .table import Table

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
ON_DARK = ("#56B4E9", "#FF8A3D", "#2FD3A5", "#E59BC8", "#F0C04C")
"""The same five on a dark ground."""

GREY = "#A3A3A3"
"""Of all other rows, on both grounds."""

DRAWN = 2
"""Metrics of a table that its picture shows; they decide which rows stand out."""

_ALWAYS = ("recommended", "ddim")


def highlighted(table: Table, metrics: Sequence[str] | None = None) -> list[str]:
    """The labels of up to five rows that a reader looks for, in the order of their colours.

    `recommended` and DDIM, which everybody knows, come first. Then the best row at the largest
    budget by each metric, those that are most often on a Pareto front, and the next best at the
    largest budget.

    Args:
        table: what was found.
        metrics: what is shown; the first two of the table by default.
    """
    shown = list(metrics or table.metrics[:DRAWN])
    order: list[str] = []
    for name in _ALWAYS:
        rows = [table.label(c) for c in table.cells if c.solver.lower().removesuffix("()") == name]
        order += rows[:1]
    last = table.budgets[-1] if table.budgets else None
    ranks = [[table.label(cell) for cell in table.ranked(last, metric)] for metric in shown]
    order += [ranked[0] for ranked in ranks if ranked]
    fronts: Counter[str] = Counter()
    for metric in shown:
        cells = [c for c in table.cells if metric in c.scores]
        better = table.setup.better.get(metric, "lower")
        values = [cell.scores[metric].value for cell in cells]
        # By the budget: who leaves one evaluation unused is not alone at a lower cost.
        costs = [cell.nfe if cell.budget is None else cell.budget for cell in cells]
        kept = pareto(costs, values, better)
        fronts.update(dict.fromkeys((table.label(cells[k]) for k in kept), 1))
    order += [label for label, _ in fronts.most_common()]
    order += [label for ranked in ranks for label in ranked]
    order += [table.label(cell) for cell in table.cells]
    return list(dict.fromkeys(order))[: len(PALETTE)]


def pareto(costs: Sequence[float], values: Sequence[float], better: str) -> list[int]:
    """Places of the points that are better than all that cost no more, by rising cost."""
    best, kept = math.inf, []
    places = range(len(costs))
    for k in sorted(places, key=lambda k: (costs[k], badness(values[k], better))):
        if badness(values[k], better) < best:
            best = badness(values[k], better)
            kept.append(k)
    return kept


def axis_title(table: Table, metric: str) -> str:
    """What stands beside the axis of a metric."""
    better = table.setup.better.get(metric, "lower")
    return f"{metric} ({'0 is best' if better == 'zero' else f'{better} is better'})"
