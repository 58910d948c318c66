"""Training by recipe: one loop, with exact resume.

A recipe is a frozen value that is also a JSON file. Step k draws its batch, noise and times from a
generator whose seed depends only on (seed, k), so no state of a generator needs to be saved. A run
that was interrupted ends with bitwise the same weights as a run that was not (on the same machine,
with the same number of threads).
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from .. import noise, time_input
from .. import sde as processes
from .._internal.checks import check_kind
from .._internal.files import parse_json, read_json
from ..errors import CheckpointError, ConfigError, NonFiniteError, unknown_name
from ..model import ScoreModel
from . import losses, networks
from .checkpoint import load_model, read, save_model, write
from .data import MOST_SAMPLES, Dataset, from_recipe

_LOG_EVERY = 50


@dataclass(frozen=True)
class Recipe:
    """Settings that, with the data, determine the weights of a network.

    Attributes:
        name: name of the recipe.
        data: the training set; see `scoresde.training.data.from_recipe`.
        network: the network; see `scoresde.training.networks.from_dict`.
        sde: the process; see `scoresde.sde.from_dict`.
        predicts: what the network's output means.
        time: the network's time input: a name such as "log_rho", or see
            `scoresde.time_input.from_dict`.
        weighting, times: weighting of the loss, and distribution of training times; see
            `scoresde.training.losses.from_dict`.
        steps: total number of updates.
        batch_size: number of samples in each step.
        lr: learning rate of Adam (beta 0.9, 0.99).
        warmup: number of first steps, in which the learning rate rises linearly to `lr`.
        decay: number of last steps, in which it falls to 0 along half a cosine: 0 for a constant
            rate, `steps` for the plain cosine schedule.
        ema: decay of the running average of the weights; the trained model has the average.
        clip: largest norm of the gradient.
        dropout: share of labels that training replaces by "no class", for classifier-free
            guidance; only for data with labels.
        pixels: the pixel convention stored with the weights, "edges" for dequantized images.
        seed: seed of all randomness.
    """

    name: str
    data: dict[str, Any]
    network: dict[str, Any]
    sde: dict[str, Any]
    time: dict[str, Any] | str
    weighting: dict[str, Any]
    times: dict[str, Any]
    predicts: str = "eps"
    steps: int = 10_000
    batch_size: int = 128
    lr: float = 1e-3
    warmup: int = 200
    decay: int = 0
    ema: float = 0.999
    clip: float = 1.0
    dropout: float = 0.0
    pixels: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():
            value = getattr(self, name)
            kinds = get_args(kind) or (kind,) if get_origin(kind) is not dict else (dict,)
            kinds = tuple(get_origin(each) or each for each in kinds)
            fits = isinstance(value, int | float) if kind is float else isinstance(value, kinds)
            if not fits or (isinstance(value, bool) and kind in (int, float)):
                names = " or ".join(each.__name__ for each in kinds)
                raise ConfigError(f"{name} of a recipe must be {names}, got {value!r:.200}")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(f"a recipe needs {name} >= 1, got {getattr(self, name)!r}")
        if self.seed < 0 or self.seed >> 63:
            raise ConfigError(f"a recipe needs a seed from 0 upwards, got {self.seed}")
        if self.batch_size > MOST_SAMPLES:
            raise ConfigError(
                f"a recipe has a batch_size of at most {MOST_SAMPLES:,}, got {self.batch_size}"
            )
        if not (self.lr > 0 and self.clip > 0 and 0.0 <= self.ema < 1.0):
            raise ConfigError(
                f"a recipe needs lr > 0, clip > 0 and 0 <= ema < 1, got lr={self.lr!r}, "
                f"clip={self.clip!r}, ema={self.ema!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON-able data."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that `to_dict` wrote.

        Raises:
            ConfigError: for an unknown or missing field.
        """
        known = {item.name for item in fields(cls)}
        for name in data:
            if name not in known:
                raise unknown_name("field of a recipe", name, known)
        try:
            return cls(**data)
        except TypeError as error:
            raise ConfigError(f"the recipe is not complete: {error}") from error

    def learning_rate(self, step: int) -> float:
        """The learning rate of update number `step`, counted from 0."""
        rate = self.lr * min(1.0, (step + 1) / max(self.warmup, 1))
        done = (step - (self.steps - self.decay)) / max(self.decay, 1)
        return rate * 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))

    def build(self) -> ScoreModel:
        """The untrained model, with initial weights from the seed."""
        return ScoreModel(
            networks.from_dict(self.network, self.seed),
            processes.from_dict(self.sde),
            predicts=self.predicts,
            time=time_input.from_dict(self.time),
        )


