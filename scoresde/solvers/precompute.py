"""Coefficients that are computed before the loop, once for each solver and grid."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def ahead(function: Function) -> Function:
    """Decorator: cache the results of a function of solvers, processes and knots.

    torch.compile treats a result as a constant and does not trace the function. Do not pass a
    Grid: under torch.compile a sliced grid cannot be hashed.
    """
    remembered = lru_cache(maxsize=64)(function)

    @wraps(function)
    def found(*args: Any) -> Any:
        return remembered(*args)

    # torch.compiler.assume_constant_result does the same, but also imports the compiler.
    found._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return found  # type: ignore[return-value]
