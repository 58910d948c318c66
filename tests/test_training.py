"""The training loop: exact resume, exact averages, and learning up to the optimal loss."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scoresde.errors import CheckpointError, ConfigError, NonFiniteError
from scoresde.training.checkpoint import load_model, read
from scoresde.training.data import Dataset
from scoresde.training.loop import Recipe, _Run, load_recipe, train, train_from_recipe
from scoresde.training.losses import loss_per_noise_level

TINY = Recipe(
    name="tiny",
    data={"name": "two_moons", "n": 300, "seed": 0},
    network={"name": "FourierMLP", "dim": 2, "width": 16, "depth": 2, "frequencies": [0.5]},
    sde={"name": "VPSDE", "t_min": 1e-4},
    time="log_rho",
    weighting={"name": "Simple", "of": None},
    times={"name": "UniformLambda"},
    steps=30,
    batch_size=32,
    lr=2e-3,
    warmup=5,
    decay=10,
    ema=0.9,
    clip=0.5,
    seed=3,
)


def points(n: int = 300) -> Dataset:
    g = torch.Generator().manual_seed(0)
    return Dataset(torch.randn(n, 2, generator=g) * torch.tensor([1.0, 0.3]) + 0.2)


def state(out: Path) -> dict[str, Tensor]:
    return read(out / "state.safetensors")[0]


def assert_bitwise(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


class Interrupting(Dataset):
    """Sends Ctrl-C to this process while batch number `at` is drawn."""

    at = 7
    drawn = 0

    def batch(self, index: Tensor, generator: torch.Generator) -> Tensor:
        type(self).drawn += 1
        if self.drawn == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().batch(index, generator)


# -- resume --------------------------------------------------------------------------------------


def test_interrupted_and_resumed_is_bitwise_the_uninterrupted_run(tmp_path) -> None:
    whole = train(TINY, points(), tmp_path / "whole", progress=False)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="after step 7 of 30"):
        train(TINY, Interrupting(points().values), tmp_path / "cut", progress=False)
    assert signal.getsignal(signal.SIGINT) is handler
    assert read(tmp_path / "cut" / "state.safetensors")[1]["step"] == 7
    torch.manual_seed(99)  # the global generator has no part in it
    resumed = train(TINY, points(), tmp_path / "cut", progress=False)
    assert_bitwise(state(tmp_path / "whole"), state(tmp_path / "cut"))
    assert_bitwise(whole.state_dict(), resumed.state_dict())


def test_batch_norm_resumes_bitwise_with_its_statistics(tmp_path) -> None:
    recipe = replace(
        TINY,
        network={"name": "PlainMLP", "width": 8, "depth": 2, "batch_norm": True},
        time={"name": "ScaledTime", "factor": 999.0, "of": "t"},
    )
    whole = train(recipe, points(), tmp_path / "whole", progress=False)
    Interrupting.drawn = 0
    with pytest.raises(KeyboardInterrupt, match="after step"):
        train(recipe, Interrupting(points().values), tmp_path / "cut", progress=False)
    resumed = train(recipe, points(), tmp_path / "cut", progress=False)
    assert_bitwise(whole.state_dict(), resumed.state_dict())
    assert int(whole.state_dict()["net.layers.1.num_batches_tracked"]) == 30
    assert not whole.training


def test_labels_reach_the_network_and_some_are_dropped(tmp_path) -> None:
    """Two classes at +-1 with little spread: the label alone says which, so a network that sees it
    denoises better under the right label than under the wrong one. Where it is dropped, the
    answer is the mean of both, 0, and the error is 1.
    """
    recipe = replace(
        TINY,
        network={"name": "PatchUNet", "size": 4, "widths": [16], "classes": 2},
        predicts="x0",
        time={"name": "ScaledTime", "factor": 999.0, "of": "t"},
        times={"name": "UniformT"},
        steps=150,
        decay=0,
        warmup=5,
        lr=5e-3,
        dropout=0.3,
    )
    y = torch.arange(64) % 2
    values = (2.0 * y - 1).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
    model = train(recipe, Dataset(values, labels=y), tmp_path, progress=False)
    x = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    knot = model.sde.at(1.0)
    right, wrong, none = (
        float((model.bind(y=labels)(x, knot).x0.detach() - values).square().mean())
        for labels in (y, 1 - y, torch.full_like(y, 2))
    )
    assert right < 0.05
    assert wrong == pytest.approx(4, rel=0.1)
    assert none == pytest.approx(1, rel=0.15)


def test_a_run_made_longer_before_its_decay_is_the_long_run(tmp_path) -> None:
    train(TINY, points(), tmp_path / "long", progress=False)
    short = replace(TINY, steps=20, decay=0)
    train(short, points(), tmp_path / "grown", progress=False)
    train(TINY, points(), tmp_path / "grown", progress=False)
    assert_bitwise(state(tmp_path / "long"), state(tmp_path / "grown"))


def test_another_configuration_is_refused_and_nothing_is_lost(tmp_path) -> None:
    train(TINY, points(), tmp_path, progress=False)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"its lr is 0.002, not 0.003"):
        train(replace(TINY, lr=3e-3), points(), tmp_path, progress=False)
    # Half of the decay is behind it: with more steps it would have gone otherwise.
    with pytest.raises(CheckpointError, match="steps=60"):
        train(replace(TINY, steps=60), points(), tmp_path, progress=False)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_a_finished_run_takes_no_further_step(tmp_path) -> None:
    train(TINY, points(), tmp_path, progress=False)
    before = state(tmp_path)
    train(TINY, points(), tmp_path, progress=False)
    assert_bitwise(before, state(tmp_path))


# -- the parts of a step -------------------------------------------------------------------------


def test_learning_rate_at_its_corners() -> None:
    recipe = replace(TINY, steps=100, warmup=10, decay=40, lr=1.0)
    rate = recipe.learning_rate
    assert [rate(0), rate(4), rate(9), rate(60)] == [0.1, 0.5, 1.0, 1.0]
    assert rate(80) == pytest.approx(0.5)
    assert rate(70) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert rate(100) == pytest.approx(0.0, abs=1e-15)
    constant = replace(recipe, decay=0, warmup=0)
    assert {constant.learning_rate(k) for k in (0, 50, 99)} == {1.0}


def test_the_average_is_the_stated_recursion(tmp_path) -> None:
    """ema_k+1 = d ema_k + (1 - d) w_k+1 with d = min(ema, (1 + k)/(10 + k)), in float64."""
    run = _Run(replace(TINY, ema=0.3), tmp_path, torch.device("cpu"))
    mean = [p.detach().double().clone() for p in run.weights]
    for k in range(12):
        run.update(points())
        d = min(0.3, (1 + k) / (10 + k))
        mean = [
            d * m + (1 - d) * p.detach().double() for m, p in zip(mean, run.weights, strict=True)
        ]
    for ours, theirs in zip(run.average, mean, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-7)


def test_every_epoch_takes_every_sample_once(tmp_path) -> None:
    run = _Run(replace(TINY, batch_size=32), tmp_path, torch.device("cpu"))
    size = 50  # no multiple of the batch: epochs end within batches
    rows = []
    for run.step in range(25):
        rows.append(run._rows(size))
    epochs = torch.cat(rows).reshape(-1, size)
    assert torch.equal(epochs.sort(1).values, torch.arange(size).expand(16, -1))
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 16  # each in its own order


def test_gradients_are_clipped(tmp_path) -> None:
    """With a tiny clip, Adam's first moment after one step is 0.1 times a gradient of that norm."""
    run = _Run(replace(TINY, clip=1e-3), tmp_path, torch.device("cpu"))
    run.update(points())
    moments = [run.optimizer.state[p]["exp_avg"].flatten() for p in run.weights]
    assert float(torch.cat(moments).norm()) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(tmp_path) -> None:
    recipe = replace(TINY, steps=200, decay=0)
    bad, order = points(), _Run(recipe, tmp_path, torch.device("cpu"))
    order.step = 4
    bad.values[order._rows(len(bad))[0]] = math.nan  # first met in step 5
    for out, save_every, message in (("a", 1000, "step 50"), ("b", 1, "step 5;")):
        with pytest.raises(NonFiniteError, match=message):
            train(recipe, bad, tmp_path / out, progress=False, save_every=save_every)
    # In the second run every step was saved until the bad sample came.
    assert read(tmp_path / "b" / "state.safetensors")[1]["step"] == 4
    assert all(bool(value.isfinite().all()) for value in state(tmp_path / "b").values())
    assert not (tmp_path / "a" / "state.safetensors").exists()


