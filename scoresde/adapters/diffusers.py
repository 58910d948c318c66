"""Models from networks of the diffusers library and their schedulers.

A scheduler of diffusers is two things: the process on which a network was trained, and a rule for
sampling. Only the process is used here. Time steps, clipping, thresholding, offsets and sigma
shifts belong to the rule for sampling; here the grid and the solver define that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .._internal.files import read_json
from ..errors import CheckpointError, ConfigError, require, unknown_name
from ..model import LearnedRange, ScoreModel, WithVariance
from ..sde import DiscreteVPSDE, FlowSDE
from ..time_input import ScaledTime, TimeInput

_PREDICTS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_PARTS = ("unet", "transformer")
_NETWORK, _SCHEDULER = "config.json", "scheduler_config.json"
_FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def from_diffusers(
    unet: Any,
    scheduler: Any = None,
    *,
    net_dtype: torch.dtype | None = None,
) -> ScoreModel:
    """A diffusers network, such as a `UNet2DModel`, as a `ScoreModel`.

    The scheduler's table becomes a `DiscreteVPSDE`, and the network receives its time, the
    real-valued index. `prediction_type` defines what the network predicts. A flow-matching
    scheduler gives a `FlowSDE`, and the network receives `num_train_timesteps` times t. Bind
    conditions by the names of the network's own arguments: `.bind(class_labels=labels)`.

    If the network has twice as many output channels as input channels, the second half is its
    learned variance, for `Ancestral("learned")`.

    Args:
        unet: the network; or a pipeline, which gives the network (`unet` or `transformer`) and the
            scheduler; or a folder written by diffusers, of a pipeline (`unet/` or `transformer/`,
            and `scheduler/`) or of a network alone. Weights are read only from safetensors files.
            All weights must exist; nothing is downloaded.
        scheduler: any diffusers scheduler with a table of betas, or for flow matching. Not
            needed for a pipeline, or a folder with a `scheduler_config.json` in `scheduler/` or
            beside the weights.
        net_dtype: see `ScoreModel`.

    Raises:
        ConfigError: without a scheduler, or for one that describes neither such process.
        CheckpointError: for a folder without a network, without safetensors weights, with weights
            that are missing or of another network, or with a configuration of another kind.
        MissingExtraError: if diffusers is needed to read a folder and is not installed.
    """
    if isinstance(unet, str | os.PathLike):
        folder = Path(unet)
        if scheduler is None:
            scheduler = _find_scheduler(folder)
        unet = _load_network(folder)
    elif not isinstance(unet, nn.Module) and hasattr(unet, "scheduler"):
        scheduler = unet.scheduler if scheduler is None else scheduler
        unet = next((net for part in _PARTS if (net := getattr(unet, part, None))), None)
    if not callable(unet):
        raise ConfigError(
            f"there is no network in {type(unet).__name__}: expected a network, a pipeline with "
            "one as its unet or transformer, or a folder of either"
        )
    if scheduler is None:
        raise ConfigError(
            "the process of a network alone is not known; give its scheduler too, such as "
            "from_diffusers(unet, DDPMScheduler(beta_schedule='linear')), or the whole pipeline"
        )
    sde, predicts, time = _process(scheduler)
    config = getattr(unet, "config", {})
    if config.get("time_embedding_type") == "learned":
        time = "index"  # an embedding table takes whole numbers only
    channels = int(config.get("in_channels", 0))
    output: Callable[[Any], Tensor | WithVariance] | None = None
    if channels > 0 and config.get("out_channels") == 2 * channels:
        # "learned" is a variance itself, in units of the scheduler's own steps.
        own = getattr(scheduler, "config", {}).get("variance_type") == "learned"
        output = FirstChannels(channels) if own else LearnedRange()
    return ScoreModel(
        unet,
        sde,
        predicts=predicts,
        time=time,
        output=output,
        net_dtype=net_dtype,
    )


@dataclass(frozen=True)
class FirstChannels:
    """The `output` that keeps the first `count` channels of what a network returns."""

    count: int

    def __call__(self, out: Any) -> Tensor:
        """The first channels of a tensor (B, C, ...), or of an object's `.sample`."""
        tensor: Tensor = out if isinstance(out, Tensor) else out.sample
        return tensor[:, : self.count]


