"""Finished work on disk, under the fingerprint of all that decides it.

A run is one file and each of its scores another, so that a new solver computes its own runs only
and a new metric computes no run at all. A file is replaced as a whole; one that cannot be read
is told of, counts as absent, and is computed again.
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
from ..errors import ConfigError
from ..metrics import Estimate


class StoreWarning(UserWarning):
    """A file of the cache could not be read, and is computed again."""


class Store:
    """A folder of tensors and scores by key; without a folder, it keeps nothing.

    Raises:
        ConfigError: if the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / ".writable").touch()
            except OSError as error:
                raise ConfigError(
                    f"cannot keep cells in {str(folder)!r} ({error}); write cache='a folder'"
                ) from error

    def tensors(self, key: str) -> dict[str, Tensor] | None:
        """What `keep_tensors` kept."""
        if self.folder is None or not (path := self.folder / f"{key}.npz").exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
            _warn(path, error)
            return None

    def keep_tensors(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key."""
        if self.folder is None:
            return
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {name: value.cpu().numpy() for name, value in tensors.items()}
        np.savez(buffer, **arrays)
        write_atomic(self.folder / f"{key}.npz", buffer.getvalue())

    def score(self, key: str) -> Estimate | None:
        """What `keep_score` kept."""
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
        """Keep a score under a key."""
        if self.folder is not None:
            write_atomic(self.folder / f"{key}.json", sealed({"score": score}))


def _warn(path: Path, error: object) -> None:
    message = f"{path} cannot be read ({error}) and is computed again"
    warnings.warn(message, StoreWarning, stacklevel=3)
