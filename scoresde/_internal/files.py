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
    part = path.with_name(f".{path.name}.{uuid4().hex}{PART}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