def test_the_global_generator_is_left_alone(tmp_path) -> None:
    before = torch.random.get_rng_state()
    train(replace(TINY, steps=3, decay=0), points(), tmp_path, progress=False)
    assert torch.equal(before, torch.random.get_rng_state())


# -- it learns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_a_gaussian_is_learned_to_its_exact_loss(tmp_path, predicts: str) -> None:
    """The least error of eps for data of variances c^2 is the mean of c^2/(c^2 + rho^2)."""
    recipe = replace(
        TINY, predicts=predicts, steps=1000, decay=1000, batch_size=256, ema=0.99, lr=5e-3,
        clip=1.0, network={**TINY.network, "width": 32}, weighting={"name": "Simple", "of": "v"},
        times={"name": "LogNormalRho", "mean": 0.0, "std": 1.0},
    )  # fmt: skip
    g = torch.Generator().manual_seed(0)
    std = torch.tensor([1.0, 0.5])
    train_set = Dataset(torch.randn(20_000, 2, generator=g) * std)
    model = train(recipe, train_set, tmp_path, progress=False)
    lams = torch.tensor([-1.0, 0.0, 1.0])
    fresh = torch.randn(40_000, 2, generator=g) * std
    found = loss_per_noise_level(model, fresh, lams, batch_size=40_000)
    rho2 = (-2 * lams.double()).exp()[:, None]
    best = (std**2 / (std**2 + rho2)).mean(1)
    assert ((found.loss - best) > -4 * found.stderr).all()  # nothing is better than the optimum
    assert ((found.loss - best) < 0.02 * best + 4 * found.stderr).all()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((TINY, torch.zeros(8, 2)), r"the data must be a Dataset, got Tensor; write data=Dataset"),
        ((torch.nn.Linear(2, 2), points()), "the recipe must be a Recipe, got Linear; write"),
    ],
)
def test_what_cannot_be_trained_says_what_to_write(tmp_path, args, says) -> None:
    with pytest.raises(ConfigError, match=says):
        train(*args, tmp_path)


