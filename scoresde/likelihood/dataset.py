"""Bits per dimension of a whole data set, in a folder that survives interruptions.

    config.json        what the job is; written first, never changed
    method.json        the grid, where the job calibrated one
    shard-00000.json   estimates for images 0 .. batch_size - 1, and so on
    per_image.npz      bits/dim, standard error and evaluations of each image, when all are done
    summary.json       mean, standard error, parts, configuration, when all are done

A shard is always computed as the same batch from the same seeds, so the result does not depend
on how often the job was interrupted; at most one batch is computed again.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .._internal.files import write_atomic
from .._internal.fingerprint import fingerprint
from ..errors import CheckpointError, ConfigError, NonFiniteError, ShapeError, require
from ..model import Predictor
from ..ode import Backend
from .calibrate import calibrated_grid
from .dequantization import Dequantization, Uniform
from .discrete_data import Evaluation, LikelihoodSettings
from .divergence import Divergence
from .error_budget import BitsPerDim, Estimates, summarize
from .fixed_grid import FixedGrid
from .frame import Frame
from .frame_estimate import estimate_frame
from .method import Method
from .pixels import EDGES, Pixels

_FOR_FRAME = 10_000  # images that a frame is estimated from, at most


@dataclass(frozen=True)
class _Folder:
    """The shards of a job."""

    path: Path

    def claim(self, config: dict[str, Any]) -> None:
        """Make the folder this job's, or find that it is."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.path / "config.json"
        if not file.exists():
            strangers = [p.name for p in self.path.iterdir() if not p.name.endswith(".part")]
            if strangers:
                raise CheckpointError(
                    f"{self.path} is not empty and holds no likelihood job (it has "
                    f"{strangers[0]!r}); write to a new folder"
                )
            write_atomic(file, json.dumps(config, indent=1).encode())
        try:
            theirs = json.loads(file.read_text())
        except ValueError as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from error
        mine = json.loads(json.dumps(config))
        differ = [key for key in sorted({*mine, *theirs}) if mine.get(key) != theirs.get(key)]
        if differ:
            raise CheckpointError(
                f"{self.path} holds a job of another configuration ({', '.join(differ)} differ); "
                "write to a new folder"
            )

    def load(self, shard: int, count: int) -> Estimates | None:
        """One shard, or None where it is missing or broken."""
        try:
            data = json.loads(self._file(shard).read_text())
            nats, stderr, error = (
                torch.tensor(data[key], dtype=torch.float64) for key in ("nats", "stderr", "error")
            )
            nfe = torch.tensor(data["nfe"], dtype=torch.long)
            failures = {int(place): why for place, why in data["failures"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        found = Estimates(nats, stderr, error, nfe, failures)
        return found if len(nats) == count else None

    def save(self, shard: int, found: Estimates) -> None:
        """Write one shard."""
        data = {
            "nats": found.nats.tolist(),
            "stderr": found.stderr.tolist(),
            "error": found.error.tolist(),
            "nfe": found.nfe.tolist(),
            "failures": found.failures,
        }
        write_atomic(self._file(shard), json.dumps(data).encode())

    def method(self) -> FixedGrid | None:
        """The grid that the job calibrated, or None."""
        try:
            data = json.loads((self.path / "method.json").read_text())
            return FixedGrid(**{**data, "places": data["places"] and tuple(data["places"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_method(self, grid: FixedGrid) -> None:
        """Write the grid."""
        write_atomic(self.path / "method.json", json.dumps(asdict(grid)).encode())

    def _file(self, shard: int) -> Path:
        return self.path / f"shard-{shard:05d}.json"


def nll_dataset(
    model: Predictor,
    images: Tensor,
    folder: str | Path,
    *,
    pixels: Pixels = EDGES,
    dequantize: Dequantization | None = None,
    t_min: float | None = None,
    method: Method | Backend | str | None = None,
    divergence: Divergence | None = None,
    prior: Any = None,
    frame: Frame | None = None,
    nodes: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    target: float | None = None,
    table: str = "npz",
    notes: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> BitsPerDim:
    """Bits per dimension of many images, written to a folder; run again, it goes on.

    Image k has the seed `seed + k`. Kill it at any time: at most one batch is computed again, and
    nothing counts twice.

    Args:
        model: what predicts. Conditions bound to it are one row an image.
        images: integers 0 .. levels-1, shape (N, *).
        folder: an empty or new folder, or that of the same job.
        pixels, dequantize: see `bits_per_dim`.
        t_min, divergence, prior: see `log_likelihood`.
        method: what integrates; by default a `FixedGrid` that `calibrated_grid` fits to a pilot
            of the first images (2 to 8), once, at some `5 * nodes` evaluations for each of them.
        frame: by default `estimate_frame` of the images, up to 10,000 of them. The result does
            not depend on it, only its accuracy does.
        nodes: of the default method, 41 by default.
        batch_size: images a shard; part of the job.
        seed: of pixels and probes.
        target: stop as soon as the standard error of the mean, in bits/dim, is this small (not
            before 30 images); the summary says how many images it took.
        table: of the values of each image, "npz" or "parquet" (which needs pyarrow).
        notes: JSON-able data to keep in the summary.
        progress: show a bar with the running mean and its standard error (needs tqdm).

    Returns:
        The result for the images done.

    Raises:
        CheckpointError: if the folder holds something else, or a job that differs in model,
            images or settings. Nothing in it is touched.
    """
    if method is not None and nodes is not None:
        raise ConfigError(
            f"nodes={nodes!r} is of the default method, and method={method!r} is given; leave "
            "nodes out, or write method=FixedGrid(nodes=...)"
        )
    nodes = 41 if nodes is None else nodes
    rule = dequantize if dequantize is not None else Uniform()
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size!r}")
    if table not in ("npz", "parquet"):
        raise ConfigError(f"table must be 'npz' or 'parquet', got {table!r}")
    if table == "parquet":
        require("pyarrow.parquet", "parquet")  # now, and not when all is computed
    given = LikelihoodSettings(t_min, method, divergence, prior, frame)
    Evaluation.of(model, images, pixels, rule, given)  # refuses what cannot be
    if len(images) == 0:
        raise ShapeError(f"images must have shape (N, *) with N > 0, got {tuple(images.shape)}")
    job = _Folder(Path(folder))
    config = {
        "model": fingerprint(model),
        "images": fingerprint(images.cpu()),
        "count": len(images),
        "dequantize": fingerprint(rule),
        "method": f"calibrated, {nodes} nodes"
        if given.method is None
        else fingerprint(given.method),
        "frame": "estimated" if frame is None else fingerprint(frame),
        "batch_size": batch_size,
        "seed": seed,
        **pixels.to_dict(),
        "setting divergence": fingerprint(divergence),
        "setting prior": fingerprint(prior),
        "setting t_min": fingerprint(t_min),
    }
    job.claim(config)
    if frame is None and len(images) > 1:
        few = images[:_FOR_FRAME]
        frame = estimate_frame(pixels.lower_edge(few) + 0.5 * pixels.width)
    chosen = given.method or job.method()
    if chosen is None:
        chosen = _calibrated(model, images, pixels, nodes, replace(given, frame=frame))
        job.keep_method(chosen)
    settings = replace(given, method=chosen, frame=frame)
    asked = Evaluation.of(model, images, pixels, rule, settings)
    size = images[0].numel()
    seeds = range(seed, seed + len(images))
    known = asked.systematic(model, images, seeds)
    done: list[Estimates] = []
    shards: Any = range(math.ceil(len(images) / batch_size))
    if progress:
        shards = require("tqdm.auto", "cli").tqdm(shards, unit="batch")
    for k in shards:
        first, last = k * batch_size, min((k + 1) * batch_size, len(images))
        rows = torch.arange(first, last, device=images.device)
        found = job.load(k, len(rows))
        if found is None:
            found = asked.estimate(model.rows(rows), images[rows], seeds[first:last])
            job.save(k, found)
        done.append(found)
        if progress or target is not None:
            running = summarize(Estimates.join(done), pixels, size, **known)
            if progress:
                shards.set_postfix_str(f"{running.mean:.4f} +- {running.stderr:.4f} bits/dim")
            if target is not None and len(running.per_image) >= 30 and running.stderr <= target:
                break
    everything = Estimates.join(done)
    result = summarize(everything, pixels, size, **known)
    told = {"method": repr(chosen), "dequantize": repr(rule), **(notes or {})}
    _write(job.path, result, everything, size, table, {**told, "config": config})
    result.warn()
    return result


def _calibrated(
    model: Predictor,
    images: Tensor,
    layout: Pixels,
    nodes: int,
    settings: LikelihoodSettings,
) -> FixedGrid:
    """A grid for these images; even where the pilot fails, which must not stop the others."""
    pilot = torch.arange(min(len(images), max(2, min(8, len(images) // 50))))
    x = layout.lower_edge(images[pilot]) + 0.5 * layout.width
    given = {name: getattr(settings, name) for name in ("t_min", "divergence", "frame")}
    try:
        return calibrated_grid(model.rows(pilot), x, nodes, **given)
    except NonFiniteError:
        return FixedGrid(nodes)


def _write(
    path: Path,
    result: BitsPerDim,
    found: Estimates,
    size: int,
    table: str,
    more: dict[str, Any],
) -> None:
    unit = 1.0 / (math.log(2) * size * math.sqrt(found.nats.shape[1]))
    columns: dict[str, Any] = {
        "bits_per_dim": result.per_image.cpu().numpy(),
        "stderr": unit * found.stderr.square().mean(1).sqrt().cpu().numpy(),
        "nfe": found.nfe.cpu().numpy(),
    }
    buffer = io.BytesIO()
    if table == "parquet":
        parquet = require("pyarrow.parquet", "parquet")
        parquet.write_table(require("pyarrow", "parquet").table(columns), buffer)
    else:
        np.savez(buffer, **columns)
    write_atomic(path / f"per_image.{table}", buffer.getvalue())
    summary = {
        "bits_per_dim": _known(result.mean),
        "stderr": _known(result.stderr),
        "stderr_of_this_set": _known(result.stderr_of_this_set),
        "parts": {name: _known(value) for name, value in result.parts.items()},
        "images": len(result.per_image),
        "nfe": float(found.nfe.double().mean()),
        "failures": result.failures,
        **more,
    }
    write_atomic(path / "summary.json", json.dumps(summary, indent=1).encode())


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
