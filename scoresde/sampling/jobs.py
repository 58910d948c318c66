"""Large sampling jobs, in a folder that survives interruptions.

A job is a list of seeds. It is cut into shards of `batch_size` seeds each, and a shard is one file:

    config.json        what the job is; written first, and only its list of seeds ever grows
    shard-00000.npy    samples of seeds 0 .. batch_size - 1, shape (batch_size, *)
    shard-00000.json   their seeds, cost and failures

Every file is written under another name and moved into place, so one that is there is whole.
Run the same call again and it goes on with the shards that are missing; since a shard is always
sampled as the same batch from the same seeds, the result does not depend on how often the job
was interrupted. A call with further seeds after those of before extends the job; a last shard that
was not full is sampled anew, as a full one.
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
from .._internal.specs import describe
from ..errors import CheckpointError, ConfigError, require
from ..grid import Grid
from ..model import Predictor, event_shape_of
from ..noise import SampleSeeds
from ..solvers.solver import Solver
from .run import sample

_CONFIG = "config.json"
_NOTES = "notes"  # in it, of no account


@dataclass(frozen=True)
class SampleFolder:
    """A folder that `sample_many` wrote.

    Attributes:
        path: the folder.
        config: what the job is, as JSON-able data.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> SampleFolder:
        """The job in a folder.

        Raises:
            CheckpointError: if there is none, or its description cannot be read.
        """
        file = Path(path) / _CONFIG
        try:
            config = json.loads(file.read_text())
            _ = config["seeds"], config["batch_size"], config["event_shape"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} does not describe a sampling job: {error!r}") from error
        return cls(Path(path), config)

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
        """Where the samples of one shard are, or will be."""
        return self.path / f"shard-{shard:05d}.npy"

    def missing(self) -> list[int]:
        """Shards that are not there yet, or that cannot be read."""
        return [k for k in range(self.shards) if self._load(k) is None]

    def __iter__(self) -> Iterator[Tensor]:
        """The samples, one shard after another, each of shape (batch_size, *)."""
        for k in range(self.shards):
            shard = self._load(k)
            if shard is None:
                raise CheckpointError(
                    f"{self.file(k)} is missing or broken; run the same sample_many call again"
                )
            yield torch.from_numpy(np.array(shard))

    def samples(self) -> Tensor:
        """All samples, shape (n, *), in the order of the seeds."""
        return torch.cat(list(self))

    def info(self, shard: int) -> dict[str, Any]:
        """Cost and failures of one shard."""
        data: dict[str, Any] = json.loads(self.file(shard).with_suffix(".json").read_text())
        return data

    def _load(self, shard: int) -> np.ndarray | None:
        try:
            samples: np.ndarray = np.load(self.file(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        shape = (len(self.seeds(shard)), *self.config["event_shape"])
        return samples if samples.shape == shape else None


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
    notes: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> SampleFolder:
    """Draw many samples into a folder, or go on where an earlier run stopped.

    Args:
        model: what predicts. Conditions bound to it are one row a seed.
        solver, grid, device, final: see `scoresde.sample`.
        folder: an empty or new folder, or that of the same job, perhaps with fewer seeds.
        event_shape: shape of one sample, without the batch.
        seeds: one a sample, all different, such as `range(50_000)`.
        batch_size: samples a shard. It is part of the job: another size is another job.
        dtype: of the state and the files, float16, float32 or float64.
        notes: JSON-able data to keep in config.json.
        progress: show a bar (needs tqdm).

    Returns:
        The finished job.

    Raises:
        CheckpointError: if the folder holds a job of another model, solver, grid or seeds, or
            anything that is no such job. Nothing in it is touched.
        ConfigError: for repeated seeds, or a batch_size below 1.
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
        raise ConfigError("seeds repeat, and so would samples; write seeds=range(n)")
    if dtype not in (torch.float16, torch.float32, torch.float64):
        raise ConfigError(f"a shard holds float16, float32 or float64, not {dtype}")
    job = _claim(
        Path(folder),
        {
            "model": fingerprint(model),
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
        todo = bar(todo, total=job.shards, initial=done, desc=describe(solver), unit="shard")
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
        # The samples go last: where they are, everything about them is.
        write_atomic(job.file(k).with_suffix(".json"), json.dumps(info).encode())
        buffer = io.BytesIO()
        np.save(buffer, out.x.detach().cpu().numpy())
        write_atomic(job.file(k), buffer.getvalue())
    return job


def _claim(folder: Path, config: dict[str, Any]) -> SampleFolder:
    """The folder as that of this job, described if it is new."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / _CONFIG).exists():
        strangers = [p.name for p in folder.iterdir() if not p.name.endswith(".part")]
        if strangers:
            raise CheckpointError(
                f"{folder} is not empty and holds no sampling job (it has {strangers[0]!r}); "
                "write to a new folder"
            )
        write_atomic(folder / _CONFIG, json.dumps(config, indent=1).encode())
    job = SampleFolder.open(folder)
    config, theirs = json.loads(json.dumps(config)), job.config
    differ = [key for key in {**config, **theirs} if config.get(key) != theirs.get(key)]
    differ = [key for key in differ if key != _NOTES]
    if not differ:
        return job
    if differ == ["seeds"] and config["seeds"][: len(theirs["seeds"])] == theirs["seeds"]:
        grown = {**theirs, "seeds": config["seeds"]}
        write_atomic(folder / _CONFIG, json.dumps(grown, indent=1).encode())
        return SampleFolder(folder, grown)
    told = "; ".join(_difference(key, theirs.get(key), config) for key in differ)
    raise CheckpointError(
        f"{folder} holds samples of another configuration: {told}; write to a new folder"
    )


def _difference(key: str, theirs: Any, config: dict[str, Any]) -> str:
    mine: Any = config.get(key)
    if key == "model":
        return f"model was {theirs!r}, is now {mine!r} (its weights, settings or code)"
    if key == "solver_fingerprint":
        return f"the code of {config['solver']}, or what it holds, has changed"
    if key == "seeds":
        was, now = (f"{len(s)} from {s[0]} to {s[-1]}" for s in (theirs, mine))
        return f"seeds were {was}, are now {now}"
    return f"{key} was {_short(theirs)}, is now {_short(mine)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:45]}... ({len(text)} characters)"
