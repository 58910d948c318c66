"""Bits per dimension of a whole data set, in a folder from which an interrupted job resumes.

    config.json        settings of the job; written first, never changed
    method.json        the grid, if the job calibrated one
    shard-00000.json   estimates for images 0 .. batch_size - 1, and so on
    per_image.npz      bits/dim, standard error and evaluations of each image, written at the end
    summary.json       mean, standard error, parts, configuration, written at the end

A shard is always the same batch with the same seeds, so the result does not depend on
interruptions. After one, at most one batch is computed again.
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
from .._internal.folder import JobFolder, read_sealed
from .._internal.integers import whole_numbers
from .._internal.witness import disagree, identity
from ..errors import ConfigError, NonFiniteError, ShapeError, require
from ..model import Predictor, dtype_of
from ..ode import Backend
from .calibrate import Pilot, calibrated_grid
from .dequantization import Dequantization, Uniform
from .discrete_data import Evaluation, LikelihoodSettings
from .divergence import Divergence
from .end import EndLike
from .error_budget import BitsPerDim, Estimates, summarize
from .fallback import Fallback
from .fixed_grid import FixedGrid
from .frame import Frame
from .frame_estimate import estimate_frame
from .method import Method
from .pixels import EDGES, Pixels

_NODES = (41, 55, 75, 101)
_FOR_FRAME = 10_000  # largest number of images used to estimate the frame


@dataclass(frozen=True)
class _Shards:
    """The finished shards of a job.

    Attributes:
        folder: the folder of the job.
        nodes: number of nodes of the grid that the job calibrates; None if a pilot chooses.
    """

    folder: JobFolder
    nodes: int | None

    def load(self, shard: int, count: int, draws: int, method: str) -> Estimates | None:
        """Read one shard; None if it is missing, damaged, or computed by another method."""
        data = read_sealed(self.folder.path / _name(shard))
        if data is None or data.get("method") != method:
            return None
        try:
            nats, stderr, error = (
                torch.tensor(data[key], dtype=torch.float64) for key in ("nats", "stderr", "error")
            )
            nfe = torch.tensor(data["nfe"], dtype=torch.long)
            failures = {int(place): str(why) for place, why in data["failures"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
            return None
        if any(part.shape != (count, draws) for part in (nats, stderr, error)):
            return None
        return Estimates(nats, stderr, error, nfe, failures) if nfe.shape == (count,) else None

    def save(self, shard: int, found: Estimates, method: str) -> None:
        """Write one shard."""
        data = {
            "nats": found.nats.tolist(),
            "stderr": found.stderr.tolist(),
            "error": found.error.tolist(),
            "nfe": found.nfe.tolist(),
            "failures": found.failures,
            "method": method,
        }
        self.folder.write_json(_name(shard), data)

    def method(self) -> FixedGrid | None:
        """The grid that the job calibrated; None if there is none with this number of nodes."""
        data = read_sealed(self.folder.path / "method.json")
        try:
            grid = data and FixedGrid(
                **{**data, "places": data["places"] and tuple(data["places"])}
            )
        except (ValueError, KeyError, TypeError):
            return None
        return grid if grid and self.nodes in (None, grid.nodes) else None

    def keep_method(self, grid: FixedGrid) -> None:
        """Write the grid."""
        self.folder.write_json("method.json", asdict(grid))


def _name(shard: int) -> str:
    return f"shard-{shard:05d}.json"


def _differs(theirs: dict[str, Any], mine: dict[str, Any]) -> str | None:
    apart = {key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key)}
    if not disagree(theirs.get("witness"), mine.get("witness")):
        apart.discard("witness")
    return f"{', '.join(sorted(apart))} differ" if apart else None


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
    end: EndLike = None,
    frame: Frame | None = None,
    nodes: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    target: float | None = None,
    table: str = "npz",
    key: str | None = None,
    notes: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> BitsPerDim:
    """Bits per dimension of many images, as a job in a folder that can be resumed.

    Image k has the seed `seed + k`. The job can be stopped at any time; the same call resumes it.
    Then at most one batch is computed again, and no image counts twice.

    Args:
        model: the model. Conditions that are bound to it have one row for each image.
        images: integers 0 .. levels-1, shape (N, *).
        folder: an empty or new folder, or that of the same job.
        pixels, dequantize: see `bits_per_dim`.
        t_min, divergence, prior, end: see `log_likelihood`.
        method: the integrator. By default `calibrated_grid` fits a `FixedGrid` once to a pilot of
            the first 2 to 8 images, at about 400 evaluations for each of them. Images whose error
            estimate exceeds 0.002 bits/dim are integrated again by `PerSample()`, see `Fallback`.
        frame: by default `estimate_frame` of the first images, at most 10,000. It affects only the
            accuracy of the result, not its expected value.
        nodes: number of nodes of the grid, which then serves all images. By default the least of
            41 to 101 for which the error estimates of the pilot are below that tolerance.
        batch_size: number of images in a shard. To resume a job, it must be the same.
        seed: seed of dequantization and probes.
        target: stop when the standard error of the mean, in bits/dim, is this small, but not
            before 30 images. The summary states the number of images.
        table: file format of the values of each image, "npz" or "parquet" (which needs pyarrow).
        key: a name for the model. Change it whenever the model changes. It replaces the model's
            fingerprint, if that cannot be computed or is slow to compute.
        notes: JSON-able data to store in the summary.
        progress: show a bar with the running mean and its standard error (needs tqdm).

    Returns:
        The result for the images that are done.

    Raises:
        CheckpointError: if the folder contains other files, or a job with another model, images or
            settings. Nothing in it is changed.
        FingerprintError: if the model has no fingerprint, or one that changes when the model is
            called; write `key=`.
    """
    if method is not None and nodes is not None:
        raise ConfigError(
            f"nodes={nodes!r} is only for the default method, and method={method!r} is given; "
            "leave nodes out, or write method=FixedGrid(nodes=...)"
        )
    rule = dequantize if dequantize is not None else Uniform()
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size!r}")
    if table not in ("npz", "parquet"):
        raise ConfigError(f"table must be 'npz' or 'parquet', got {table!r}")
    if table == "parquet":
        require("pyarrow.parquet", "parquet")  # fails now rather than after the work
    given = LikelihoodSettings(t_min, method, divergence, prior, frame, end)
    Evaluation.of(model, images, pixels, rule, given)  # checks the arguments
    images = whole_numbers(images)
    if len(images) == 0:
        raise ShapeError(f"images must have shape (N, *) with N > 0, got {tuple(images.shape)}")
    middle = model.sde.at(0.5 * (model.sde.t_min + model.sde.t_max))
    config = {
        **identity(model, key, middle, images.shape, dtype=dtype_of(model)),
        "images": fingerprint(images.cpu()),
        "count": len(images),
        "dequantize": fingerprint(rule),
        "method": f"calibrated, {nodes or 'chosen'} nodes"
        if given.method is None
        else fingerprint(given.method),
        "frame": "estimated" if frame is None else fingerprint(frame),
        "batch_size": batch_size,
        "seed": seed,
        **pixels.to_dict(),
        "setting divergence": fingerprint(divergence),
        "setting prior": fingerprint(prior),
        "setting t_min": fingerprint(t_min),
        "setting end": fingerprint(given.end),
    }
    job = JobFolder(Path(folder), "likelihood", config, _differs)
    job.claim()
    shards = _Shards(job, nodes)
    if frame is None and len(images) > 1:
        few = images[:_FOR_FRAME]
        frame = estimate_frame(pixels.lower_edge(few) + 0.5 * pixels.width)
    chosen = given.method
    if chosen is None:
        grid = shards.method()
        if grid is None:
            grid = _calibrated(model, images, pixels, nodes, replace(given, frame=frame))
            shards.keep_method(grid)
        chosen = Fallback(grid) if nodes is None else grid
    settings = replace(given, method=chosen, frame=frame)
    asked = Evaluation.of(model, images, pixels, rule, settings)
    size = images[0].numel()
    seeds = range(seed, seed + len(images))
    known = asked.systematic(model, images, seeds)
    done: list[Estimates] = []
    by = fingerprint(chosen)
    todo: Any = range(math.ceil(len(images) / batch_size))
    if progress:
        todo = require("tqdm.auto", "cli").tqdm(todo, unit="batch")
    for k in todo:
        first, last = k * batch_size, min((k + 1) * batch_size, len(images))
        rows = torch.arange(first, last, device=images.device)
        found = shards.load(k, len(rows), rule.draws, by)
        if found is None:
            found = asked.estimate(model.rows(rows), images[rows], seeds[first:last])
            shards.save(k, found, by)
        done.append(found)
        if progress or target is not None:
            running = summarize(Estimates.join(done), pixels, size, **known)
            if progress:
                todo.set_postfix_str(f"{running.mean:.4f} +- {running.stderr:.4f} bits/dim")
            if target is not None and len(running.per_image) >= 30 and running.stderr <= target:
                break
    everything = Estimates.join(done)
    result = summarize(everything, pixels, size, **known)
    about = {"method": repr(chosen), "dequantize": repr(rule), **(notes or {})}
    _write(
        job.path,
        result,
        everything,
        size,
        table,
        {**about, "config": {key: value for key, value in config.items() if key != "witness"}},
    )
    result.warn()
    return result


def _calibrated(
    model: Predictor,
    images: Tensor,
    layout: Pixels,
    nodes: int | None,
    settings: LikelihoodSettings,
) -> FixedGrid:
    """A grid fitted to the first images, or an even grid if a pilot sample fails."""
    pilot = torch.arange(min(len(images), max(2, min(8, len(images) // 50))))
    x = layout.lower_edge(images[pilot]) + 0.5 * layout.width
    given = {name: getattr(settings, name) for name in ("t_min", "divergence", "frame", "end")}
    try:
        if nodes is not None:
            return calibrated_grid(model.rows(pilot), x, nodes, **given)
        seen = Pilot(model.rows(pilot), x, 2 * _NODES[-1], **given)
    except NonFiniteError:
        return FixedGrid(nodes or _NODES[-1])
    for count in _NODES:
        fitted = seen.grid(count)
        if fitted.stated < Fallback.tol:
            break
    return fitted.grid


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
    """The value, or None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value
