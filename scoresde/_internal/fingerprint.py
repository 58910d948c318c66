"""Fingerprints: is this the same model, solver or grid as the one that a file was made with?

A fingerprint depends on content alone: parameters, buffers, settings, and the code of classes and
functions that come from no installed package. Two objects loaded from the same weights agree, on
any device and in any process, wherever their files lie.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import sysconfig
import types
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_TORCH_OWN = frozenset(vars(nn.Module()))
_LIBRARIES = (Path(__file__).parent, *map(Path, map(sysconfig.get_path, ("stdlib", "platstdlib"))))
_PACKAGES = {"site-packages", "dist-packages"}


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that stand for the content of `value`.

    Tensors and arrays count with every byte, modules with class, parameters, buffers and public
    settings, functions with name, bytecode and what they close over, other objects with their
    attributes. A class or function of somebody's own file counts with all of that file; of the
    other files that it imports, only those whose classes and functions are met on the way.
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
    _feed_class(digest, kind)
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
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
        _feed_bytecode(digest, value.__code__)
        _feed_files(digest, [value])
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        names = value.__code__.co_names
        _feed(digest, [names, cells, value.__defaults__, value.__kwdefaults__], above)
    elif isinstance(value, type):
        digest.update(f"{value.__module__}.{value.__qualname__}".encode())
        _feed_class(digest, value)
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


# -- code --------------------------------------------------------------------------------------


def _feed_class(digest: Any, kind: type) -> None:
    """The code of a class and of those that it inherits from, as far as it is in no package."""
    for each in kind.__mro__:
        functions = list(_functions(each))
        if _feed_files(digest, functions):
            continue
        if _feed_files(digest, [each]) and each.__module__ != "__main__":
            continue
        for function in functions:  # typed at a prompt, or in a notebook
            _feed_bytecode(digest, function.__code__)


def _functions(kind: type) -> Iterator[types.FunctionType]:
    """What a class defines, without decorators."""
    for held in vars(kind).values():
        if isinstance(held, classmethod | staticmethod):
            held = held.__func__
        elif isinstance(held, property | functools.cached_property):
            held = held.fget if isinstance(held, property) else held.func
        if isinstance(held, types.FunctionType):
            held = inspect.unwrap(held)
            if isinstance(held, types.FunctionType):
                yield held


def _feed_files(digest: Any, things: list[Any]) -> bool:
    """The content of the files that classes or functions are in, those of packages left out.

    Returns:
        Whether they are in files at all.
    """
    found = {Path(file) for file in map(_file, things) if file}
    found = {file for file in found if file.is_file()}
    own = [file for file in found if not _installed(file)]
    for content in sorted(_content(file, file.stat().st_mtime_ns) for file in own):
        digest.update(content)
    return bool(found)


def _file(thing: Any) -> str | None:
    if isinstance(thing, types.FunctionType):  # its module may be another of the same name
        return thing.__code__.co_filename
    try:
        return inspect.getsourcefile(thing)
    except (TypeError, OSError):  # built in
        return None


@functools.cache
def _installed(file: Path) -> bool:
    """Whether a file is of a package, Python's library or this one."""
    return not _PACKAGES.isdisjoint(file.parts) or any(map(file.is_relative_to, _LIBRARIES))


@functools.lru_cache(maxsize=256)
def _content(file: Path, modified: int) -> bytes:
    return hashlib.sha256(file.read_bytes()).digest()


def _feed_bytecode(digest: Any, code: types.CodeType) -> None:
    digest.update(code.co_code)
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    plain = [c for c in code.co_consts if not isinstance(c, types.CodeType)]
    # The order of a set changes from one process to the next.
    digest.update(repr([sorted(c, key=repr) if isinstance(c, Set) else c for c in plain]).encode())
    for each in inner:
        _feed_bytecode(digest, each)
