"""Errors: one base class, the built-in classes that callers expect, and hints what to write."""

from __future__ import annotations

import ast
import builtins
import inspect
import pkgutil
import warnings
from importlib import import_module
from pathlib import Path

import pytest

import scoresde
from scoresde import errors
from scoresde.errors import ScoreSDEError, ScoreSDEWarning, require, unknown_name

BUILT_IN = {
    "ConfigError": ValueError,
    "ShapeError": ValueError,
    "DtypeError": TypeError,
    "TimeRangeError": ValueError,
    "ZeroSNRError": ValueError,
    "NonFiniteError": ArithmeticError,
    "SolverError": RuntimeError,
    "ContractError": AssertionError,
    "CheckpointError": ValueError,
    "MissingExtraError": ImportError,
}


def test_every_error_is_of_both_kinds():
    own = {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, ScoreSDEError) and kind is not ScoreSDEError
    }
    for name, kind in own.items():
        built_in = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        assert built_in[0] not in (Exception, object), f"{name} is no built-in kind"
    for name, built_in in BUILT_IN.items():
        assert issubclass(own[name], built_in)


def test_every_warning_has_one_base():
    """So that one filter covers those to come: pytest's own here, and a user's."""
    modules = [
        import_module(module.name)
        for module in pkgutil.walk_packages(scoresde.__path__, "scoresde.")
        if module.name != "scoresde.cli.__main__"  # which runs the command
    ]
    found = {
        kind.__name__: kind
        for module in modules
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and issubclass(kind, Warning)
        and kind.__module__.startswith("scoresde.")
    }
    assert len(found) >= 7
    for kind in found.values():
        assert issubclass(kind, ScoreSDEWarning), kind
        if kind.__name__ == "SizeWarning":  # pyproject.toml says why it is let pass
            continue
        with pytest.raises(kind):
            warnings.warn("any", kind, stacklevel=1)


def test_warnings_are_always_of_a_kind_of_the_library():
    """`warnings.warn(text)` alone would be a UserWarning, which the filter does not know."""
    kinds = []
    for path in sorted(Path(scoresde.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                given = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "category")]
                kinds.append((path.name, *(ast.unparse(one) for one in given)))
    assert len(kinds) >= 8
    for name, *kind in kinds:
        assert kind, f"{name} warns without a kind"
        assert kind[0].endswith("Warning"), name
        assert kind[0] not in vars(builtins), f"{name} warns with the built-in {kind[0]}"


def test_a_missing_package_names_its_extra():
    assert require("math", "cli").pi > 3
    with pytest.raises(ImportError, match=r"pip install 'scoresde\[plot\]'") as caught:
        require("no_such_package.part", "plot")
    assert "'no_such_package'" in str(caught.value)
    assert isinstance(caught.value, ScoreSDEError)


def test_an_unknown_name_lists_the_known_and_the_nearest():
    text = str(unknown_name("process", "VPSD", ["VPSDE", "VESDE", "EDMSDE"]))
    assert text == ("unknown process 'VPSD'; did you mean 'VPSDE'? (known: EDMSDE, VESDE, VPSDE)")
    far = str(unknown_name("process", "xyz", ["VPSDE"]))
    assert far == "unknown process 'xyz' (known: VPSDE)"
    assert "unknown process 3" in str(unknown_name("process", 3, ["VPSDE"]))
