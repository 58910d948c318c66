"""A trained model as one file: safetensors weights with their description in the header.

The description (JSON, under the key "scoresde" of the file's metadata) says all that it takes to
use the weights: network and arguments, process, what is predicted, how the time is told, the
convention of the pixels. One file cannot be separated from its description, and safetensors runs
no code when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import sde as processes
from .. import time_input
from .._internal.files import write_atomic
from ..errors import CheckpointError, ScoreSDEError, require, unknown_name
from ..model import ScoreModel
from ..prediction import Parametrization, PredictsF, parametrization
from . import networks

_KEY = "scoresde"
_FORMAT = 1


class Checkpoint(NamedTuple):
    """A model read from a file, with the description that came with it."""

    model: ScoreModel
    description: dict[str, Any]


def save_model(
    path: str | Path,
    model: ScoreModel,
    *,
    pixels: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model to one safetensors file; an existing file is replaced as a whole.

    Args:
        path: the file, named `*.safetensors` by custom.
        model: with a network of `scoresde.training.networks`.
        pixels: "edges" or "centres" for integer data, None for other data.
        recipe: how it was trained.
        weights: other weights than the network's own, such as their running average.
    """
    description = {
        "network": networks.describe(model.net),
        "sde": model.sde.to_dict(),
        "predicts": _describe_predicts(model.predicts),
        "time": time_input.describe(model.time),
        "pixels": pixels,
        "recipe": dict(recipe) if recipe is not None else None,
        "versions": {"scoresde": _version(), "torch": str(torch.__version__)},
    }
    if weights is None:
        weights = {k.removeprefix("net."): v for k, v in model.state_dict().items()}
    write(path, weights, description)


def load_model(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """The model in a file, in evaluation mode, with its description.

    Raises:
        CheckpointError: for a file that is missing, corrupt, not a scoresde model, or whose
            weights do not fit its description.
    """
    weights, description = read(path, device)
    try:
        net = networks.from_dict(description["network"])
        net.load_state_dict(weights)
        model = ScoreModel(
            net,
            processes.from_dict(description["sde"]),
            predicts=_read_predicts(description["predicts"]),
            time=time_input.from_dict(description["time"]),
        )
    except (KeyError, TypeError, RuntimeError, ScoreSDEError) as error:
        if isinstance(error, ImportError):
            raise
        raise CheckpointError(
            f"{path} does not describe a model that this version can build: {error}"
        ) from error
    return Checkpoint(model.to(device).eval(), description)


def pretrained_names() -> list[str]:
    """Names that `load_pretrained` takes."""
    folder = files("scoresde") / "pretrained"
    return sorted(
        item.name.removesuffix(".safetensors")
        for item in folder.iterdir()
        if item.name.endswith(".safetensors")
    )


def load_pretrained(name: str, device: torch.device | str = "cpu") -> ScoreModel:
    """A network that the package ships, such as "mnist" or "swiss_roll".

    Raises:
        ConfigError: for an unknown name.
    """
    return pretrained(name, device).model


def pretrained(name: str, device: torch.device | str = "cpu") -> Checkpoint:
    """`load_pretrained` with the description of the model."""
    if name not in pretrained_names():
        raise unknown_name("pretrained model", name, pretrained_names())
    with as_file(files("scoresde") / "pretrained" / f"{name}.safetensors") as path:
        return load_model(path, device)


# -- files -------------------------------------------------------------------------------------


def write(path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Tensors and a JSON-able description to one file, through a temporary one beside it."""
    save = require("safetensors.torch", "diffusers").save
    header = json.dumps({"format": _FORMAT, **description}, allow_nan=False)
    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = save(flat, metadata={_KEY: header})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def read(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        CheckpointError: for a file that is missing, corrupt or not written by this library.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"there is no checkpoint {str(path)!r}")
    safetensors = require("safetensors", "diffusers")
    try:
        with safetensors.safe_open(str(path), framework="pt", device=str(device)) as file:
            header = (file.metadata() or {}).get(_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); if it was cut short, copy it again"
        ) from error
    if header is None:
        raise CheckpointError(
            f"{path} is a safetensors file without a scoresde description; load its weights into "
            "your own network and wrap that: ScoreModel(net, sde, predicts=..., time=...)"
        )
    try:
        description = json.loads(header)
    except ValueError as error:
        raise CheckpointError(f"the description in {path} is not JSON: {error}") from error
    if not isinstance(description, dict) or description.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{path} is of a format that this version cannot read")
    return tensors, description


def _version() -> str:
    try:
        return version("scoresde")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _describe_predicts(predicts: Parametrization) -> Any:
    if isinstance(predicts, PredictsF):
        return {"F": predicts.sigma_data}
    for name in ("eps", "x0", "score", "v", "flow"):
        if parametrization(name) == predicts:
            return name
    raise CheckpointError(f"{predicts!r} is not one of scoresde's parametrizations")


def _read_predicts(data: Any) -> str | Parametrization:
    return PredictsF(float(data["F"])) if isinstance(data, dict) else str(data)
