"""The networks' features and skips, against closed forms."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from scoresde import VPSDE, ScoreModel
from scoresde.errors import ConfigError
from scoresde.training.networks import (
    FourierMLP,
    ImageUNet,
    PatchUNet,
    PlainMLP,
    damped_waves,
    from_dict,
    to_dict,
    unet_mnist,
)

VP = VPSDE(t_min=1e-5)


def test_a_damped_wave_is_the_expectation_of_the_wave_under_noise() -> None:
    """E sin(w (x + rho z)) and the cosine, by Gauss-Hermite quadrature."""
    x = torch.tensor([[0.3, -0.8], [0.1, 0.9]], dtype=torch.float64)
    omega = 2 * math.pi * torch.tensor([0.5, 2.0, 8.0], dtype=torch.float64)
    log_rho = torch.tensor([-4.0, -2.5], dtype=torch.float64)
    found = damped_waves(x, omega, log_rho)
    assert found.shape == (2, 2, 3, 2)
    nodes, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(60))
    noisy = x[:, None, :, None] + log_rho.exp()[:, None, None, None] * nodes
    phase = omega[None, :, None, None] * noisy
    for part, wave in enumerate((phase.sin(), phase.cos())):
        expected = (wave * weights).sum(-1) / math.sqrt(2 * math.pi)
        torch.testing.assert_close(found[:, part], expected, rtol=1e-9, atol=1e-11)


def test_waves_of_images_stay_at_their_pixels() -> None:
    x = torch.rand(3, 2, 4, 5, dtype=torch.float64)
    omega = torch.tensor([1.0, 7.0], dtype=torch.float64)
    found = damped_waves(x, omega, torch.full((3,), -30.0, dtype=torch.float64))
    torch.testing.assert_close(found[1, 0, 1, 0, 2, 3], (7.0 * x[1, 0, 2, 3]).sin())
    torch.testing.assert_close(found[2, 1, 0, 1, 3, 4], x[2, 1, 3, 4].cos())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["image", "points"])
def test_one_sample_does_not_depend_on_the_others(kind: str, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    if kind == "image":
        net = from_dict({"name": "ImageUNet", "size": 8, "widths": [8, 16], "frequencies": [2, 64]})
        with torch.no_grad():
            weight = net.unet.conv_out.weight
            weight.copy_(torch.randn(weight.shape, generator=g) / 10)
        x = torch.randn(4, 1, 8, 8, generator=g, dtype=dtype)
    else:
        net = from_dict({"name": "FourierMLP"})
        with torch.no_grad():
            net.layers[-1].weight.copy_(torch.randn(2, 96, generator=g))
        x = torch.randn(4, 2, generator=g, dtype=dtype)
    model = ScoreModel(net.to(dtype), VP, time="log_rho")
    times = torch.tensor([1e-5, 0.1, 0.4, 1.0], dtype=torch.float64)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
    with torch.no_grad():
        together = model(x, VP.at(times, like=x)).eps
        assert together.dtype == dtype
        for i in range(4):
            alone = model(x[i : i + 1], VP.at(float(times[i]))).eps
            torch.testing.assert_close(alone[0], together[i], **tolerance)
        # The output is sin(angle) x + cos(angle) net: at t_max the network hardly matters.
        assert (together[3] - x[3]).abs().max() < 0.01 * (together[1] - x[1]).abs().max()


def test_shipped_architecture_is_within_its_budget() -> None:
    assert sum(p.numel() for p in unet_mnist().parameters()) == 866_932


def test_descriptions_survive_json_and_seeds_fix_the_weights() -> None:
    for net in (
        ImageUNet(size=8, widths=(8, 16)),
        FourierMLP(3, 8, 1, (1,)),
        PatchUNet(size=8, widths=(8, 16), classes=3),
        PlainMLP(3, 8, 2, batch_norm=True),
    ):
        text = json.loads(json.dumps(to_dict(net)))
        one, two, other = from_dict(text, 1), from_dict(text, 1), from_dict(text, 2)
        assert to_dict(one) == text
        pairs = [(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True)]
        assert all(torch.equal(p, q) for p, q in pairs)
        first, second = next(one.parameters()), next(other.parameters())
        assert not torch.equal(first, second)


def test_nonsense_is_refused() -> None:
    with pytest.raises(ConfigError, match="side 30"):
        ImageUNet(size=30)
    with pytest.raises(ConfigError, match="did you mean 'ImageUNet'"):
        from_dict({"name": "ImageUnet"})
    with pytest.raises(ConfigError, match="widht"):
        from_dict({"name": "FourierMLP", "widht": 3})
    with pytest.raises(ConfigError, match="Linear"):
        to_dict(torch.nn.Linear(2, 2))
