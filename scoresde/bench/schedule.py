"""Compute cells in this process, in worker processes, or on several machines."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from pickle import PicklingError
from types import ModuleType

from .._internal.named_files import allow, allowed, named_modules
from ..errors import ConfigError, require
from .table import Cell

Work = Callable[[], Cell]
"""A function that computes a cell."""

_PATIENCE = timedelta(days=7)  # machines may finish at very different times


def share() -> tuple[int, int]:
    """Rank of this process and number of processes under `torchrun`; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def run(work: Sequence[Work], jobs: int = 1) -> Iterator[tuple[int, Cell]]:
    """Compute this process's share of the work; yields (place, cell) as each one is finished.

    Args:
        work: all work, the same list in every process of `torchrun`.
        jobs: number of worker processes on this machine.

    Raises:
        ConfigError: for fewer than one worker, or for work that cannot be sent to a worker.
    """
    if jobs < 1:
        raise ConfigError(f"jobs must be 1 or more, got {jobs!r}")
    rank, world = share()
    mine = range(rank, len(work), world)
    if jobs == 1:
        for place in mine:
            yield place, work[place]()
        return
    joblib = require("joblib", "bench")
    pool = require("joblib.externals.loky", "bench")
    _send_along(named_modules())
    calls = (joblib.delayed(_placed)(place, work[place], allowed()) for place in mine)
    try:
        # loky's workers also accept functions and models defined in a script or a notebook.
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)
    except (PicklingError, BrokenExecutor) as error:
        raise ConfigError(
            "a worker process died, or the model, a solver or a metric cannot be sent to it "
            f"({error}); write jobs=1, or start the command with torchrun"
        ) from error
    finally:  # stop the workers, which would keep their memory and their old import path
        pool.get_reusable_executor(max_workers=jobs).shutdown(wait=True)


@contextmanager
def gathered() -> Iterator[Callable[[dict[int, Cell]], dict[int, Cell]]]:
    """Yield a function that gathers the cells of all processes of `torchrun` in each of them."""
    if share()[1] == 1:
        yield lambda cells: cells
        return
    from torch import distributed

    own = not distributed.is_initialized()
    if own:
        distributed.init_process_group("gloo", timeout=_PATIENCE)
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)

    def together(cells: dict[int, Cell]) -> dict[int, Cell]:
        parts: list[dict[int, Cell]] = [{} for _ in range(share()[1])]
        distributed.all_gather_object(parts, cells, group=group)
        return {place: cell for part in parts for place, cell in part.items()}

    try:
        yield together
    finally:
        if own:
            distributed.destroy_process_group()


def _send_along(modules: Sequence[ModuleType]) -> None:
    """Send modules by value to the workers, which could not import them."""
    for name in ("joblib.externals.cloudpickle", "cloudpickle"):  # joblib has its own up to 1.5
        with suppress(ImportError):
            pickler = import_module(name)
            for module in modules:
                pickler.register_pickle_by_value(module)


def _placed(place: int, work: Work, places: Mapping[str, Path]) -> tuple[int, Cell]:
    allow(places)
    return place, work()
