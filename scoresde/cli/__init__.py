"""The command `scoresde`."""

from __future__ import annotations

import sys
import warnings

from .._internal.named_files import without_current_directory
from ..errors import ScoreSDEError, require


def main() -> None:
    """Run the command line.

    An error of the library, of a file, or of the network prints one line and gives exit code 2. A
    warning prints one line without the place in the code.
    """
    with warnings.catch_warnings(), without_current_directory():
        warnings.showwarning = _say
        _run()


def _say(message: Warning | str, *place: object, **named: object) -> None:
    """Print a warning on a line of its own, even while a progress bar is shown."""
    require("tqdm", "cli").tqdm.write(f"scoresde: {message}", file=sys.stderr)


def _run() -> None:
    try:
        require("typer", "cli")
        require("rich", "cli")
        from .app import app

        app(prog_name="scoresde")
    except ScoreSDEError as error:
        print(f"scoresde: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"scoresde: cannot use {str(error.filename)!r}: {error.strerror}; choose another path",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not notes:
            raise
        print(f"scoresde: {error}; {' '.join(notes)}", file=sys.stderr)
        raise SystemExit(2) from None


__all__ = ["main"]
