"""Diffusion processes: what is added to data, and how fast."""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, unknown_name
from .cosine import CosineVPSDE
from .discrete import DiscreteVPSDE, cosine_betas, linear_betas, sigmoid_betas
from .flow import FlowSDE
from .knot import CLEAN, Knot
from .process import SDE
from .ve import EDMSDE, VESDE
from .vp import VPSDE, SubVPSDE

_BY_NAME: dict[str, type[SDE]] = {
    cls.__name__: cls
    for cls in (VPSDE, SubVPSDE, VESDE, EDMSDE, CosineVPSDE, FlowSDE, DiscreteVPSDE)
}


def from_dict(data: dict[str, Any]) -> SDE:
    """The process that `SDE.to_dict` wrote.

    Raises:
        ConfigError: for an unknown name or a field that the process does not have.
    """
    fields = dict(data)
    name = fields.pop("name", None)
    if name not in _BY_NAME:
        raise unknown_name("process", name, _BY_NAME)
    if isinstance(fields.get("log_alphas"), list):
        fields["log_alphas"] = tuple(fields["log_alphas"])
    try:
        return _BY_NAME[name](**fields)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be built from {sorted(fields)}: {error}") from error


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
    "cosine_betas",
    "from_dict",
    "linear_betas",
    "sigmoid_betas",
]
