"""Writes files so that an interruption never leaves an incomplete file; reads JSON safely."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..errors import CheckpointError

PART = ".part"
"""The suffix of a temporary file. A killed program may leave files with this suffix."""


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it.

    The temporary name is unique, and the file is created exclusively: threads, processes and
    machines that share a folder never write into the same file, and no symbolic link is followed.
    The file gets the permissions that the umask allows.
    """
    path = Path(path)
    part = _part(path, data)
    try:
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_new(path: str | Path, data: bytes) -> bool:
    """Write a file if it does not exist; if several programs try at once, exactly one succeeds.

    Returns:
        Whether this call wrote the file. If not, the file exists and is not changed.
    """
    path = Path(path)
    part = _part(path, data)
    try:
        os.link(part, path)  # unlike a rename, it never replaces a file
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    finally:
        part.unlink(missing_ok=True)
    return True


def _part(path: Path, data: bytes) -> Path:
    """Write the data to a new file with a unique name in the folder of `path`."""
    part = path.with_name(f".{path.name}.{uuid4().hex}{PART}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


# -- reading -----------------------------------------------------------------------------------

JSON_BYTES = 64 * 2**20
"""The largest size of a JSON file, or of JSON text in a file, that is read."""

JSON_DEPTH = 32
"""The largest depth of nested objects and lists in JSON that is read."""


def read_json(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: for a file that is missing, too large, or not a JSON object.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(JSON_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}") from error
    return parse_json(data, str(path))


def parse_json(data: bytes | str, what: str) -> dict[str, Any]:
    """The object in a JSON text; errors call the text `what`.

    Raises:
        CheckpointError: for text that is too long, too deep, not UTF-8 or not a JSON object.
    """
    if len(data) > JSON_BYTES:
        raise CheckpointError(f"{what} is larger than {JSON_BYTES // 2**20} MiB, the most for JSON")
    try:
        found = json.loads(data.decode("utf-8") if isinstance(data, bytes) else data)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what} is not JSON: not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise CheckpointError(f"{what} is not JSON: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{what} is nested deeper than {JSON_DEPTH}, the most") from error
    if not isinstance(found, dict):
        kind = "null" if found is None else type(found).__name__
        raise CheckpointError(f"{what} must be a JSON object, {{...}}, got {kind}")
    level: list[Any] = [found]
    for _ in range(JSON_DEPTH):
        below = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in below for value in values if isinstance(value, dict | list)]
        if not level:
            return found
    raise CheckpointError(f"{what} is nested deeper than {JSON_DEPTH}, the most")
