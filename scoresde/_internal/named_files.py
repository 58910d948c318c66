"""Imports the Python file that a user names, without importing other files of its folder.

A command may run in any folder. The folder is not put on the search path: a file `matplotlib.py`
in it would replace the library of that name. From the folder of a named file, only those files can
be imported that the file itself imports, and installed packages always come first.
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

_SAFE = "PYTHONSAFEPATH"  # with it, Python does not put the current directory on the search path
_MOST = 1000  # the most files of a package whose imports are read


class _Named:
    """Finds modules that were allowed, if no other finder has found them."""

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
    """The module in a file, run once. It has the file's name, unless that name is taken.

    Args:
        path: the resolved path, so that one file gives one module.

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
    """The installed module with this name, or else the one in the current directory.

    Raises:
        ImportError: if there is neither, or its import fails.
    """
    top = name.partition(".")[0]
    if top not in _FINDER.places and not _taken(top):
        for place in (Path.cwd() / f"{top}.py", Path.cwd() / top):
            if place.exists():
                _allow(top, place)
                break
    return import_module(name)


def named_modules() -> list[ModuleType]:
    """All loaded modules of named files, and of files that those import."""
    tops = _FINDER.places
    return [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in tops]


def allowed() -> dict[str, Path]:
    """Names and files of modules that may be imported, for `allow` in a worker process."""
    return dict(_FINDER.places)


def allow(places: Mapping[str, Path]) -> None:
    """Let modules be imported from these files; see `allowed`."""
    _FINDER.places.update(places)
    if places and _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


@contextmanager
def without_current_directory() -> Iterator[None]:
    """Remove the current directory from the search path, where `python -m` puts it.

    This also holds for processes that are started meanwhile. If this library itself is imported
    from that directory (a source tree), the directory is moved to the end of the search path.
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
    """Whether another module has this name."""
    try:
        return name in sys.modules or find_spec(name) is not None
    except (ImportError, ValueError):
        return True


def _allow(name: str, place: Path) -> None:
    """Let `name` be imported from `place`, and the files of its folder that it imports."""
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
    """The top-level names that a file imports; nothing if the file cannot be read."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
