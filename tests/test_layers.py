"""Imports between the rooms of the library, and packages that `import scoresde` may load."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys

import pytest
import rooms

# A room may import those of its own layer and of the layers above it in this list. CONTRIBUTING.md
# has the same table in words.
LAYERS = [
    {
        "errors",
        "scalar",
        "_internal.files",
        "_internal.fingerprint",
        "_internal.folder",
        "_internal.graph",
        "_internal.integers",
        "_internal.named_files",
        "_internal.net_facts",
        "_internal.plain_data",
    },
    {"sde"},
    {"axis", "conditions", "noise", "prediction", "time_input", "trusted"},
    {"grid", "model", "wrapper", "exact"},
    {
        "guidance",
        "adapters",
        "ode",
        "_internal.counted",
        "_internal.checked",
        "_internal.step_control",
        "_internal.witness",
    },
    {"solvers"},
    {"_internal.specs", "_internal.labels", "_internal.checks"},
    {"sampling", "training"},
    {"likelihood", "metrics", "testing"},
    {"bench", "diagnose", "tune"},
    {"cli"},
]

# Imported with the library itself; everything else waits until it is used.
LIGHT = {"torch", "numpy", "einops", "scoresde"} | set(sys.stdlib_module_names)
MAY_IMPORT = {"cli": {"typer", "rich"}}  # only ever loaded by the command itself


def test_every_room_has_a_layer():
    assert sorted(rooms.arrows()) == sorted(room for layer in LAYERS for room in layer)


def test_imports_point_upward_only():
    level = {room: k for k, layer in enumerate(LAYERS) for room in layer}
    wrong = [
        f"{room} (layer {level[room]}) imports {target} (layer {level[target]})"
        for room, targets in rooms.arrows().items()
        for target in targets
        if level[target] > level[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_room_imports_itself_through_others():
    rooms.floors()  # raises ValueError for a circle


def test_no_file_name_occurs_twice():
    names = [path.name for path in rooms.ROOT.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(set(names)) == sorted(names)


def test_no_function_hides_a_module_of_its_name():
    hidden = []
    for name in rooms.sources():
        package, _, last = name.rpartition(".")
        if package and "__main__" not in name:
            found = getattr(importlib.import_module(package), last, None)
            if found is not None and not inspect.ismodule(found):
                hidden.append(name)
    assert not hidden, hidden


def test_private_modules_are_not_published():
    pages = (rooms.ROOT.parent / "docs" / "reference").glob("*.md")
    assert not [page.name for page in pages if "_internal" in page.read_text()]


def test_heavy_packages_are_imported_where_they_are_used():
    wrong = []
    for name, (package, tree) in rooms.sources().items():
        for statement in rooms.imports(tree, in_functions=False):
            for target in rooms.absolute(statement, package):
                top = target.split(".")[0]
                if top not in LIGHT | MAY_IMPORT.get(rooms.room(name), set()):
                    wrong.append(f"{name} imports {target} at line {statement.lineno}")
    assert not wrong, "\n".join(wrong)


def test_importing_the_library_loads_nothing_heavy():
    heavy = """scipy torchdiffeq torchsde diffusers matplotlib sklearn mlxtend tqdm typer rich
        safetensors ot pandas torchvision scoresde.cli scoresde.testing scoresde.training.loop"""
    code = (
        "import sys, torch, numpy, einops; before = set(sys.modules); import scoresde; "
        f"print([m for m in {heavy.split()!r} if m in set(sys.modules) - before])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "[]"


NUMERIC = {*rooms.arrows()} - {"bench", "cli", "metrics", "tune", "training"}
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


# Data sets and problems that published numbers are of: another seeding would be other data.
SEEDED_BY_TORCH = {
    "scoresde.exact.problems",
    "scoresde.training.data",
    "scoresde.training.networks",
}


def test_seeds_are_mixed_in_one_place():
    found = {
        name
        for name, (_, tree) in rooms.sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("manual_seed", "SeedSequence")
    }
    assert found == {"scoresde.noise", *SEEDED_BY_TORCH}


@pytest.mark.parametrize("room", sorted(NUMERIC))
def test_no_global_random_generator(room):
    wrong = [
        f"{name}:{line} calls {call} without a generator"
        for name, (_, tree) in rooms.sources().items()
        if rooms.room(name) == room
        for line, call, given in _draws(tree)
        if not given
    ]
    assert not wrong, "\n".join(wrong)


def test_no_pickles_and_no_unsafe_loading():
    wrong = []
    for name, (_, tree) in rooms.sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                call = ast.unparse(node.func)
                safe = any(
                    k.arg == "weights_only" and ast.unparse(k.value) == "True"
                    for k in node.keywords
                )
                loads = call in ("pickle.load", "torch.save") or (call == "torch.load" and not safe)
                if loads or (call == "pickle.loads" and rooms.room(name) != "testing"):
                    wrong.append(f"{name}:{node.lineno} {call}")
    assert not wrong, "\n".join(wrong)
