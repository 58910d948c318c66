"""Cells in this process, in several, or split over machines."""

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
"""A cell to be computed."""

_PATIENCE = timedelta(days=7)  # machines may finish their shares far apart


def share() -> tuple[int, int]:
    """Which of how many processes this is, as `torchrun` says; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def run(work: Sequence[Work], jobs: int = 1) -> Iterator[tuple[int, Cell]]:
    """This process's share of the work, each cell with its place, in the order of their ends.

    Args:
        work: the same in every process of `torchrun`.
        jobs: worker processes here.

    Raises:
        ConfigError: for fewer than one worker, or work that cannot be sent to one.
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
        # Its workers take functions and models that are defined in a script or a notebook too.
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(calls)
    except (PicklingError, BrokenExecutor) as error:
        raise ConfigError(
            "a worker process died, or the model, a solver or a metric cannot be sent to it "
            f"({error}); write jobs=1, or start the command with torchrun"
        ) from error
    finally:  # they would keep their memory, and the search path that they began with
        pool.get_reusable_executor(max_workers=jobs).shutdown(wait=True)


@contextmanager
def gathered() -> Iterator[Callable[[dict[int, Cell]], dict[int, Cell]]]:
    """A function that puts the shares of all processes of `torchrun` together, in each of them."""
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
    """Have modules that a worker would not find sent to it as they are."""
    for name in ("joblib.externals.cloudpickle", "cloudpickle"):  # joblib has its own up to 1.5
        with suppress(ImportError):
            pickler = import_module(name)
            for module in modules:
                pickler.register_pickle_by_value(module)


def _placed(place: int, work: Work, places: Mapping[str, Path]) -> tuple[int, Cell]:
    allow(places)
    return place, work()
