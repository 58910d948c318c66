"""A trained model as one file: safetensors weights with a description in the header.

The description is JSON, under the key "scoresde" of the file's metadata. It has all that is needed
to use the weights: network and arguments, process, what the output means, the time input, and the
pixel convention. Weights and description cannot be separated, since they are in one file. Reading
a safetensors file runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import prediction, time_input
from .. import sde as processes
from .._internal.files import parse_json, write_atomic
from .._internal.plain_data import from_plain, to_plain
from ..adapters.diffusers import FirstChannels
from ..errors import CheckpointError, ConfigError, ScoreSDEError, require, unknown_name
from ..model import LearnedRange, ScoreModel, _plain_output
from ..sde import SDE
from . import networks

_KEY = "scoresde"
_FORMAT = 1
_OUTPUTS = (LearnedRange, FirstChannels)


class Checkpoint(NamedTuple):
    """A model read from a file, with the file's description."""

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

    A process, parametrization, time convention or output of your own class is stored as the name of
    the class and its fields; give the class to `load_model`. Of a network of your own, only the
    weights are stored; give the network to `load_model`.

    Args:
        path: the file, usually named `*.safetensors`.
        model: a model whose network is a module, without bound conditions.
        pixels: "edges" or "centres" for integer data, None for other data.
        recipe: how the model was trained.
        weights: weights to store instead of the network's own, such as their running average.

    Raises:
        ConfigError: for a part that cannot be stored; the message says what to write instead.
    """
    if model.conditions:
        raise ConfigError(
            f"conditions cannot be stored in a model's file, and this model is bound to "
            f"{sorted(model.conditions)}; save the model before bind(...)"
        )
    if not isinstance(model.net, nn.Module):
        raise ConfigError(
            "a network that is a function has no weights to save; write it as a torch.nn.Module"
        )
    description = {
        "network": _describe_network(model.net),
        "sde": model.sde.to_dict(),
        "predicts": prediction.to_dict(model.predicts),
        "time": time_input.to_dict(model.time),
        "output": _describe_output(model.output),
        "pixels": pixels,
        "recipe": dict(recipe) if recipe is not None else None,
        "versions": {"scoresde": _version(), "torch": str(torch.__version__)},
    }
    if weights is None:
        weights = {k.removeprefix("net."): v for k, v in model.state_dict().items()}
    write(path, weights, description)


def load_model(
    path: str | Path,
    device: torch.device | str = "cpu",
    *,
    net: nn.Module | None = None,
    known: Sequence[type] = (),
) -> Checkpoint:
    """Load a model from a file, in evaluation mode, with its description.

    Args:
        path: the file. It is data: nothing that it names is imported or run.
        device: device of the model.
        net: a network of your own, into which the weights are loaded. It is required if the model
            was saved with such a network. Otherwise the description determines the network.
        known: your own classes of the process, the parametrization, the time convention or the
            output.

    Raises:
        CheckpointError: if the file is missing, corrupt or not a scoresde model, if its weights do
            not fit its description, or if it names a class that is neither the library's nor in
            `known`.
    """
    weights, description = read(path, device)
    try:
        if net is None:
            if "own" in description["network"]:
                raise ConfigError(
                    f"its network {description['network']['own']!r:.200} is not the library's; "
                    f"build the network and write load_model({str(path)!r}, net=...)"
                )
            net = networks.from_dict(description["network"])
        net.load_state_dict(weights)
        output = description.get("output")
        model = ScoreModel(
            net,
            processes.from_dict(description["sde"], known=_of(SDE, known)),
            predicts=prediction.from_dict(description["predicts"], known=known),
            time=time_input.from_dict(description["time"], known=known),
            output=None if output is None else from_plain("output", output, [*_OUTPUTS, *known]),
        )
    except (KeyError, TypeError, RuntimeError, ScoreSDEError) as error:
        if isinstance(error, ImportError):
            raise
        said = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"{path} does not describe a model that this version can build: {said}; for classes "
            "of your own, write load_model(path, known=(MyClass,))"
        ) from error
    return Checkpoint(model.to(device).eval(), description)


def pretrained_names() -> list[str]:
    """Names of the networks that `load_pretrained` can load."""
    folder = files("scoresde") / "pretrained"
    return sorted(
        item.name.removesuffix(".safetensors")
        for item in folder.iterdir()
        if item.name.endswith(".safetensors")
    )


def load_pretrained(name: str, device: torch.device | str = "cpu") -> ScoreModel:
    """Load a network that the package ships, such as "mnist" or "swiss_roll".

    Raises:
        ConfigError: for an unknown name.
    """
    return pretrained(name, device).model


def pretrained(name: str, device: torch.device | str = "cpu") -> Checkpoint:
    """Load a shipped network together with its description."""
    if name not in pretrained_names():
        raise unknown_name("pretrained model", name, pretrained_names())
    with as_file(files("scoresde") / "pretrained" / f"{name}.safetensors") as path:
        return load_model(path, device)


# -- files -------------------------------------------------------------------------------------


def write(path: str | Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write tensors and a JSON-able description to one file, which is replaced as a whole."""
    save = require("safetensors.torch", "diffusers").save
    header = json.dumps({"format": _FORMAT, **description}, allow_nan=False)
    flat = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = save(flat, metadata={_KEY: header})
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)


def read(
    path: str | Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the description that `write` wrote.

    Raises:
        CheckpointError: if the file is missing, corrupt or not written by this library.
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
            f"{path} is not a complete safetensors file ({error}); if it is truncated, copy it "
            "again"
        ) from error
    if header is None:
        raise CheckpointError(
            f"{path} is a safetensors file without a scoresde description; load its weights into "
            "your own network and wrap that: ScoreModel(net, sde, predicts=..., time=...)"
        )
    description = parse_json(header, f"the description in {path}")
    if description.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{path} has a format that this version cannot read")
    return tensors, description


def _version() -> str:
    try:
        return version("scoresde")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"


def _describe_network(net: nn.Module) -> dict[str, Any]:
    if type(net) in networks.KINDS:
        return networks.to_dict(net)
    return {"own": type(net).__name__}


def _describe_output(output: object) -> Any:
    if output is _plain_output:
        return None
    if not is_dataclass(output):
        raise ConfigError(
            f"the output {output!r} has no JSON form; write it as a frozen dataclass with "
            "__call__(self, out), as LearnedRange is"
        )
    return to_plain(output)


def _of(kind: type, known: Sequence[type]) -> list[type]:
    return [each for each in known if issubclass(each, kind)]
