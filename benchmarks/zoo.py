"""Small trained networks with common conventions, for tests where exact models are not enough.

    python -m benchmarks.zoo train --mnist mnist.npz --cifar cifar10_4k.npz [NAME ...]
    python -m benchmarks.zoo list

The library's own loop trains each from a recipe in this file, in about five minutes on one core. It
is stored in half precision in `benchmarks/networks/`, and `load(name)` reads it. Some networks are
used to choose settings; others, which were not used for that, measure how good a choice is.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp

import torch

from scoresde import (
    EDMSDE,
    SDE,
    VESDE,
    VPSDE,
    DiscreteVPSDE,
    FlowSDE,
    ScoreModel,
    cosine_betas,
    linear_betas,
)
from scoresde.time_input import ScaledTime, to_dict
from scoresde.training.checkpoint import load_model, read, write
from scoresde.training.data import from_recipe
from scoresde.training.loop import Recipe, train

FOLDER = Path(__file__).parent / "networks"

_MNIST = {"name": "images", "images": "train_images"}
_CIFAR = {"name": "images", "images": "train_images"}
_UNIFORM = {"name": "UniformT"}
_SIMPLE = {"name": "Simple", "of": None}
_INDEX = "t"


def zero_snr(betas: torch.Tensor) -> torch.Tensor:
    """A table rescaled so that its last alpha is 0 (Lin et al., "Common Diffusion Noise Schedules
    and Sample Steps are Flawed", 2024, algorithm 1).
    """
    root = (1 - betas.double()).cumprod(0).sqrt()
    root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
    square = root.square()
    return 1 - torch.cat([square[:1], square[1:] / square[:-1]])


def _recipe(name: str, sde: SDE, predicts: str, **settings: object) -> Recipe:
    """An MNIST recipe, unless the settings say otherwise."""
    usual = {
        "data": _MNIST, "network": {"name": "PatchUNet"}, "time": _INDEX, "weighting": _SIMPLE,
        "times": _UNIFORM, "steps": 2000, "batch_size": 64, "lr": 2e-3, "warmup": 100,
        "decay": 1500, "ema": 0.998, "pixels": "edges",
    }  # fmt: skip
    return Recipe(name=name, sde=sde.to_dict(), predicts=predicts, **{**usual, **settings})


def recipes() -> dict[str, Recipe]:
    """The recipe of every network, by name."""
    linear = DiscreteVPSDE.from_betas(linear_betas(1000))
    cosine = DiscreteVPSDE.from_betas(cosine_betas(1000))
    zero = DiscreteVPSDE.from_betas(zero_snr(torch.as_tensor(linear_betas(1000))))
    cifar = {"data": _CIFAR, "network": {"name": "PatchUNet", "size": 32, "channels": 3}}
    cosine_eps = _recipe("mnist_eps_cosine", cosine, "eps", steps=3000, decay=2000)
    found = [
        cosine_eps,
        replace(cosine_eps, name="mnist_eps_cosine_bad", steps=300, decay=200, seed=1),
        _recipe("mnist_eps_linear", linear, "eps"),
        _recipe(
            "mnist_class_eps", linear, "eps",
            data={**_MNIST, "labels": "train_labels"}, dropout=0.15,
            network={"name": "PatchUNet", "classes": 10},
        ),
        _recipe(
            "mnist_score_ve", VESDE(sigma_min=0.01, sigma_max=50.0), "score",
            data={**_MNIST, "value_range": [0.0, 1.0]},
            time=to_dict(ScaledTime(100.0, "log_sigma")), times={"name": "UniformLambda"},
            weighting={"name": "Simple", "of": "eps"},
        ),
        _recipe("mnist_flow", FlowSDE(), "flow", time=to_dict(ScaledTime(1000.0))),
        _recipe("mnist_x0_cosine", cosine, "x0", weighting={"name": "MinSNR", "gamma": 5.0}),
        _recipe("cifar_eps_vp", VPSDE(), "eps", **cifar, time=to_dict(ScaledTime(999.0))),
        _recipe(
            "cifar_F_edm", EDMSDE(), "F", **cifar, time=to_dict(ScaledTime(100.0, "log_sigma")),
            times={"name": "LogNormalRho", "mean": -1.2, "std": 1.2},
        ),
        _recipe(
            "cifar_v_zero_snr", zero,
            "v", **cifar,
        ),
        _recipe(
            "moons_eps_batchnorm", linear, "eps",
            data={"name": "two_moons", "n": 50_000, "seed": 0},
            network={"name": "PlainMLP", "batch_norm": True}, batch_size=512, pixels=None,
        ),
    ]  # fmt: skip
    return {recipe.name: recipe for recipe in found}


def names() -> list[str]:
    """Names of the networks that are stored."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load(name: str) -> ScoreModel:
    """A network of the zoo, in evaluation mode, float32."""
    return load_model(FOLDER / f"{name}.safetensors").model


def make(name: str, files: dict[str, Path | None]) -> None:
    """Train one network and store it in half precision."""
    recipe = recipes()[name]
    data = from_recipe(recipe.data, files.get(name.partition("_")[0]))
    out = Path(mkdtemp())
    train(recipe, data, out)
    weights, description = read(out / "model.safetensors")
    half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    _, state = read(out / "state.safetensors")
    last = state["losses"][-1][1]
    print(f"{name}: {state['seconds']:.0f} s, loss {last:.4f}")
    write(FOLDER / f"{name}.safetensors", half, description)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["train", "list"])
    parser.add_argument("names", nargs="*", help="all by default")
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar", type=Path)
    given = parser.parse_args()
    if given.what == "list":
        for name in names():
            model = load(name)
            count = sum(p.numel() for p in model.parameters())
            print(
                f"{name:22} {count:>8,} parameters, {type(model.sde).__name__}, {model.predicts!r}"
            )
        return
    for name in given.names or recipes():
        make(name, {"mnist": given.mnist, "cifar": given.cifar})


if __name__ == "__main__":
    main()
