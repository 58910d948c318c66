"""The wrapping under which a network's loss is least, among those that known mistakes suggest.

All candidates are screened on few data; the best meet all of the data. Where nothing is better than
the guess, two mistakes may have been made at once, and the candidates of the best are tried too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from .mistakes import inputs, readings
from .wrapping import Asked, Wrapping, log_loss

_REACH = 0.7  # log of a loss ratio: what is further behind on few data is not looked at again
_FINALISTS = 5
_ROOTS = 2
_GOOD = math.log(0.8)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A wrapping with its squared errors, (levels, n), and the mean log ratio to the guess."""

    wrapping: Wrapping
    errors: Tensor
    score: float


def search(asked: Asked, start: Wrapping) -> list[Candidate]:
    """The given wrapping, then others by their loss, the best first; all on all of the data."""
    n = len(asked.data)
    few = min(n, max(6, n // 10))
    tried = [found for i in inputs(start, asked.data) if (found := _ask(asked, i, start, few))]
    tried.sort(key=_best)
    if not tried or _best(tried[0]) > _GOOD:
        for root in [each[0].wrapping for each in tried[:_ROOTS]]:
            for second in inputs(replace(root, mistakes=()), asked.data)[1:]:
                both = tuple(dict.fromkeys((*root.mistakes, *second.mistakes)))
                if found := _ask(asked, replace(second, mistakes=both), start, few):
                    tried.append(found)
        tried.sort(key=_best)
    least = _best(tried[0]) if tried else math.inf
    finalists = [each for each in tried[:_FINALISTS] if _best(each) < least + _REACH]
    whole: list[Candidate] = []
    for each in finalists:
        near = [c.wrapping for c in each if c.score < least + 2 * _REACH and c.wrapping.mistakes]
        tables = asked.errors(near[0], near, n) if near else None
        for wrapping, table in zip(near, tables or [], strict=False):
            whole.append(Candidate(wrapping, table, log_loss(table, asked.guess())))
    own = asked.own_errors()
    given = Candidate(start, own, log_loss(own, asked.guess()))
    return [given, *sorted(whole, key=lambda c: c.score)]


def _ask(asked: Asked, wrapping: Wrapping, start: Wrapping, n: int) -> list[Candidate]:
    """All readings of one input, the best first; none where the network refuses it."""
    kinds = readings(wrapping, start)
    tables = asked.errors(wrapping, kinds, n)
    if tables is None:
        return []
    guess = asked.guess()
    made = [Candidate(k, t, log_loss(t, guess)) for k, t in zip(kinds, tables, strict=True)]
    return sorted(made, key=lambda c: c.score)


def _best(candidates: list[Candidate]) -> float:
    return candidates[0].score
