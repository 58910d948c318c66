"""Diffusion processes: how noise is added to data over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._internal.plain_data import from_plain
from .cosine import CosineVPSDE
from .discrete import DiscreteVPSDE, cosine_betas, linear_betas, sigmoid_betas
from .flow import FlowSDE, TrigonometricSDE
from .knot import CLEAN, Knot
from .process import SDE
from .ve import EDMSDE, VESDE
from .vp import VPSDE, SubVPSDE


def from_dict(data: dict[str, Any], *, known: Sequence[type[SDE]] = ()) -> SDE:
    """The process that `SDE.to_dict` wrote.

    Args:
        data: the name of the class and its fields.
        known: your own classes that the data may name.

    Raises:
        ConfigError: for a name that is neither the library's nor that of a class in `known`, or a
            field that the process does not have.
    """
    own = [value for name in __all__ if isinstance(value := globals()[name], type)]
    classes = [kind for kind in own if issubclass(kind, SDE) and kind is not SDE]
    made: SDE = from_plain("process", data, [*classes, *known])
    return made


__all__ = [
    "CLEAN",
    "EDMSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "CosineVPSDE",
    "DiscreteVPSDE",
    "FlowSDE",
    "Knot",
    "SubVPSDE",
    "TrigonometricSDE",
    "cosine_betas",
    "from_dict",
    "linear_betas",
    "sigmoid_betas",
]
