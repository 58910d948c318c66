"""One update of the state, as float coefficients, and its evaluation."""

from __future__ import annotations

from itertools import zip_longest
from typing import NamedTuple

from torch import Tensor


class Rule(NamedTuple):
    """x = decay x + sum of weights times predictions, newest first, + spread z."""

    decay: float
    weights: tuple[float, ...]
    spread: float

    def after(self, correction: tuple[float, ...], factor: float) -> Rule:
        """The rule for a state to which predictions with these weights, times factor, are due."""
        pairs = zip_longest(self.weights, correction, fillvalue=0.0)
        return self._replace(weights=tuple(own + factor * due for own, due in pairs))


def apply(rule: Rule, x: Tensor, values: tuple[Tensor, ...], z: Tensor | None) -> Tensor:
    """The rule's sum, in the dtype of x, accumulated in one fresh tensor."""
    out = x * rule.decay
    for weight, value in zip(rule.weights, values, strict=False):
        out.add_(value, alpha=weight)
    return out if z is None else out.add_(z, alpha=rule.spread)
