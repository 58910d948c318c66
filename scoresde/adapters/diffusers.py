"""Networks of the diffusers library, with what their scheduler says about them.

A scheduler there is two things: the process a network was trained on, and a rule for sampling.
Only the first is taken over. Its time steps, clipping, thresholding, offsets and sigma shifts
belong to the second; here they are the grid's and the solver's business.
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

    The scheduler's table becomes a `DiscreteVPSDE`, whose times are the real-valued indices that
    the network is told; `prediction_type` says what it predicts. A flow-matching scheduler gives
    a `FlowSDE` and a network that is told `num_train_timesteps` times t. Conditions are bound
    under the names of the network's own arguments: `.bind(class_labels=labels)`.

    Where the network has twice as many output channels as input channels, the second half is its
    learned variance, for `Ancestral("learned")`.

    Args:
        unet: the network; or a pipeline, of which the network (`unet` or `transformer`) and the
            scheduler are taken; or a folder that diffusers wrote, of a pipeline (`unet/` or
            `transformer/`, and `scheduler/`) or of a network alone. Weights are read from
            safetensors files only, all of them must be there, and nothing is downloaded.
        scheduler: any diffusers scheduler with a table of betas, or for flow matching. Not
            needed for a pipeline, or a folder with a `scheduler_config.json` in `scheduler/` or
            beside the weights.
        net_dtype: see `ScoreModel`.

    Raises:
        ConfigError: for a scheduler that does not describe such a process, or none at all.
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
            "a network alone does not say what it was trained on; give its scheduler too, such as "
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
    """What a network returns, without the channels after the first `count`."""

    count: int

    def __call__(self, out: Any) -> Tensor:
        """The first channels of a tensor (B, C, ...), or of an object's `.sample`."""
        tensor: Tensor = out if isinstance(out, Tensor) else out.sample
        return tensor[:, : self.count]


def _process(
    scheduler: Any,
) -> tuple[DiscreteVPSDE | FlowSDE, str, str | TimeInput | None]:
    """What a scheduler says of a network: the process, what it predicts, how it knows the time."""
    config, name = getattr(scheduler, "config", {}), type(scheduler).__name__
    predicts = config.get("prediction_type", "epsilon")
    if name in _FLOWS or config.get("use_flow_sigmas") or predicts == "flow_prediction":
        if config.get("invert_sigmas"):
            raise ConfigError(
                f"{name}(invert_sigmas=True) runs time the other way; write ScoreModel(net, "
                "FlowSDE(), predicts='flow', time=..., output=...) as the network was trained"
            )
        return FlowSDE(), "flow", ScaledTime(float(config["num_train_timesteps"]))
    table = getattr(scheduler, "alphas_cumprod", None)
    if table is None or config.get("timestep_type") == "continuous":
        raise ConfigError(
            f"{name} has no table of betas that its network was trained on; give the "
            "DDPMScheduler, DDIMScheduler or flow-matching scheduler of the training, or write "
            "ScoreModel(net, sde, predicts=..., time=...)"
        )
    if predicts not in _PREDICTS:
        raise unknown_name("prediction_type", predicts, _PREDICTS)
    return _from_table(scheduler, table), _PREDICTS[predicts], None


def _from_table(scheduler: Any, table: Tensor) -> DiscreteVPSDE:
    # The product is float32 in diffusers: at the first indices 1 - product has only 3 or 4 digits
    # left, which roughens the log-SNR that solvers differentiate. From betas it has all of them.
    betas = getattr(scheduler, "betas", None)
    if betas is not None:
        betas, product = betas.double().cpu().numpy(), table.double().cpu().numpy()
        # Some schedulers shift the product afterwards; then it is the product that holds.
        if np.allclose(np.cumprod(1 - betas), product, rtol=1e-3, atol=1e-6):
            return DiscreteVPSDE.from_betas(betas)
    return DiscreteVPSDE.from_alphas_cumprod(table)


def _find_scheduler(folder: Path) -> Any:
    """The scheduler of a folder; None where there is none."""
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
            f"{folder} has no weights in safetensors, and pickled ones are not read; write "
            "net.save_pretrained(folder, safe_serialization=True) where you trust the file"
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
    # diffusers goes on with random numbers for what is missing.
    for key, words in (
        ("missing_keys", "are missing"),
        ("mismatched_keys", "have another shape"),
        ("unexpected_keys", "belong to no part of it"),
    ):
        if names := sorted(str(name) for name in report.get(key, ())):
            raise CheckpointError(
                f"the weights in {folder} are not those of its {kind.__name__}: {len(names)} "
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
    """Whatever diffusers raises on the way, in one line."""
    try:
        yield
    except Exception as error:  # of many kinds: safetensors, torch, diffusers' own
        said = " ".join(str(error).split())
        raise CheckpointError(f"cannot read {folder}: {said:.500}") from error
