"""Finished work on disk. The key is a fingerprint of everything that determines the result.

A run is one file, and each of its scores is another. A new solver therefore needs only its own
runs, and a new metric needs no run. A file is replaced as a whole. A file that cannot be read gives
a `StoreWarning`, and its content is computed again.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from .._internal.files import write_atomic
from .._internal.folder import read_sealed, sealed
from ..errors import ConfigError, ScoreSDEWarning
from ..metrics import Estimate


class StoreWarning(ScoreSDEWarning):
    """A file of the cache could not be read, and is computed again."""


class Store:
    """A folder of tensors and scores by key; with `folder=None` it stores nothing.

    Raises:
        ConfigError: if the folder cannot be created or written to.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / ".writable").touch()
            except OSError as error:
                raise ConfigError(
                    f"cannot write to {str(folder)!r} ({error}); write cache='another folder'"
                ) from error

    def tensors(self, key: str) -> dict[str, Tensor] | None:
        """The tensors that `keep_tensors` stored under this key, or None."""
        if self.folder is None or not (path := self.folder / f"{key}.npz").exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
            _warn(path, error)
            return None

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Store tensors under a key."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in tensors.items()}
        np.savez(buffer, **arrays)
        write_atomic(self.folder / f"{key}.npz", buffer.getvalue())

    def score(self, key: str) -> Estimate | None:
        """The score that `keep_score` stored under this key, or None."""
        if self.folder is None or not (path := self.folder / f"{key}.json").exists():
            return None
        try:
            data = read_sealed(path) or {}
            value, low, high, draws = data["score"]
            return Estimate(float(value), float(low), float(high), tuple(map(float, draws)))
        except (ValueError, TypeError, KeyError):
            _warn(path, "it is damaged")
            return None

    def keep_score(self, key: str, score: Estimate) -> None:
        """Store a score under a key."""
        if self.folder is not None:
            write_atomic(self.folder / f"{key}.json", sealed({"score": score}))


def _warn(path: Path, error: object) -> None:
    message = f"{path} cannot be read ({error}); it is computed again"
    warnings.warn(message, StoreWarning, stacklevel=3)
