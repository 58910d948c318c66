"""Errors of the library.

Every one is a `ScoreSDEError` and also the built-in kind that a caller expects, so both
`except ScoreSDEError` and `except ValueError` work. A message says what came, what was
expected, and what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType


class ScoreSDEError(Exception):
    """Base of all errors raised on purpose by the library."""


class ConfigError(ScoreSDEError, ValueError):
    """A setting that cannot mean anything, or two that contradict one another."""


class ShapeError(ScoreSDEError, ValueError):
    """A tensor of a shape that cannot be right."""


class DtypeError(ScoreSDEError, TypeError):
    """A tensor or argument of the wrong type."""


class TimeRangeError(ScoreSDEError, ValueError):
    """A time, or log-SNR, outside the range of the process."""


class ZeroSNRError(ScoreSDEError, ValueError):
    """A quantity that does not exist where alpha = 0."""


class NonFiniteError(ScoreSDEError, ArithmeticError):
    """A NaN or an infinity where a number was due."""


class GraphError(ScoreSDEError, RuntimeError):
    """A derivative that would be silently 0: the graph does not lead to the input."""


class SolverError(ScoreSDEError, RuntimeError):
    """An integrator gave up before it reached its target."""


class ContractError(ScoreSDEError, AssertionError):
    """A solver that does not do what the contract of solvers says; see `scoresde.testing`."""


class CheckpointError(ScoreSDEError, ValueError):
    """A file that is not what it should be: corrupt, foreign, or of another run."""


class FingerprintError(ConfigError):
    """An object whose content cannot be known, so that nothing tells it from another."""


class MissingExtraError(ScoreSDEError, ImportError):
    """An optional dependency is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or say which extra of scoresde installs it."""
    try:
        return import_module(module)
    except (ImportError, AttributeError) as error:  # the latter: built for another torch
        package = module.split(".")[0]
        raise MissingExtraError(
            f"this needs the package {package!r} ({error}); write: pip install 'scoresde[{extra}]'"
        ) from error


def unknown_name(
    what: str, given: object, known: Iterable[str], also: Iterable[str] = ()
) -> ConfigError:
    """The error for a name that is not in a table, with the nearest one that is.

    Args:
        what: the kind of thing.
        given: the name.
        known: the names of the table, all of which are listed.
        also: further names that may be meant, of which only the nearest is told.
    """
    names = sorted(known)
    folded = {name.lower(): name for name in (*also, *names)}
    near = get_close_matches(str(given).lower(), folded, n=1)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    return ConfigError(f"unknown {what} {given!r}{hint} (known: {', '.join(names)})")
