"""Large sampling jobs in a folder, which continue after an interruption.

A job is a list of seeds. It is split into shards of `batch_size` seeds, two files each:

    config.json        the job's settings; written first, later only its list of seeds may grow
    shard-00000.npy    samples of seeds 0 .. batch_size - 1, shape (batch_size, *)
    shard-00000.json   their seeds, cost, failures, and a digest of the samples

Every file is written under a temporary name and then renamed, so a file that exists is complete.
If a shard was damaged later, its digest does not match, and it is sampled again.

To continue a job, run the same call again: it samples the missing shards. A shard is always the
same batch from the same seeds, so the result does not depend on interruptions. A call with more
seeds, added after the earlier ones, extends the job. If the last shard was not full, it is
sampled again as a full one.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._internal.checks import (
    as_solver,
    check_event_shape,
    check_grid,
    check_model,
    explained_shape,
)
from .._internal.files import write_atomic
from .._internal.fingerprint import fingerprint
from .._internal.folder import CONFIG, JobFolder, digest_of, read_config, read_sealed
from .._internal.labels import short
from .._internal.witness import disagree, identity
from ..errors import CheckpointError, ConfigError, require
from ..grid import Grid
from ..model import Predictor, event_shape_of
from ..noise import SampleSeeds
from ..solvers.solver import Solver
from .run import sample

_KIND = "sampling"
_NOTES = "notes"  # ignored when descriptions are compared


@dataclass(frozen=True)
class SampleFolder:
    """A folder that `sample_many` wrote.

    Attributes:
        path: the folder.
        config: the job's settings, as JSON-able data.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> SampleFolder:
        """The job in a folder.

        Raises:
            CheckpointError: if the folder holds no job, or its config.json cannot be read.
        """
        return cls(Path(path), _valid(read_config(Path(path), _KIND), Path(path)))

    @property
    def shards(self) -> int:
        """Number of shards of the whole job."""
        return math.ceil(len(self.config["seeds"]) / int(self.config["batch_size"]))

    def seeds(self, shard: int) -> list[int]:
        """Seeds of one shard."""
        size = self.config["batch_size"]
        seeds: list[int] = self.config["seeds"][shard * size : (shard + 1) * size]
        return seeds

    def file(self, shard: int) -> Path:
        """The path of the samples of one shard, whether it exists yet or not."""
        return self.path / f"shard-{shard:05d}.npy"

    def missing(self) -> list[int]:
        """Shards that do not exist yet, or that cannot be read."""
        return [k for k in range(self.shards) if self._load(k) is None]

    def __iter__(self) -> Iterator[Tensor]:
        """The samples, one shard after another, each of shape (batch_size, *)."""
        for k in range(self.shards):
            shard = self._load(k)
            if shard is None:
                raise CheckpointError(
                    f"{self.file(k)} is missing or broken; run the same sample_many call again"
                )
            yield torch.from_numpy(shard)

    def samples(self) -> Tensor:
        """All samples, shape (n, *), in the order of the seeds."""
        return torch.cat(list(self))

    def info(self, shard: int) -> dict[str, Any]:
        """Seeds, cost and failures of one shard.

        Raises:
            CheckpointError: if the file is missing or damaged.
        """
        file = self.file(shard).with_suffix(".json")
        data = read_sealed(file)
        if data is None:
            raise CheckpointError(
                f"{file} is missing or damaged; run the same sample_many call again"
            )
        return data

    def _load(self, shard: int) -> np.ndarray | None:
        """The samples of one shard; None if they are missing, damaged or of another job."""
        info = read_sealed(self.file(shard).with_suffix(".json"))
        if info is None or info.get("seeds") != self.seeds(shard):
            return None
        try:
            content = self.file(shard).read_bytes()
            if digest_of(content) != info.get("samples"):
                return None
            samples: np.ndarray = np.load(io.BytesIO(content), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        shape = (len(self.seeds(shard)), *self.config["event_shape"])
        right = samples.shape == shape and samples.dtype.name == self.config["dtype"]
        return samples if right else None


def sample_many(
    model: Predictor,
    solver: Solver | str,
    grid: Grid,
    folder: str | Path,
    *,
    event_shape: Sequence[int],
    seeds: Sequence[int],
    batch_size: int = 64,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
    final: str = "solver",
    key: str | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> SampleFolder:
    """Draw many samples into a folder, or continue an earlier run.

    Args:
        model: the model. Conditions bound to it have one row per seed.
        solver, grid, device, final: see `scoresde.sample`.
        folder: an empty or new folder, or the folder of the same job, perhaps with fewer seeds.
        event_shape: shape of one sample, without the batch.
        seeds: one seed per sample, all different, such as `range(50_000)`.
        batch_size: samples per shard. It is part of the job: another size is another job.
        dtype: dtype of the state and the files: float16, float32 or float64.
        key: a name for the model, which you change whenever the model changes. It replaces the
            model's fingerprint, if that cannot be computed or takes too long.
        notes: JSON-able data to store in config.json.
        progress: show a bar (needs tqdm).

    Returns:
        The finished job.

    Raises:
        CheckpointError: if the folder holds a job of another model, solver, grid or seeds, or
            anything that is not a sampling job. Nothing in it is changed.
        ConfigError: for repeated seeds, or a batch_size below 1.
        FingerprintError: if the content of the model cannot be known, or changes when the model is
            called; write `key=`.
    """
    check_model(model)
    check_grid(grid)
    solver = as_solver(solver)
    event = check_event_shape(event_shape, event_shape_of(model))
    seeds = [int(seed) for seed in seeds]
    if batch_size < 1 or not seeds:
        raise ConfigError(
            f"a job needs seeds and a batch_size of 1 or more, got {len(seeds)} seeds and "
            f"batch_size={batch_size!r}"
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError("seeds repeat, so samples would repeat too; write seeds=range(n)")
    if dtype not in (torch.float16, torch.float32, torch.float64):
        raise ConfigError(f"a shard holds float16, float32 or float64, not {dtype}")
    middle = grid.knots[(len(grid.knots) - 1) // 2]
    with explained_shape(model, event):
        who = identity(model, key, middle, (len(seeds), *event), dtype=dtype, device=device)
    here, job = _claim(
        Path(folder),
        {
            **who,
            "solver": repr(solver),
            "solver_fingerprint": fingerprint(solver),
            "grid": grid.to_dict(),
            "event_shape": list(event),
            "dtype": str(dtype).removeprefix("torch."),
            "final": final,
            "batch_size": int(batch_size),
            "seeds": seeds,
            _NOTES: dict(notes or {}),
        },
    )
    todo: Sequence[int] = job.missing()
    if progress:
        done = job.shards - len(todo)
        bar = require("tqdm.auto", "cli").tqdm
        todo = bar(todo, total=job.shards, initial=done, desc=short(solver), unit="shard")
    for k in todo:
        rows = torch.arange(k * batch_size, k * batch_size + len(job.seeds(k)))
        with explained_shape(model, event):
            out = sample(
                model.rows(rows),
                solver,
                grid,
                shape=(len(rows), *event),
                noise=SampleSeeds(tuple(job.seeds(k))),
                dtype=dtype,
                device=device,
                final=final,
            )
        info = {
            "seeds": job.seeds(k),
            "nfe": out.nfe.tolist(),
            "seconds": round(out.seconds, 3),
            "failures": {str(job.seeds(k)[place]): why for place, why in out.failures.items()},
        }
        buffer = io.BytesIO()
        np.save(buffer, out.x.detach().cpu().numpy())
        content = buffer.getvalue()
        # The samples are written last: if they exist, the files about them exist too.
        here.write_json(
            job.file(k).with_suffix(".json").name, {**info, "samples": digest_of(content)}
        )
        here.write(job.file(k).name, content)
    return job


def _claim(path: Path, config: dict[str, Any]) -> tuple[JobFolder, SampleFolder]:
    """Open the folder for this job, which may have more seeds than the folder's."""
    here = JobFolder(path, _KIND, config, lambda a, b: _differs(_valid(a, path), b))
    theirs = here.claim()
    if len(config["seeds"]) > len(theirs["seeds"]):
        theirs = {**theirs, "seeds": config["seeds"]}
        write_atomic(path / CONFIG, json.dumps(theirs, indent=1).encode())
    return here, SampleFolder(path, theirs)


def _valid(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """The description, checked: every entry that `SampleFolder` reads exists and has its type."""

    def whole(value: Any, least: int) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and value >= least

    def listed(name: str) -> list[Any]:
        value = config.get(name)
        return value if isinstance(value, list) else [None]

    wrong = [name for name in ("dtype",) if not isinstance(config.get(name), str)]
    wrong += [name for name in ("batch_size",) if not whole(config.get(name), 1)]
    wrong += [name for name in ("event_shape",) if not all(whole(n, 0) for n in listed(name))]
    wrong += [
        name for name in ("seeds",) if not all(isinstance(n, int) for n in listed(name) or [None])
    ]
    if wrong:
        raise CheckpointError(
            f"{path / CONFIG} does not describe a sampling job: {wrong[0]} is "
            f"{_short(config.get(wrong[0]))}"
        )
    return config


def _differs(theirs: dict[str, Any], config: dict[str, Any]) -> str | None:
    """How two descriptions differ; None if they agree, or differ only by seeds added at the end."""
    apart = {key for key in {**config, **theirs} if config.get(key) != theirs.get(key)} - {_NOTES}
    if not disagree(theirs.get("witness"), config.get("witness")):
        apart.discard("witness")
    if config["seeds"][: len(theirs["seeds"])] == theirs["seeds"]:
        apart.discard("seeds")
    order = [key for key in {**config, **theirs} if key in apart]
    return "; ".join(_difference(key, theirs.get(key), config) for key in order) or None


def _difference(key: str, theirs: Any, config: dict[str, Any]) -> str:
    mine: Any = config.get(key)
    if key == "model":
        return (
            f"model was {theirs!r}, is now {mine!r} (its weights, settings or code, or the version "
            "of a package)"
        )
    if key == "witness":
        return "the model's output for a fixed input has changed, though its name is the same"
    if key == "solver_fingerprint":
        return f"the code of {config['solver']}, or what it holds, has changed"
    if key == "seeds":
        was, now = (f"{len(s)} from {s[0]} to {s[-1]}" for s in (theirs, mine))
        return f"seeds were {was}, are now {now}"
    return f"{key} was {_short(theirs)}, is now {_short(mine)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:45]}... ({len(text)} characters)"
