"""Fingerprints: is this the same model, solver or grid as the one that a file was made with?

A fingerprint depends on content alone: parameters, buffers, settings. Two objects loaded from
the same weights agree, on any device and in any process.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TORCH_OWN = frozenset(vars(nn.Module()))


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that stand for the content of `value`.

    Tensors and arrays count with every byte, modules with class, parameters, buffers and public
    settings, functions with name, bytecode and what they close over, other objects with their
    attributes.
    """
    digest = hashlib.sha256()
    _feed(digest, value, ())
    return digest.hexdigest()[:16]


def _feed(digest: Any, value: Any, above: tuple[int, ...]) -> None:
    if id(value) in above:  # an object that contains itself
        digest.update(b"<cycle>")
        return
    above = (*above, id(value))
    kind = type(value)
    digest.update(f"<{kind.__module__}.{kind.__qualname__}>".encode())
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype):
        digest.update(repr(value).encode())
    elif isinstance(value, Tensor):
        _feed_tensor(digest, value)
    elif isinstance(value, np.ndarray):
        digest.update(
            f"{value.dtype}{value.shape}".encode() + np.ascontiguousarray(value).tobytes()
        )
    elif isinstance(value, nn.Module):
        for name, tensor in (*value.named_parameters(), *value.named_buffers()):
            digest.update(name.encode())
            _feed_tensor(digest, tensor)
        _feed(digest, {name: _settings(module) for name, module in value.named_modules()}, above)
    elif isinstance(value, functools.partial):
        _feed(digest, [value.func, value.args, value.keywords], above)
    elif isinstance(value, types.MethodType):
        _feed(digest, [value.__func__, value.__self__], above)
    elif isinstance(value, types.FunctionType):
        code = value.__code__
        digest.update(f"{value.__module__}.{value.__qualname__}".encode() + code.co_code)
        digest.update(repr([c for c in code.co_consts if not hasattr(c, "co_code")]).encode())
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        _feed(digest, [code.co_names, cells, value.__defaults__, value.__kwdefaults__], above)
    elif isinstance(value, type):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            digest.update(repr(key).encode())
            _feed(digest, value[key], above)
    elif isinstance(value, Set):
        digest.update(repr(sorted(value, key=repr)).encode())
    elif isinstance(value, list | tuple | range):
        for item in value:
            _feed(digest, item, above)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            digest.update(field.name.encode())
            _feed(digest, getattr(value, field.name), above)
    elif hasattr(value, "__dict__"):
        _feed(digest, vars(value), above)


def _settings(module: nn.Module) -> dict[str, Any]:
    """Class and own attributes of a module; private ones count only where they are plain values.

    Libraries keep caches and file names in private attributes; a process is a frozen value.
    """
    public = {
        name: value
        for name, value in vars(module).items()
        if name not in _TORCH_OWN
        and (not name.startswith("_") or dataclasses.is_dataclass(type(value)))
    }
    return {"class": type(module), **public}


def _feed_tensor(digest: Any, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
