"""Finding other people's code: installed packages, and clones in the folder SCORESDE_PEERS."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

VARIABLE = "SCORESDE_PEERS"


class Absent(Exception):  # noqa: N818 - a state, not a fault
    """A peer that is not here; the message says how to get it."""


def package(name: str, distribution: str | None = None) -> tuple[ModuleType, str]:
    """An installed package and its version."""
    pip = distribution or name
    try:
        return import_module(name), metadata.version(pip)
    except ImportError as reason:
        raise Absent(f"pip install {pip} ({reason})") from None


@cache
def part(name: str, module: str, distribution: str) -> tuple[ModuleType, str]:
    """One module of an installed package, without what the package's own `__init__` imports."""
    spec = util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Absent(
            f"pip install --no-deps --target FOLDER {distribution}, and FOLDER on PYTHONPATH"
        )
    shell = ModuleType(name)
    shell.__path__ = list(spec.submodule_search_locations)
    with _stubs("torchvision", "torchvision.transforms"), _modules({name: shell}):
        try:
            return import_module(f"{name}.{module}"), metadata.version(distribution)
        except ImportError as reason:
            raise Absent(f"{distribution} is here, but: {reason}") from None


@cache
def clone(
    folder: str, address: str, *modules: str, stubs: tuple[str, ...] = ()
) -> tuple[list[ModuleType], str]:
    """Modules of a cloned repository, and its commit.

    Args:
        folder: its name in SCORESDE_PEERS.
        address: owner and name on GitHub.
        modules: names as the repository's own scripts import them.
        stubs: modules that the code imports and that the samplers do not use.
    """
    root = Path(os.environ.get(VARIABLE, "")) / folder
    if not os.environ.get(VARIABLE) or not root.is_dir():
        raise Absent(
            f"git clone https://github.com/{address} into a folder, and name that folder in the "
            f"environment variable {VARIABLE}"
        )
    heads = {name.partition(".")[0] for name in modules}
    with _stubs(*stubs), _modules(dict.fromkeys(heads)), _path(root):
        try:
            loaded = [import_module(name) for name in modules]
        except ImportError as reason:
            raise Absent(f"{folder} is here, but: {reason}") from None
    command = ["git", "-C", str(root), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return loaded, commit or "unknown"


@contextmanager
def double() -> Iterator[None]:
    """float64 as torch's default, in which some peers make their grids."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def replaced(module: ModuleType, name: str, **functions: Any) -> Iterator[None]:
    """What a module knows as `torch` or `np`, with some of its functions replaced for a while."""
    before = getattr(module, name)
    shell = ModuleType(name)
    shell.__dict__.update({**vars(before), **functions})
    setattr(module, name, shell)
    try:
        yield
    finally:
        setattr(module, name, before)


class _Stub(ModuleType):
    """A module of which anything can be imported and nothing used."""

    __path__: list[str] = []  # noqa: RUF012 - what the import system reads

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: lambda function: function  # decorators too


@contextmanager
def _stubs(*names: str) -> Iterator[None]:
    with _modules({n: _Stub(n) for n in names if util.find_spec(n.partition(".")[0]) is None}):
        yield


@contextmanager
def _modules(new: dict[str, ModuleType | None]) -> Iterator[None]:
    """These modules and their children, in place of others of the same name, for a while."""

    def ours() -> list[str]:
        return [n for n in sys.modules if n in new or n.partition(".")[0] in new]

    before = {name: sys.modules.pop(name) for name in ours()}
    sys.modules.update({name: module for name, module in new.items() if module is not None})
    try:
        yield
    finally:
        for name in ours():
            del sys.modules[name]
        sys.modules.update(before)


@contextmanager
def _path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):  # its `utils` is nobody else's
            if str(getattr(module, "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
