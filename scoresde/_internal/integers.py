"""Integers of every dtype that torch and numpy have."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError

_RARE = (torch.uint16, torch.uint32, torch.uint64)


def whole_numbers(values: Tensor) -> Tensor:
    """The tensor, as int64 where its dtype is uint16, uint32 or uint64: torch has neither minimum
    nor arithmetic nor indexing for these everywhere.

    Raises:
        ConfigError: for uint64 values beyond int64, which would turn negative.
    """
    if values.dtype not in _RARE:
        return values
    wide = values.to(torch.int64)
    if values.dtype == torch.uint64 and bool((wide < 0).any()):
        raise ConfigError("integers of 2^63 and more have no use here; write images - images.min()")
    return wide


def tensor_of(values: Tensor | np.ndarray) -> Tensor:
    """A tensor of an array, whatever its byte order, with integers as `whole_numbers` has them."""
    if isinstance(values, np.ndarray):
        values = torch.from_numpy(np.ascontiguousarray(values, values.dtype.newbyteorder("=")))
    return whole_numbers(values)
