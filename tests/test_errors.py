"""Errors: one base class, the built-in classes that callers expect, and hints what to write."""

from __future__ import annotations

import inspect

import pytest

from scoresde import errors
from scoresde.errors import ScoreSDEError, require, unknown_name

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
