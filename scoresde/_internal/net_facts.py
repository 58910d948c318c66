"""What a network that somebody else wrote says of itself: its dtype, its device, its mode."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

COMPUTE = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Dtypes in which a network computes; int8, fp8 and the like only store weights."""


def compute_dtype(net: nn.Module) -> torch.dtype | None:
    """Dtype of the first parameter, else of the first buffer, that is in `COMPUTE`; None where no
    tensor is, as in a network of packed or fp8 weights alone.
    """
    return next((t.dtype for t in _tensors(net) if t.dtype in COMPUTE), None)


def place(net: nn.Module) -> torch.device | None:
    """Device of the first parameter or buffer, whatever its dtype."""
    first = next(_tensors(net), None)
    return None if first is None else first.device


def _tensors(net: nn.Module) -> chain[Tensor]:
    return chain(net.parameters(), net.buffers())
