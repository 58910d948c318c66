"""The rule of one update: float coefficients, and their application to a state."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor


class Rule(NamedTuple):
    """The rule x <- decay x + sum_j weights_j u_j + spread z, predictions u newest first."""

    decay: float
    weights: tuple[float, ...]
    spread: float

    def after(self, correction: tuple[float, ...], factor: float) -> Rule:
        """This rule, and in the same update `factor` times predictions with these weights."""
        pairs = zip_longest(self.weights, correction, fillvalue=0.0)
        return self._replace(weights=tuple(own + factor * due for own, due in pairs))


def apply(rule: Rule, x: Tensor, values: tuple[Tensor, ...], z: Tensor | None) -> Tensor:
    """The updated state in the dtype of x, as a new tensor."""
    out = x * rule.decay
    for weight, value in zip(rule.weights, values, strict=False):
        out.add_(value, alpha=weight)
    return out if z is None else out.add_(z, alpha=rule.spread)
