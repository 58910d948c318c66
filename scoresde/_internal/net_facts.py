"""What a network that somebody else wrote says of itself: dtype, device, mode, other ranks."""

from __future__ import annotations

import sys
import warnings
from itertools import chain
from pathlib import Path
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parallel import DistributedDataParallel

from ..errors import TrainingModeWarning

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


# -- training mode -------------------------------------------------------------------------------

_warned: WeakSet[nn.Module] = WeakSet()
_OUTSIDE = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def heed_mode(net: nn.Module) -> None:
    """Warn, once a network, where layers in training mode make repeats differ.

    Warns:
        TrainingModeWarning: it names the first such layer.
    """
    if torch.compiler.is_compiling() or net in _warned:
        return
    name = restless(net)
    if name is None:
        return
    _warned.add(net)
    layer = f"its layer {name!r}, {net.get_submodule(name)!r:.80}," if name else f"{net!r:.80}"
    warnings.warn(
        f"the network ({type(net).__name__}) is in training mode: {layer} changes what it returns "
        "from call to call or with the batch, and statistics of batches are updated; write "
        "model.eval() before sampling and likelihoods",
        TrainingModeWarning,
        stacklevel=_level(),
    )


def restless(net: nn.Module) -> str | None:
    """Name of the first submodule in training mode that behaves differently there; None for none.

    Known are dropout, batch norm and other norms with running statistics, `RReLU`, and modules
    with a positive number among their attributes whose name contains "drop", such as
    `MultiheadAttention` or networks that call `functional.dropout`.
    """
    return next((name for name, part in net.named_modules() if part.training and _acts(part)), None)


def _acts(part: nn.Module) -> bool:
    if isinstance(part, _DropoutNd):
        return part.p > 0
    if isinstance(part, _NormBase):
        return part.track_running_stats or isinstance(part, nn.modules.batchnorm._BatchNorm)
    if isinstance(part, nn.RReLU):
        return True
    return any(
        "drop" in name and isinstance(value, int | float) and value > 0
        for name, value in vars(part).items()
        if not isinstance(value, bool)
    )


def _level() -> int:
    """For `warnings.warn`: how far above its caller the code outside the library is."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OUTSIDE):
        level, frame = level + 1, frame.f_back
    return level


# -- other ranks ---------------------------------------------------------------------------------


def bare(net: nn.Module) -> nn.Module:
    """The network inside `DistributedDataParallel`, or inside `torch.compile` of one."""
    inside = getattr(net, "_orig_mod", net)
    if not isinstance(inside, DistributedDataParallel):
        return net
    inside = inside.module
    assert isinstance(inside, nn.Module)  # for the type checker
    return bare(inside)


def in_lockstep(net: nn.Module) -> str | None:
    """The class of a module in the network that talks to other ranks at each call; None for none,
    and where there is one rank.
    """
    group = torch.distributed
    if not (group.is_available() and group.is_initialized() and group.get_world_size() > 1):
        return None
    for part in net.modules():
        names = {kind.__name__ for kind in type(part).__mro__}
        found = names & {"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
        if found:
            return min(found)
    return None