def _process(
    scheduler: Any,
) -> tuple[DiscreteVPSDE | FlowSDE, str, str | TimeInput | None]:
    """The process, parametrization and time convention of a scheduler's network."""
    config, name = getattr(scheduler, "config", {}), type(scheduler).__name__
    predicts = config.get("prediction_type", "epsilon")
    if name in _FLOWS or config.get("use_flow_sigmas") or predicts == "flow_prediction":
        if config.get("invert_sigmas"):
            raise ConfigError(
                f"{name}(invert_sigmas=True) reverses time; write ScoreModel(net, "
                "FlowSDE(), predicts='flow', time=..., output=...) as the network was trained"
            )
        return FlowSDE(), "flow", ScaledTime(float(config["num_train_timesteps"]))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or config.get("timestep_type") == "continuous":
        raise ConfigError(
            f"{name} does not have the table of betas on which its network was trained; give the "
            "DDPMScheduler, DDIMScheduler or flow-matching scheduler of the training, or write "
            "ScoreModel(net, sde, predicts=..., time=...)"
        )
    if predicts not in _PREDICTS:
        raise unknown_name("prediction_type", predicts, _PREDICTS)
    return _from_table(scheduler, table), _PREDICTS[predicts], None


def _from_table(scheduler: Any, table: Tensor) -> DiscreteVPSDE:
    # The product is float32 in diffusers: at the first indices 1 - product has only 3 or 4 correct
    # digits, so the log-SNR would not be smooth. Computed from the betas it has all digits.
    betas = getattr(scheduler, "betas", None)
    if betas is not None:
        betas, product = betas.double().cpu().numpy(), table.double().cpu().numpy()
        # Some schedulers change the product afterwards; then the product is used.
        if np.allclose(np.cumprod(1 - betas), product, rtol=1e-3, atol=1e-6):
            return DiscreteVPSDE.from_betas(betas)
    return DiscreteVPSDE.from_alphas_cumprod(table)


def _find_scheduler(folder: Path) -> Any:
    """The scheduler of a folder, or None."""
    for place in (folder / "scheduler", folder):
        if (place / _SCHEDULER).is_file() or (place.name == "scheduler" and place.is_dir()):
            kind = _class_in(place, _SCHEDULER, "SchedulerMixin", "a scheduler")
            with _reading(place):
                return kind.from_pretrained(str(place), local_files_only=True)
    return None


def _load_network(folder: Path) -> nn.Module:
    for part in _PARTS:
        if (folder / part).is_dir():
            folder = folder / part
            break
    kind = _class_in(folder, _NETWORK, "ModelMixin", "a network")
    if not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} has no weights in safetensors, and pickled weights are not loaded; if you "
            "trust the file, write net.save_pretrained(folder, safe_serialization=True)"
        )
    with _reading(folder):
        network: nn.Module
        network, report = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            low_cpu_mem_usage=False,  # it needs accelerate
            output_loading_info=True,
        )
    # diffusers would use random numbers for missing weights.
    for key, words in (
        ("missing_keys", "are missing"),
        ("mismatched_keys", "have another shape"),
        ("unexpected_keys", "belong to no part of it"),
    ):
        if names := sorted(str(name) for name in report.get(key, ())):
            raise CheckpointError(
                f"the weights in {folder} do not fit its {kind.__name__}: {len(names)} "
                f"{words}, such as {names[0]}; copy the folder again, or check its {_NETWORK}"
            )
    return network


def _class_in(folder: Path, config: str, base: str, what: str) -> Any:
    """The class of diffusers that a folder names in its configuration."""
    if not (folder / config).is_file():
        raise CheckpointError(
            f"{folder / config} does not exist; expected a folder written by save_pretrained "
            "(download one from the Hub with huggingface_hub.snapshot_download)"
        )
    name = read_json(folder / config).get("_class_name")
    diffusers = require("diffusers", "diffusers")
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not isinstance(kind, type) or not issubclass(kind, getattr(diffusers, base)):
        raise CheckpointError(
            f"{folder / config} is the configuration of {name!r:.200}, which is not {what} of "
            "diffusers"
        )
    return kind


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Turn any error that diffusers raises while reading into a CheckpointError of one line."""
    try:
        yield
    except Exception as error:  # of many kinds: safetensors, torch, diffusers' own
        said = " ".join(str(error).split())
        raise CheckpointError(f"cannot read {folder}: {said:.500}") from error
