"""What may import what, and what may be imported at all when the library is."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "scoresde"

# A unit is a module or a package right below scoresde. A unit may import those of its own layer and
# of the layers above it in this list; whatever is not listed comes last.
LAYERS = [
    {"errors", "scalar", "identity"},
    {"sde"},
    {"coordinate", "grid", "noise", "prediction", "time_input"},
    {"model", "analytic", "reverse", "problems", "guidance", "adapters", "counting"},
    {"ode", "solvers", "names"},
    {
        "door",
        "budget",
        "recommended",
        "diagnosis",
        "sampling",
        "likelihood",
        "losses",
        "latents",
        "jobs",
        "distribution",
        "testing",
    },
]

# Imported with the library itself; everything else waits until it is used.
LIGHT = {"torch", "numpy", "einops", "scoresde"} | set(sys.stdlib_module_names)
MAY_IMPORT = {"cli": {"typer", "rich"}}  # only ever loaded by the command itself


def _unit(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def _is_typing_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _imports(node: ast.AST, in_functions: bool):
    """Import statements below a node, those for type checkers left out."""
    for child in ast.iter_child_nodes(node):
        if _is_typing_only(child):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        if in_functions or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(child, in_functions)


def _absolute(statement: ast.Import | ast.ImportFrom, package: list[str]) -> list[str]:
    if isinstance(statement, ast.Import):
        return [alias.name for alias in statement.names]
    if not statement.level:
        return [statement.module or ""]
    base = package[: len(package) - statement.level + 1]
    if statement.module:
        return [".".join([*base, statement.module])]
    return [".".join([*base, alias.name]) for alias in statement.names]


@cache
def _sources() -> dict[str, tuple[list[str], ast.Module]]:
    """Every module by its name, with the package it is in."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT.parent).with_suffix("").parts)
        package = parts[:-1]
        name = ".".join(package if parts[-1] == "__init__" else parts)
        found[name] = package, ast.parse(path.read_text())
    return found


def _edges() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for name, (package, tree) in _sources().items():
        for statement in _imports(tree, in_functions=True):
            for target in _absolute(statement, package):
                if target.startswith("scoresde.") and _unit(target) != _unit(name):
                    edges.setdefault(_unit(name), set()).add(_unit(target))
    return edges


def test_imports_point_upward_only():
    level = {unit: k for k, units in enumerate(LAYERS) for unit in units}
    wrong = [
        f"{unit} (layer {level[unit]}) imports {target} (layer {level.get(target, len(LAYERS))})"
        for unit, targets in _edges().items()
        for target in targets
        if unit in level and level.get(target, len(LAYERS)) > level[unit]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_unit_imports_itself_through_others():
    edges = _edges()
    edges.pop("__init__", None)
    for targets in edges.values():
        targets.discard("__version__")
        targets.discard("__init__")

    def visit(unit: str, path: tuple[str, ...]) -> None:
        assert unit not in path, " -> ".join([*path, unit])
        if unit not in done:
            for target in edges.get(unit, ()):
                visit(target, (*path, unit))
            done.add(unit)

    done: set[str] = set()
    for unit in edges:
        visit(unit, ())


def test_heavy_packages_are_imported_where_they_are_used():
    wrong = []
    for name, (package, tree) in _sources().items():
        for statement in _imports(tree, in_functions=False):
            for target in _absolute(statement, package):
                top = target.split(".")[0]
                if top not in LIGHT | MAY_IMPORT.get(_unit(name), set()):
                    wrong.append(f"{name} imports {target} at line {statement.lineno}")
    assert not wrong, "\n".join(wrong)


def test_importing_the_library_loads_nothing_heavy():
    heavy = """scipy torchdiffeq torchsde diffusers matplotlib sklearn mlxtend tqdm typer rich
        safetensors ot pandas torchvision scoresde.cli scoresde.testing scoresde.training"""
    code = (
        "import sys, torch, numpy, einops; before = set(sys.modules); import scoresde; "
        f"print([m for m in {heavy.split()!r} if m in set(sys.modules) - before])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "[]"


NUMERIC = LAYERS[1] | LAYERS[2] | LAYERS[3] | LAYERS[4] | LAYERS[5]
DRAWS = {"rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial"}
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "exponential_", "random_"}


def _draws(tree: ast.Module):
    """Calls that draw from a generator, and whether one is given."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, owner = node.func.attr, ast.unparse(node.func.value)
        given = any(keyword.arg == "generator" for keyword in node.keywords)
        if (name in DRAWS and owner == "torch") or name in IN_PLACE:
            yield node.lineno, f"{owner}.{name}", given
        elif name.endswith("_like") and name.startswith("rand") and owner == "torch":
            yield node.lineno, f"torch.{name}", False
        elif name in ("manual_seed", "seed") and owner in ("torch", "np.random", "random"):
            yield node.lineno, f"{owner}.{name}", False
        elif owner in ("np.random", "numpy.random") and name not in ("default_rng", "SeedSequence"):
            yield node.lineno, f"{owner}.{name}", name in ("Generator", "get_state")


@pytest.mark.parametrize("unit", sorted(NUMERIC))
def test_no_global_random_generator(unit):
    wrong = [
        f"{name}:{line} calls {call} without a generator"
        for name, (_, tree) in _sources().items()
        if _unit(name) == unit
        for line, call, given in _draws(tree)
        if not given
    ]
    assert not wrong, "\n".join(wrong)


def test_no_pickles_and_no_unsafe_loading():
    wrong = []
    for name, (_, tree) in _sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                safe = any(
                    k.arg == "weights_only" and ast.unparse(k.value) == "True"
                    for k in node.keywords
                )
                loads = call in ("pickle.load", "torch.save") or (call == "torch.load" and not safe)
                if loads or (call == "pickle.loads" and _unit(name) != "testing"):
                    wrong.append(f"{name}:{node.lineno} {call}")
    assert not wrong, "\n".join(wrong)
