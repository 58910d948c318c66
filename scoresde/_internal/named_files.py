"""Modules that a user names: the file that was named is run, and no other file beside it.

A command is run in a folder that may hold anything. That folder is therefore not put on the search
path, where a file called `matplotlib.py` would be taken for the library of that name. Of the files
beside a named one, those that it imports itself can be imported, and an installed package always
comes before them.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from ..errors import ConfigError

_SAFE = "PYTHONSAFEPATH"  # a Python that is started with it leaves the directory out
_MOST = 1000  # files of a package that are read for what they import


class _Named:
    """Finds the modules that were allowed, after every other finder has looked."""

    def __init__(self) -> None:
        self.places: dict[str, Path] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        place = self.places.get(name)
        if place is None:
            return None
        if place.suffix == ".py":
            return spec_from_file_location(name, place)
        start = place / "__init__.py"
        if start.is_file():
            return spec_from_file_location(name, start, submodule_search_locations=[str(place)])
        spec = ModuleSpec(name, None, is_package=True)  # a folder without an __init__.py
        spec.submodule_search_locations = [str(place)]
        return spec


_FINDER = _Named()


def module_of_file(path: Path) -> ModuleType:
    """The module in a file, run once. It is called by the file's name, unless something else is.

    Args:
        path: resolved, so that one file is one module.

    Raises:
        ConfigError: if there is no such file, or it is not a Python file.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    for known, place in _FINDER.places.items():  # one class, not two of one name
        if place == path and known in sys.modules:
            return sys.modules[known]
    name = path.stem
    if _FINDER.places.get(name, path) != path or (name not in _FINDER.places and _taken(name)):
        name = f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = spec_from_file_location(name, path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    _allow(name, path)
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def module_of_name(name: str) -> ModuleType:
    """An installed module, or else one in the current directory.

    Raises:
        ImportError: if there is neither, or it fails to import.
    """
    top = name.partition(".")[0]
    if top not in _FINDER.places and not _taken(top):
        for place in (Path.cwd() / f"{top}.py", Path.cwd() / top):
            if place.exists():
                _allow(top, place)
                break
    return import_module(name)


def named_modules() -> list[ModuleType]:
    """The modules of named files, and of files that they import, as far as they are loaded."""
    tops = _FINDER.places
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops]


def allowed() -> dict[str, Path]:
    """Names of modules that may be imported from files, for `allow` in a worker process."""
    return dict(_FINDER.places)


def allow(places: Mapping[str, Path]) -> None:
    """Let modules be imported from these files; see `allowed`."""
    _FINDER.places.update(places)
    if places and _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


@contextmanager
def without_current_directory() -> Iterator[None]:
    """Take the current directory from the search path, where Python puts it for `python -m`; and
    from that of processes that are started meanwhile.

    A library that is itself imported from there (a source tree) stays importable, after everything
    else.
    """
    here, path, variable = Path.cwd(), list(sys.path), os.environ.get(_SAFE)
    left = [entry for entry in path if entry and Path(entry).resolve() != here]
    if Path(__file__).resolve().parents[2] == here:
        left.append(str(here))
    sys.path[:] = left
    os.environ[_SAFE] = "1"
    try:
        yield
    finally:
        sys.path[:] = path
        if variable is None:
            del os.environ[_SAFE]
        else:
            os.environ[_SAFE] = variable


def _taken(name: str) -> bool:
    """Whether something else has this name."""
    try:
        return name in sys.modules or find_spec(name) is not None
    except (ImportError, ValueError):
        return True


def _allow(name: str, place: Path) -> None:
    """Let `name` be imported from `place`, and what the files there import from beside it."""
    todo = [(name, place)]
    while todo:
        name, place = todo.pop()
        if name in _FINDER.places:
            continue
        allow({name: place})
        files = [place] if place.suffix == ".py" else sorted(place.rglob("*.py"))[:_MOST]
        for top in sorted({top for file in files for top in _imports(file)}):
            beside = (place.parent / f"{top}.py", place.parent / top / "__init__.py")
            if beside[0].is_file():
                todo.append((top, beside[0]))
            elif beside[1].is_file():
                todo.append((top, beside[1].parent))


def _imports(file: Path) -> Iterator[str]:
    """First names of what a file imports; nothing for a file that cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