def load_recipe(path_or_name: str | Path) -> Recipe:
    """Load a recipe of the package ("mnist", "swiss_roll") or from a JSON file.

    Raises:
        ConfigError: for an unknown name, or a file that is not a recipe.
        CheckpointError: for a file that is not JSON.
    """
    folder = files("scoresde") / "recipes"
    names = {item.name.removesuffix(".json") for item in folder.iterdir()}
    if str(path_or_name) in names:
        data = parse_json((folder / f"{path_or_name}.json").read_bytes(), f"recipe {path_or_name}")
    elif Path(path_or_name).is_file():
        data = read_json(path_or_name)
    else:
        raise unknown_name("recipe (not a file either)", path_or_name, names)
    try:
        return Recipe.from_dict(data)
    except ConfigError as error:
        raise ConfigError(f"{path_or_name} is not a recipe: {error}") from error


def train_from_recipe(
    path_or_name: str | Path,
    *,
    data: str | Path | None = None,
    folder: str | Path,
    steps: int | None = None,
    device: torch.device | str | None = None,
) -> ScoreModel:
    """Train a network from a recipe, or resume a run.

    Args:
        path_or_name: see `load_recipe`.
        data: the npz file, for recipes that train on images.
        folder: folder of the run; an interrupted run is resumed.
        steps: total number of updates, instead of the recipe's.
        device: by default CUDA if it is available.

    Returns:
        The model with averaged weights, which is also in `folder/model.safetensors`.
    """
    recipe = load_recipe(path_or_name)
    if steps is not None:
        recipe = replace(recipe, steps=steps, decay=min(recipe.decay, steps))
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return train(recipe, from_recipe(recipe.data, data), folder, device=device)


def train(
    recipe: Recipe,
    data: Dataset,
    folder: str | Path,
    *,
    device: torch.device | str = "cpu",
    save_every: int = 250,
    progress: bool = True,
) -> ScoreModel:
    """Train a network: Adam on the score matching loss, with a running average of the weights.

    The folder gets two files: `state.safetensors`, from which the run can be resumed, and
    `model.safetensors`, the model with averaged weights. Ctrl-C finishes the current step, saves
    both and raises KeyboardInterrupt; the same call resumes the run.

    Args:
        recipe: settings of the training.
        data: the training set.
        folder: folder of the run; an interrupted run is resumed.
        device: device on which to train.
        save_every: number of steps between two saves.
        progress: show a progress bar (needs tqdm).

    Returns:
        The model with averaged weights, in evaluation mode.

    Raises:
        ConfigError: if `recipe` is not a `Recipe`, or `data` is not a `Dataset`.
        CheckpointError: if `folder` contains a run of another recipe.
        NonFiniteError: if the loss is not finite; the last saved state is kept.
    """
    hint = "recipe=load_recipe('mnist'), or Recipe(...) with a network of the library"
    check_kind(recipe, Recipe, "the recipe", hint)
    check_kind(data, Dataset, "the data", "data=Dataset(values), values of shape (N, *)")
    folder = Path(folder)
    run = _Run(recipe, folder, torch.device(device))
    values = data.to(device)
    with _deferred_interrupt() as interrupted, _bar(recipe, run.step, progress) as tick:
        while run.step < recipe.steps and not interrupted():
            tick(run.update(values))
            if run.step % save_every == 0:
                run.save()
        run.save()
        if interrupted():
            raise KeyboardInterrupt(
                f"stopped after step {run.step} of {recipe.steps}; the same call resumes the run "
                f"in {folder}"
            )
    return load_model(folder / "model.safetensors", device).model


