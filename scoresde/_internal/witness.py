"""Identifies the model of a job: by its fingerprint or a name, and by its output for a fixed input.

A fingerprint is compared exactly, but does not see everything; a name is chosen by the user. So
jobs also store a witness: a few numbers of one prediction. It is compared with a tolerance, so
that a job may continue on another device, and it is never hashed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, FingerprintError
from ..model import Predictor, device_of
from ..noise import generator, normal
from ..scalar import scale
from ..sde.knot import Knot
from .fingerprint import fingerprint, modules_in

_ROWS, _KEPT = 2, 64  # samples in the input, and numbers stored of the output
_TOLERANCE = 0.02  # relative, RMS; larger than the errors of half precision and TF32


def name_of(model: Predictor, key: str | None) -> str:
    """The name of the model in files: the key, or without one the fingerprint.

    Raises:
        FingerprintError: if there is no key, and the model's content cannot be known.
        ConfigError: for a key that is not a name.
    """
    if key is None:
        return fingerprint(model)
    if not isinstance(key, str) or not key:
        raise ConfigError(f"key must be a name, got {key!r}; write key='my model, epoch 7'")
    return f"key {key}"


def identity(
    model: Predictor,
    key: str | None,
    knot: Knot,
    shape: Sequence[int],
    *,
    dtype: torch.dtype,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """The model's name and its witness, as parts of a job's description.

    Takes one evaluation of a few samples, in evaluation mode; buffers do not change.

    Args:
        model: the model.
        key: the name that the user gives it, or None.
        knot: the time of the evaluation.
        shape: shape of the job's samples, (N, *).
        dtype: dtype of the state.
        device: device of the state; by default the model's.

    Raises:
        FingerprintError: if there is no key, and the model's content cannot be known, or changes
            when the model is called.
    """
    name = name_of(model, key)
    rows = min(_ROWS, shape[0])
    z = normal((rows, *shape[1:]), generator("witness"), dtype)
    x = scale(math.hypot(float(knot.alpha), float(knot.sigma)), z).to(device or device_of(model))
    with _as_it_was(model), torch.no_grad():
        raw = model.rows(torch.arange(rows))(x, knot).raw
    if key is None and fingerprint(model) != name:
        raise FingerprintError(
            "the model changes when it is called (it has a cache, or counts), so its fingerprint "
            "does not identify it; write key='a name that you change whenever the model "
            "changes', or give its class a __getstate__ that omits the cache"
        )
    return {"model": name, "witness": _few(raw)}


def disagree(theirs: Any, mine: Any) -> bool:
    """Whether two witnesses cannot come from the same model."""
    if not isinstance(theirs, list) or not isinstance(mine, list):
        return (theirs is None) != (mine is None)
    if len(theirs) != len(mine) or not all(isinstance(v, int | float) for v in theirs + mine):
        return True
    apart = math.dist(theirs, mine)
    return not apart <= _TOLERANCE * max(math.hypot(*theirs), math.hypot(*mine))


def _few(raw: Tensor) -> list[float] | None:
    """Numbers from all parts of the output; None if they are not finite."""
    flat = raw.detach().flatten().double().cpu()
    places = torch.linspace(0, len(flat) - 1, min(_KEPT, len(flat)), dtype=torch.float64)
    found = flat[places.round().long()]
    return found.tolist() if bool(found.isfinite().all()) else None


@contextmanager
def _as_it_was(model: Predictor) -> Iterator[None]:
    """Put the model into evaluation mode; restore its mode and buffers afterwards."""
    modules: list[nn.Module] = modules_in(model)
    modes = [module.training for module in modules]
    were = [
        {k: None if b is None else (b, b.clone()) for k, b in m._buffers.items()} for m in modules
    ]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, mode, buffers in zip(modules, modes, were, strict=True):
            module.training = mode
            for name in [name for name in module._buffers if name not in buffers]:
                del module._buffers[name]
            for name, kept in buffers.items():
                module._buffers[name] = None if kept is None else kept[0]
                if kept is not None and not torch.equal(*kept):
                    with torch.no_grad():
                        kept[0].copy_(kept[1])
