"""Load models by their names on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import FunctionType, MappingProxyType
from typing import Any

from .._internal import specs
from ..adapters.diffusers import from_diffusers
from ..errors import ConfigError, unknown_name
from ..exact import problems
from ..model import Predictor, ScoreModel, event_shape_of
from ..training.checkpoint import Checkpoint, load_model, pretrained, pretrained_names

PROCESS = "VPSDE(t_min=1e-5)"
PROBLEMS: specs.Table = MappingProxyType(
    {
        name: value
        for name, value in vars(problems).items()
        if isinstance(value, FunctionType)
        and not name.startswith("_")
        and next(iter(signature(value).parameters)) == "sde"
    }
)
"""Closed-form problems: functions of a process."""


@dataclass(frozen=True, eq=False)
class Named:
    """A model with a description of its data.

    Attributes:
        model: the model.
        event_shape: shape of one sample, without the batch; None if it is not known.
        description: the description in its file.
    """

    model: Predictor
    event_shape: tuple[int, ...] | None
    description: dict[str, Any]


def load(spec: str, *, process: str = "", device: str = "cpu") -> Named:
    """Load a model by its name.

    Args:
        spec: a shipped network ("mnist"), a checkpoint (`run/model.safetensors`), a folder written
            by diffusers, a closed-form problem ("ring8", "ring8(seed=3)"), or your own model or
            function that makes one, `package.module:name` or `path/to/file.py:name`.
        process: process of a closed-form problem; `PROCESS` by default.
        device: device of the model.

    Raises:
        ConfigError: for a name of no model, or a process for a model that has its own.
    """
    if spec.partition("(")[0] in PROBLEMS:
        make = specs.partial("problem", spec, PROBLEMS, given=1)
        model = make(specs.process(process or PROCESS, own=True)).to(device)
        return Named(model, tuple(model.event_shape), {"problem": spec})
    found = _other(spec, device)
    if process:
        raise ConfigError(
            f"--process is only for closed-form problems; {spec} has its own process, "
            f"{found.model.sde!r}; leave --process out"
        )
    return found


def _other(spec: str, device: str) -> Named:
    path = Path(spec)
    if spec in pretrained_names():
        return _of_checkpoint(pretrained(spec, device))
    if path.suffix == ".safetensors":
        return _of_checkpoint(load_model(path, device))
    if path.is_dir():
        return _of_network(from_diffusers(path).to(device).eval())
    if ":" in spec:
        return _of_network(_own(spec, device))
    raise unknown_name(
        "model",
        spec,
        [*pretrained_names(), *PROBLEMS, "file.safetensors", "folder of diffusers", "module:name"],
    )


def _of_checkpoint(found: Checkpoint) -> Named:
    network = found.description["network"]
    if "size" in network:
        shape: tuple[int, ...] | None = (
            int(network["channels"]),
            int(network["size"]),
            int(network["size"]),
        )
    else:
        shape = (int(network["dim"]),) if "dim" in network else None
    return Named(found.model, shape, found.description)


def _of_network(model: Any) -> Named:
    if not isinstance(model, Predictor):
        raise ConfigError(
            f"{model!r} is not a model; wrap the network: ScoreModel(net, sde, predicts=..., "
            "time=...)"
        )
    shape = event_shape_of(model)
    config = getattr(getattr(model, "net", None), "config", {})
    if shape is None and "in_channels" in config and isinstance(config.get("sample_size"), int):
        shape = (config["in_channels"], config["sample_size"], config["sample_size"])
    return Named(model, shape, {"class": type(model).__name__})


def _own(spec: str, device: str) -> Any:
    """A user's model, or the result of a user's function."""
    found = specs.lookup("model", spec, {}, own=True)
    if isinstance(found, type) or not isinstance(found, Predictor):
        if not callable(found):
            raise ConfigError(
                f"{spec!r} is {found!r}; it must be a model, or a function that returns one"
            )
        found = found()
    return found.to(device).eval() if isinstance(found, ScoreModel) else found
