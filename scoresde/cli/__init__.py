"""The command `scoresde`."""

from __future__ import annotations

import sys

from ..errors import ScoreSDEError, require


def main() -> None:
    """Run the command line. An error made on purpose, or of the network on what it was given, is
    one line and exit code 2.
    """
    try:
        require("typer", "cli")
        require("rich", "cli")
        from .app import app

        if "" not in sys.path:  # `my_solvers:Mine` is looked for where the command is run
            sys.path.insert(0, "")

        app(prog_name="scoresde")
    except ScoreSDEError as error:
        print(f"scoresde: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        notes = getattr(error, "__notes__", ())
        if not notes:
            raise
        print(f"scoresde: {error}; {' '.join(notes)}", file=sys.stderr)
        raise SystemExit(2) from None


__all__ = ["main"]