# -- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mnist", "swiss_roll"])
def test_shipped_recipes_build_their_models(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    model = recipe.build()
    again = recipe.build()
    assert_bitwise(model.state_dict(), again.state_dict())
    count = sum(p.numel() for p in model.parameters())
    assert count <= {"mnist": 950_000, "swiss_roll": 50_000}[name]
    # A network that knows nothing yet says sin(angle) x: all noise where there is only noise.
    shape = (3, 1, 28, 28) if name == "mnist" else (3, 2)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for t in (1e-5, 0.3, 1.0):
        knot = model.sde.at(t)
        torch.testing.assert_close(
            model(x, knot).eps, x * math.sin(knot.angle), atol=1e-6, rtol=1e-5
        )


def test_train_from_recipe_by_file_and_with_fewer_steps(tmp_path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(TINY.to_dict()))
    model = train_from_recipe(path, folder=tmp_path / "run", steps=4, device="cpu")
    loaded, description = load_model(tmp_path / "run" / "model.safetensors")
    assert_bitwise(model.state_dict(), loaded.state_dict())
    assert description["recipe"]["steps"] == description["recipe"]["trained_steps"] == 4


def test_bad_recipes_say_what_would_be_right(tmp_path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'mnist'"):
        load_recipe("mnits")
    with pytest.raises(ConfigError, match="did you mean 'warmup'"):
        Recipe.from_dict({**TINY.to_dict(), "warmpu": 3})
    with pytest.raises(ConfigError, match="sde"):
        Recipe.from_dict({k: v for k, v in TINY.to_dict().items() if k != "sde"})
    with pytest.raises(ConfigError, match="ema"):
        replace(TINY, ema=1.0)
    with pytest.raises(ConfigError, match="steps >= 1"):
        replace(TINY, steps=0)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_recipe(broken)
    with pytest.raises(ConfigError, match="needs its images"):
        train_from_recipe("mnist", folder=tmp_path / "run")
    with pytest.raises(ConfigError, match="no file"):
        train_from_recipe("mnist", data=tmp_path / "none.npz", folder=tmp_path / "run")
