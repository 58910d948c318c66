"""Peak memory of a piece of work."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_PROC = Path("/proc/self")


@contextmanager
def peak_memory(device: torch.device) -> Iterator[list[float]]:
    """Peak memory above that at the beginning, in bytes, as the one entry of a list.

    On CUDA it is the memory of the device's allocator. On the CPU it is the resident memory of the
    process, whose high-water mark can be reset on Linux; on other systems it is NaN.
    """
    found = [math.nan]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found[0] = float(torch.cuda.max_memory_allocated(device) - before)
        return
    resident = _reset()
    yield found
    if resident is not None:
        found[0] = max(0.0, _status("VmHWM") - resident)


def _reset() -> float | None:
    """Reset the high-water mark, and return the resident bytes; None if it cannot be reset."""
    try:
        (_PROC / "clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, LookupError, ValueError):
        return None


def _status(field: str) -> float:
    for line in (_PROC / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return 1024.0 * int(value.split()[0])
    raise LookupError(field)
