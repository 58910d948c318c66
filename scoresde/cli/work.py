"""The commands `scoresde sample`, `nll` and `info`."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import tune as tuning
from .._internal import specs
from .._internal.fingerprint import fingerprint
from .._internal.integers import tensor_of
from .._internal.labels import short
from ..bench import METRICS, environment
from ..bench.named_metrics import ALIASES
from ..errors import ConfigError, ShapeError, require
from ..grid import Grid
from ..likelihood import AccuracyWarning, Hutchinson, Pixels, Uniform, nll_dataset
from ..likelihood.inputs import check_method, methods
from ..model import Predictor
from ..sampling.choose import DEFAULT, choose, grid_for
from ..sampling.jobs import sample_many
from ..solvers.legs import evaluations
from ..solvers.solver import Solver
from ..training.checkpoint import pretrained_names
from ..training.data import heldout_digits
from . import models

_PREVIEW = 64  # images
_POINTS = 4096  # of the plane


def sample(
    *,
    model: str,
    out: Path,
    n: int,
    solver: str,
    grid: str,
    nfe: int | None,
    seed: int,
    batch_size: int,
    dtype: str,
    event_shape: str,
    process: str,
    device: str,
) -> None:
    """`scoresde sample`."""
    found = models.load(model, process=process, device=check_device(device))
    rule, knots = _choose(solver, grid, found.model, nfe)
    job = sample_many(
        found.model,
        rule,
        knots,
        out,
        event_shape=shape_of_event(event_shape, found),
        seeds=range(seed, seed + n),
        batch_size=batch_size,
        dtype=getattr(torch, dtype),
        device=device,
        notes={"model": model, "solver": solver, "grid": grid},
        progress=True,
    )
    cost = np.mean([np.mean(job.info(k)["nfe"]) for k in range(job.shards)])
    failed = sum(len(job.info(k)["failures"]) for k in range(job.shards))
    said = f"{n} samples of {specs.describe(rule)}, {cost:.0f} network evaluations each, in {out}"
    name = solver if not solver.endswith(".json") else Path(solver).stem
    title = f"{short(name)}, {cost:.0f} NFE"
    first = next(iter(job))[:_PREVIEW]
    if first.ndim == 4 and first.shape[1] in (1, 3):
        from ..bench import figures

        figures.sample_grids({title: first}, out / "samples.png")
        said += ", with samples.png"
    if first.shape[1:] == (2,):
        from ..bench import figures

        drawn = torch.cat(list(islice(job, math.ceil(_POINTS / batch_size))))[:_POINTS]
        figures.scatter(drawn, out / "samples.png", title=title)
        said += ", with samples.png"
        if hasattr(found.model, "log_prob"):
            figures.log_density_map(
                found.model, out / "density.png", samples=drawn, title="samples on log-density"
            )
            said += " and density.png"
    print(said + (f"; {failed} are not finite (see the .json files)" if failed else ""))


def nll(
    *,
    model: str,
    data: str,
    n: int,
    out: Path | None,
    target: float | None,
    levels: int,
    pixels: str,
    probes: int,
    draws: int,
    method: str,
    nodes: int | None,
    t_min: float | None,
    batch_size: int,
    seed: int,
    table: str | None,
    process: str,
    device: str,
) -> None:
    """`scoresde nll`."""
    if method and nodes is not None:
        raise ConfigError(
            f"--nodes {nodes} is only for the default method, and --method {method} is given; "
            f"leave one out, or write --method 'FixedGrid(nodes={nodes})'"
        )
    if table is not None and out is None:
        raise ConfigError(f"--table {table} is written to --out; write --out FOLDER as well")
    rule, table = check_method(method, own=True) if method else None, table or "npz"
    found = models.load(model, process=process, device=check_device(device))
    trained = found.description.get("pixels")
    if trained is not None and trained != pixels:
        raise ConfigError(
            f"this model was trained on pixels in the {trained!r} convention, not {pixels!r}; "
            f"write --pixels {trained}"
        )
    images = read_images(data)[:n]
    if found.event_shape is not None and tuple(images.shape[1:]) != found.event_shape:
        raise ShapeError(
            f"the images have shape {tuple(images.shape[1:])}, the model needs {found.event_shape}"
        )
    low = found.model.sde.t_min if t_min is None else t_min
    with TemporaryDirectory() as spare, warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)  # printed below, with options to write
        bits = nll_dataset(
            found.model,
            images.to(device),
            out or Path(spare) / "nll",
            pixels=Pixels(levels, pixels),
            dequantize=Uniform(draws=draws),
            method=rule,
            nodes=nodes,
            batch_size=batch_size,
            seed=seed,
            target=target,
            table=table,
            t_min=t_min,
            divergence=Hutchinson(probes),
            notes={
                "model": model,
                "data": data,
                "probes": probes,
                "t_min": low,
                "environment": environment(),
            },
            progress=True,
        )
    print(bits)
    print(f"standard error from {_listed(bits.standard_errors)}")
    print(f"systematic: {_listed(bits.systematic)}")
    print(f"{len(bits.per_image)} images at t = {low:g}, {bits.pixels}")
    for place, why in bits.failures.items():
        print(f"image {place} failed: {why}")
    for doubt in bits.doubts:
        print(f"{doubt}; write --nodes {2 * (nodes or 41) - 1}, or --method 'PerSample(tol=1e-4)'")
    if out is not None:
        print(f"wrote {out / f'per_image.{table}'} and {out / 'summary.json'}")


def info(model: str, process: str) -> None:
    """`scoresde info`."""
    console = require("rich.console", "cli").Console()
    if process and not model:
        raise ConfigError(
            f"--process {process} needs a closed-form problem; write scoresde info ring8 "
            f"--process {process!r}"
        )
    if about := _about(model):
        print(about)
        return
    if model:
        found = models.load(model, process=process)
        console.print(found.model.sde)
        console.print({"event shape": found.event_shape, "fingerprint": fingerprint(found.model)})
        console.print(found.description)
        return
    table = require("rich.table", "cli").Table(box=None, show_header=False)
    rows: dict[str, Any] = {
        "networks": pretrained_names(),
        "problems": models.PROBLEMS,
        "solvers": specs.SOLVERS,
        "grids": specs.GRIDS,
        "processes": specs.PROCESSES,
        "methods of nll": methods(),
        "metrics": METRICS,
        "also known": [
            f"{name} = {meant}" for name, meant in (*specs.ALIASES.items(), *ALIASES.items())
        ],
    }
    for name, values in rows.items():
        table.add_row(f"[bold]{name}[/]", ", ".join(values))
    for name in ("scoresde", "torch", "torchdiffeq", "scipy", "diffusers", "matplotlib", "POT"):
        table.add_row(f"[bold]{name}[/]", _version(name))
    console.print(table)


def _about(name: str) -> str:
    """A solver, grid, process or method with its arguments and docstring; "" for other names."""
    tables = {
        "solver": specs.SOLVERS, "grid": specs.GRIDS, "process": specs.PROCESSES,
        "method": methods(),
    }  # fmt: skip
    meant = specs.ALIASES.get(name.lower(), name)
    for what, table in tables.items():
        for known, found in table.items():
            if known.lower() == meant.partition("(")[0].strip().lower():
                also = f"{name} is {meant}\n" if meant != name else ""
                doc = inspect.getdoc(found) or ""
                return f"{also}{what} {known}{_arguments(found, what)}\n\n{doc}"
    return ""


def _arguments(found: Callable[..., Any], what: str) -> str:
    """The arguments that can be written on the command line, with their defaults."""
    given = 2 if what == "grid" else 0
    parameters = list(inspect.signature(found).parameters.values())[given:]
    plain = [p.replace(annotation=p.empty, kind=p.KEYWORD_ONLY) for p in parameters]
    return f"({', '.join(map(str, plain))})"


# -- shared with the other commands ------------------------------------------------------------


def _choose(solver: str, grid: str, model: Predictor, nfe: int | None) -> tuple[Solver, Grid]:
    """A solver with its grid: from a file written by `tune`, or made for the budget.

    The file can be given as solver or as grid. As a grid, it can be used with another solver.
    """
    if solver.endswith(".json"):
        if grid:
            raise ConfigError(f"{solver} contains its own grid; leave --grid {grid} out")
        solver, grid = "recommended", solver
    sde, both = model.sde, specs.is_pair(solver)
    if grid.endswith(".json"):
        rule, knots = tuning.load(grid, model, None if both else specs.solver(solver, own=True))
    elif grid:
        budget = DEFAULT if nfe is None else nfe
        rule = specs.pair(solver)(model, budget)[0] if both else specs.solver(solver, own=True)
        knots = grid_for(rule, specs.grid(grid, own=True), sde, budget)
    else:
        given = solver if both else specs.solver(solver, own=True)
        rule, knots = choose(model, given, None, nfe)
    cost = evaluations(rule, knots)
    if nfe in (None, cost):
        return rule, knots
    if grid.endswith(".json"):
        raise ConfigError(
            f"{grid} has a grid of {cost} evaluations, not {nfe}; leave --nfe out, or tune another "
            f"grid: scoresde tune MODEL --solver {solver!r} --nfe {nfe} --out FILE"
        )
    print(f"{solver} takes {cost} evaluations on this grid, the largest number within {nfe}")
    return rule, knots


def shape_of_event(text: str, found: models.Named) -> tuple[int, ...]:
    """The shape of one sample: as given, or the model's own.

    Raises:
        ConfigError: if neither is known, or the text is not a list of whole numbers.
        ShapeError: if the given shape differs from the model's own.
    """
    if not text:
        if found.event_shape is None:
            raise ConfigError(
                "the shape of a sample is not known; write --event-shape 3,32,32, or "
                "--event-shape 2 for vectors of two numbers"
            )
        return found.event_shape
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--event-shape must be whole numbers such as 3,32,32, got {text!r}"
        ) from None
    if min(shape) < 1 or found.event_shape not in (None, shape):
        known = found.event_shape or (3, 32, 32)
        raise ShapeError(
            f"--event-shape {text} cannot be the shape of a sample; write --event-shape "
            f"{','.join(map(str, known))}" + (", or leave it out" if found.event_shape else "")
        )
    return shape


def read_images(spec: str) -> Tensor:
    """Read an array from a file: images (N, C, H, W), or other data (N, *).

    Raises:
        ConfigError: for a file that cannot be read, or a field that is not in it.
    """
    if spec == "heldout":
        return heldout_digits()[0]
    file, _, name = spec.partition(":") if ".npz" in spec else (spec, "", "")
    try:
        loaded = np.load(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot read {file!r} as arrays; write images.npy, archive.npz:field or heldout"
        ) from error
    if not isinstance(loaded, np.ndarray):
        if name not in loaded:
            raise ConfigError(f"{file} has the fields {sorted(loaded)}; write {file}:FIELD")
        loaded = loaded[name]
    images = tensor_of(loaded)
    return images.unsqueeze(1) if images.ndim == 3 else images


def _listed(parts: dict[str, float]) -> str:
    known = [f"{name} {value:.2g}" for name, value in parts.items() if value == value]
    return ", ".join(known) or "nothing that is known"


def check_device(device: str) -> str:
    """The device, if this build of torch can use it.

    Raises:
        ConfigError: if it cannot; the message lists the devices.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        have = ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]
        raise ConfigError(
            f"cannot use device {device!r} (there is {', '.join(have)}): {str(error)[:80]}"
        ) from error
    return device


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
