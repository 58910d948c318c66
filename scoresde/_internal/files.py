"""Files that are either not there or whole, whatever interrupts the program that writes them."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

PART = ".part"
"""The suffix of a file that is being written. What a killed program leaves behind ends so."""


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file under a temporary name and move it into place.

    The temporary name is unique and is created exclusively: threads, processes and machines that
    share a folder never write into the same file, and no symbolic link is followed. The file gets
    the permissions that the umask allows.
    """
    path = Path(path)
    part = _part(path, data)
    try:
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_new(path: str | Path, data: bytes) -> bool:
    """Write a file that is not there yet; of several that try at once, one does.

    Returns:
        Whether this call wrote it. Where it did not, the file is there, and is left as it is.
    """
    path = Path(path)
    part = _part(path, data)
    try:
        os.link(part, path)  # in contrast to a move, it replaces nothing
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
    """A new file beside `path`, of a name of its own."""
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
