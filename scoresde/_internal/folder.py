"""The folder of a job, which can continue after an interruption and never mixes two jobs.

A folder belongs to the job that its `config.json` describes. That file is created exclusively: if
several jobs start at once in a new folder, one creates it, and the others continue only if their
description is the same. It is read again before every write. Files are never incomplete. A file
is checked against a digest when it is read, so a damaged file counts as missing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .files import PART, write_atomic, write_new

CONFIG = "config.json"
_DIGEST = "sha256"
_STALE = 86_400.0  # seconds; an older temporary file was left by a killed program

Compare = Callable[[dict[str, Any], dict[str, Any]], str | None]


@dataclass(frozen=True)
class JobFolder:
    """A folder and the job to which it should belong.

    Attributes:
        path: the folder.
        kind: the name of this kind of job, for error messages.
        config: the description of the job, JSON-able data.
        differs: a function of the description in the folder and this job's description. It
            returns their difference in words, or None if both describe the same job.
    """

    path: Path
    kind: str
    config: Mapping[str, Any]
    differs: Compare = field(repr=False)

    def claim(self) -> dict[str, Any]:
        """Claim the folder for this job; it may be new, or belong to this job already.

        Returns:
            The description in the folder.

        Raises:
            CheckpointError: if the folder holds another job, or other files. Nothing in it is
                changed then.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / CONFIG
        if not file.exists():
            strangers = [p.name for p in self.path.iterdir() if not p.name.endswith(PART)]
            if strangers and not file.exists():  # another job may have begun just now
                raise CheckpointError(
                    f"{self.path} is not empty and does not hold a {self.kind} job (it has "
                    f"{strangers[0]!r}); write to a new folder"
                )
            write_new(file, json.dumps(dict(self.config), indent=1).encode())
        theirs = self.check()
        for part in self.path.glob(f".*{PART}"):  # left by killed programs
            try:
                if time.time() - part.stat().st_mtime > _STALE:
                    part.unlink()
            except FileNotFoundError:  # another job has removed it
                pass
        return theirs

    def check(self) -> dict[str, Any]:
        """The description in the folder, after a check that it is that of this job.

        Raises:
            CheckpointError: if it is not, or cannot be read.
        """
        theirs = read_config(self.path, self.kind)
        told = self.differs(theirs, json.loads(json.dumps(dict(self.config))))
        if told is not None:
            raise CheckpointError(
                f"{self.path} holds a {self.kind} job of another configuration: {told}; write to "
                "a new folder"
            )
        return theirs

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the job, after a check that the folder still belongs to it."""
        self.check()
        write_atomic(self.path / name, data)

    def write_json(self, name: str, data: Mapping[str, Any]) -> None:
        """Write JSON-able data with a digest, for `read_sealed`."""
        self.write(name, sealed(data))


def read_config(path: Path, kind: str) -> dict[str, Any]:
    """The description in a folder.

    Raises:
        CheckpointError: if there is none, or it is not a JSON object.
    """
    file = path / CONFIG
    try:
        config = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} does not describe a {kind} job: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} does not describe a {kind} job: it is not a JSON object")
    return config


def sealed(data: Mapping[str, Any]) -> bytes:
    """JSON-able data with a digest, as the content of a file."""
    return json.dumps({**data, _DIGEST: _of(data)}).encode()


def read_sealed(file: Path) -> dict[str, Any] | None:
    """The data of a file that `sealed` made; None if it is missing or damaged."""
    try:
        data = json.loads(file.read_bytes())
        digest = data.pop(_DIGEST)
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return data if isinstance(data, dict) and digest == _of(data) else None


def digest_of(content: bytes) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _of(data: Mapping[str, Any]) -> str:
    return digest_of(json.dumps(json.loads(json.dumps(dict(data))), sort_keys=True).encode())