class _Run:
    """The state of a run: weights, their average, Adam's moments, and the step number."""

    def __init__(self, recipe: Recipe, folder: Path, device: torch.device) -> None:
        self.recipe, self.folder, self.device = recipe, folder, device
        self.model = recipe.build().to(device).train()
        self.weighting = losses.from_dict(recipe.weighting)
        self.times = losses.from_dict(recipe.times)
        self.names = [name for name, _ in self.net.named_parameters()]
        self.weights = [p for _, p in self.net.named_parameters()]
        self.average = [p.detach().clone() for p in self.weights]
        kept = self.net.state_dict(keep_vars=True)
        self.buffers = {k: v for k, v in kept.items() if k not in set(self.names)}
        self.optimizer = torch.optim.Adam(self.weights, lr=recipe.lr, betas=(0.9, 0.99))
        self.step = 0
        self.seconds = 0.0
        self.losses: list[tuple[int, float]] = []
        self._epoch: tuple[int, Tensor] | None = None
        self._recent: list[Tensor] = []
        if (folder / "state.safetensors").exists():
            self._resume()

    @property
    def net(self) -> nn.Module:
        assert isinstance(self.model.net, nn.Module)  # for the type checker: built by the recipe
        return self.model.net

    def update(self, data: Dataset) -> float | None:
        """Do one step; every 50 steps, return the mean loss of these steps, else None."""
        began = time.perf_counter()
        generator = noise.generator(self.recipe.seed, "step", self.step, device=self.device)
        rows = self._rows(len(data))
        x0 = data.batch(rows, generator)
        classes = getattr(self.net, "classes", None) or 0
        labels = data.conditions(rows, generator, self.recipe.dropout, classes)
        loss = losses.score_matching_loss(
            self.model.bind(**labels) if labels else self.model,
            x0,
            generator=generator,
            weighting=self.weighting,
            times=self.times,
        ).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.weights, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate(self.step)
        self.optimizer.step()
        # The decay is smaller at first, so that the average forgets the initial weights.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.weights], 1.0 - decay)
        self.step += 1
        self._recent.append(loss.detach())
        self.seconds += time.perf_counter() - began
        if self.step % _LOG_EVERY:
            return None
        mean = self._mean_loss()
        self._recent.clear()
        self.losses.append((self.step, mean))
        return mean

    def _mean_loss(self) -> float:
        mean = float(torch.stack(self._recent).mean())
        if not math.isfinite(mean):
            raise NonFiniteError(
                f"the loss is not finite at step {self.step}; any state saved in "
                f"{self.folder} is earlier; use a lower lr than {self.recipe.lr}, or look for NaN "
                "in the data"
            )
        return mean

    def _rows(self, size: int) -> Tensor:
        """Indices of this step's samples; each epoch has its own random permutation."""
        places = torch.arange(self.recipe.batch_size) + self.step * self.recipe.batch_size
        rows = torch.empty_like(places)
        for epoch in torch.unique(places // size).tolist():
            if self._epoch is None or self._epoch[0] != epoch:
                generator = noise.generator(self.recipe.seed, "order", epoch)
                self._epoch = (epoch, torch.randperm(size, generator=generator))
            mine = places // size == epoch
            rows[mine] = self._epoch[1][places[mine] % size]
        return rows.to(self.device)

    def save(self) -> None:
        """Write both files, each replaced as a whole; raise if the loss is not finite."""
        if self._recent:
            self._mean_loss()
        tensors: dict[str, Tensor] = {}
        for name, weight, average in zip(self.names, self.weights, self.average, strict=True):
            moments = self.optimizer.state[weight]
            tensors |= {f"net/{name}": weight, f"ema/{name}": average}
            tensors |= {f"adam/{key}/{name}": value for key, value in moments.items()}
        tensors |= {f"buffer/{name}": value for name, value in self.buffers.items()}
        description = {
            "run": self.recipe.to_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
        }
        write(self.folder / "state.safetensors", tensors, description)
        report = {**self.recipe.to_dict(), "trained_steps": self.step}
        save_model(
            self.folder / "model.safetensors",
            self.model,
            pixels=self.recipe.pixels,
            recipe=report,
            weights=dict(zip(self.names, self.average, strict=True)) | self.buffers,
        )

    def _resume(self) -> None:
        path = self.folder / "state.safetensors"
        tensors, saved = read(path, self.device)
        try:
            earlier, step = Recipe.from_dict(saved["run"]), int(saved["step"])
            _check_same(earlier, self.recipe, step, path)
            with torch.no_grad():
                for name, weight, average in zip(
                    self.names, self.weights, self.average, strict=True
                ):
                    weight.copy_(tensors[f"net/{name}"])
                    average.copy_(tensors[f"ema/{name}"])
                    self.optimizer.state[weight] = {
                        key: tensors[f"adam/{key}/{name}"].cpu() if key == "step"
                        else tensors[f"adam/{key}/{name}"]
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }  # fmt: skip
                for name, value in self.buffers.items():
                    value.copy_(tensors[f"buffer/{name}"])
            self.step, self.seconds = step, float(saved["seconds"])
            self.losses = [(int(k), float(v)) for k, v in saved["losses"]]
        except (KeyError, TypeError, RuntimeError, ConfigError) as error:
            raise CheckpointError(f"{path} is not the state of a training run: {error}") from error


def _check_same(earlier: Recipe, now: Recipe, step: int, path: Path) -> None:
    old, new = earlier.to_dict(), now.to_dict()
    differing = [key for key in old if old[key] != new[key] and key not in ("steps", "decay")]
    if differing:
        key = differing[0]
        raise CheckpointError(
            f"{path} belongs to another run: its {key} is {old[key]!r}, not {new[key]!r}; choose "
            "another folder, or delete this one to start again"
        )
    # The number of steps may change if the learning rates of all past steps stay the same.
    if any(earlier.learning_rate(k) != now.learning_rate(k) for k in range(step)):
        raise CheckpointError(
            f"{path} has done {step} steps with steps={earlier.steps}, decay={earlier.decay}; "
            f"with steps={now.steps}, decay={now.decay} their learning rates would differ; choose "
            "another folder, or the same numbers"
        )


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; the current step is finished first."""
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(recipe: Recipe, step: int, progress: bool) -> Iterator[Callable[[float | None], None]]:
    """Yield a function that advances a progress bar; without tqdm it does nothing."""
    try:
        tqdm = import_module("tqdm.auto").tqdm if progress else None
    except ImportError:
        tqdm = None
    if tqdm is None:
        yield lambda loss: None
        return
    with tqdm(total=recipe.steps, initial=step, desc=f"train {recipe.name}") as bar:

        def tick(loss: float | None) -> None:
            bar.update()
            if loss is not None:
                bar.set_postfix(loss=f"{loss:.4f}")

        yield tick
