"""Errors of the library, and the base of its warnings.

Every error is a `ScoreSDEError` and also the built-in error of its kind, so both
`except ScoreSDEError` and `except ValueError` work. A message says what was given, what was
expected, and what to write instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module
from types import ModuleType


class ScoreSDEError(Exception):
    """Base class of all errors that the library raises on purpose."""


class ConfigError(ScoreSDEError, ValueError):
    """A setting that is not valid, or settings that contradict one another."""


class ShapeError(ScoreSDEError, ValueError):
    """A tensor of a wrong shape."""


class DtypeError(ScoreSDEError, TypeError):
    """A tensor or argument of the wrong type."""


class TimeRangeError(ScoreSDEError, ValueError):
    """A time or log-SNR outside the range of the process."""


class ZeroSNRError(ScoreSDEError, ValueError):
    """A quantity that does not exist where alpha = 0."""


class NonFiniteError(ScoreSDEError, ArithmeticError):
    """A NaN or an infinity where a finite number was expected."""


class GraphError(ScoreSDEError, RuntimeError):
    """A derivative that would be silently 0: the graph does not lead to the input."""


class SolverError(ScoreSDEError, RuntimeError):
    """A solver stopped before it reached its target."""


class ContractError(ScoreSDEError, AssertionError):
    """A solver that breaks the contract of solvers; see `scoresde.testing`."""


class CheckpointError(ScoreSDEError, ValueError):
    """A file that cannot be used: damaged, of another format, or of another run."""


class FingerprintError(ConfigError):
    """An object whose content cannot be read, so it cannot be compared with another."""


class MissingExtraError(ScoreSDEError, ImportError):
    """An optional dependency is not installed."""


class ScoreSDEWarning(UserWarning):
    """Base of all warnings of the library.

    One filter covers them: `warnings.simplefilter("error", ScoreSDEWarning)` makes errors of them.
    """


class TrainingModeWarning(ScoreSDEWarning):
    """A network in training mode is used for sampling or likelihoods; write `model.eval()`."""


def require(module: str, extra: str) -> ModuleType:
    """Import `module`, or raise an error that names the extra of scoresde to install."""
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
    """The error for a name that is not in a table, with the nearest name that is.

    Args:
        what: the kind of thing.
        given: the unknown name.
        known: the names of the table; the message lists all of them.
        also: further names, which the message shows only as the nearest name.
    """
    names = sorted(known)
    folded = {name.lower(): name for name in (*also, *names)}
    near = get_close_matches(str(given).lower(), folded, n=1)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    return ConfigError(f"unknown {what} {given!r}{hint} (known: {', '.join(names)})")
