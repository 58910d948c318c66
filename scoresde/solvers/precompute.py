"""What is worked out ahead of the loop, once for each solver and grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def ahead(function: Function) -> Function:
    """A function of values whose results are remembered: of solvers, processes and knots.

    A compiled run takes the result as a constant, and need not follow how it came about. (Not of
    grids: one that was cut while a run is compiled is no value yet.)
    """
    remembered = lru_cache(maxsize=64)(function)

    @wraps(function)
    def found(*args: Any) -> Any:
        return remembered(*args)

    # This is all that torch.compiler.assume_constant_result does, after importing the compiler.
    found._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return found  # type: ignore[return-value]
