"""Print the rooms of the library and the imports between them: `python tests/rooms.py`.

A room is a module or a package directly below `scoresde`, or a module of `_internal`. The rooms of
a floor import only from lower floors. The `__init__` of the library is ignored.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent / "scoresde"


def room(module: str) -> str:
    """The room of a module: `scoresde.solvers.ddim` lies in `solvers`."""
    parts = module.split(".")[1:]
    if not parts:
        return "__init__"
    return ".".join(parts[:2]) if parts[0] == "_internal" else parts[0]


def imports(node: ast.AST, in_functions: bool):
    """Import statements below a node, without those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        if in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports(child, in_functions)


def absolute(statement: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    """Full names of the modules that a statement imports."""
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if not statement.level:
        return [statement.module or ""]
    base = package[: len(package) - statement.level + 1]
    module = ".".join([*base, *([statement.module] if statement.module else [])])
    if statement.module and module != "scoresde._internal":
        return [module]
    return [f"{module}.{alias.name}" for alias in statement.names]


@cache
def sources() -> dict[str, tuple[list[str], ast.Module]]:
    """Every module by its name, with the package it is in and its syntax tree."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
        package = parts[:-1]
        name = ".".join(package if parts[-1] == "__init__" else parts)
        found[name] = package, ast.parse(path.read_text())
    return found


def arrows() -> dict[str, set[str]]:
    """For each room the rooms that it imports from, functions included."""
    found: dict[str, set[str]] = {room(name): set() for name in sources()}
    for name, (package, tree) in sources().items():
        for statement in imports(tree, in_functions=True):
            for target in absolute(statement, package):
                if target.startswith("scoresde.") and room(target) != room(name):
                    found[room(name)].add(room(target))
    found.pop("__init__")
    found.pop("_internal", None)
    for targets in found.values():
        targets -= {"__init__", "__version__", "_internal"}
    return found


def floors() -> list[set[str]]:
    """The rooms by floor, the ground first.

    Raises:
        ValueError: if rooms import one another in a circle.
    """
    left, placed, built = dict(arrows()), set[str](), list[set[str]]()
    while left:
        ready = {name for name, targets in left.items() if targets <= placed}
        if not ready:
            raise ValueError(f"a circle among {sorted(left)}")
        built.append(ready)
        placed |= ready
        left = {name: targets for name, targets in left.items() if name not in ready}
    return built


if __name__ == "__main__":
    for number, rooms in enumerate(floors()):
        print(f"{number:>2}  {', '.join(sorted(rooms))}")
    count = sum(map(len, arrows().values()))
    print(f"{len(arrows())} rooms on {len(floors())} floors, {count} arrows")
