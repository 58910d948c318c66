"""Grids that know when they are wrong: images unlike the pilot get steps of their own."""

from __future__ import annotations

import json
import math

import pytest
import torch

from scoresde import VPSDE
from scoresde.errors import ConfigError
from scoresde.exact.problems import digits64, ring8
from scoresde.likelihood import (
    Exact,
    Fallback,
    FixedGrid,
    NoDequantization,
    PerSample,
    Pixels,
    bits_per_dim,
    calibrated_grid,
    log_likelihood,
    nll_dataset,
)

UNIT = 1 / (64 * math.log(2))  # bits/dim


@pytest.fixture(scope="module")
def digits():
    """The mixture, real digits, which are unlike its samples, and their log-densities."""
    datasets = pytest.importorskip("sklearn.datasets")
    model = digits64(VPSDE(t_min=1e-5))
    images = torch.from_numpy(datasets.load_digits().data)[:32].long()
    x = Pixels(17).lower_edge(images) + 0.5 * Pixels(17).width
    return model, images, x, model.log_prob(x, model.sde.at(model.sde.t_min))


@pytest.mark.parametrize("nodes", [41, 75])
def test_images_unlike_the_pilot_are_integrated_again(digits, nodes: int) -> None:
    model, _, x, want = digits
    grid = calibrated_grid(model, model.sample(8, seed=0).double(), nodes)
    alone = log_likelihood(model, x, method=grid, prior=model)
    found = log_likelihood(model, x, method=Fallback(grid), prior=model)
    errors, before = ((run.nats - want).abs() * UNIT for run in (found, alone))
    again = found.nfe > nodes
    assert 0 < int(again.sum()) < len(x)
    assert torch.equal(again, alone.error > Fallback.tol * 64)
    assert torch.equal(found.nats[~again], alone.nats[~again])
    # Bits per dimension: the grid errs by .05 where it is wrong, and the estimates then hold.
    assert float(before.max()) > 0.04
    assert float(errors.max()) < 0.01
    assert float(errors.mean()) < 1e-3
    inside = errors <= 3 * found.error * UNIT
    assert float(inside.double().mean()) >= 0.95


def test_batch_mates_change_nothing(digits) -> None:
    model, _, x, _ = digits
    method = Fallback(FixedGrid(41))
    whole = log_likelihood(model, x[:8], method=method)
    alone = [log_likelihood(model, x[k : k + 1], seeds=k, method=method) for k in range(8)]
    torch.testing.assert_close(torch.cat([a.nats for a in alone]), whole.nats)
    assert torch.cat([a.nfe for a in alone]).tolist() == whole.nfe.tolist()


def test_all_and_none_are_the_two_methods_themselves() -> None:
    model = ring8(VPSDE())
    x = model.sample(6, seed=0).double()
    grid, steps = FixedGrid(31), PerSample(tol=1e-5)
    none = log_likelihood(model, x, method=Fallback(grid, tol=1e9, then=steps))
    assert torch.equal(none.nats, log_likelihood(model, x, method=grid).nats)
    assert none.nfe.tolist() == [31] * 6
    every = log_likelihood(model, x, method=Fallback(grid, tol=1e-12, then=steps))
    want = log_likelihood(model, x, method=steps)
    assert torch.equal(every.nats, want.nats)
    assert (every.nfe - want.nfe).tolist() == [31] * 6
    assert (every.divergences - want.divergences).tolist() == [31] * 6
    with pytest.raises(ConfigError, match="tol must be positive"):
        Fallback(tol=0.0)


def test_the_default_of_a_job_is_right_for_images_unlike_the_first(digits, tmp_path) -> None:
    model, images, _, want = digits
    # The pilot: images that the mixture drew itself.
    drawn = model.sample(100, seed=1)
    like = ((drawn + 1) / Pixels(17).width).floor().long().clamp(0, 16)
    both = torch.cat([like, images])
    settings = {"pixels": Pixels(17), "dequantize": NoDequantization(), "divergence": Exact()}
    found = nll_dataset(model, both, tmp_path, **settings, prior=model, batch_size=66)
    exact = -want * UNIT - math.log2(Pixels(17).width)
    wrong = (found.per_image[100:] - exact).abs()
    assert float(wrong.max()) < 0.01
    assert float(wrong.mean()) < 1e-3
    nodes = json.loads((tmp_path / "method.json").read_text())["nodes"]
    assert int(found.nfe.min()) == nodes < int(found.nfe.max())
    grid = FixedGrid(nodes)
    coarse = bits_per_dim(model, images, **settings, prior=model, method=grid).per_image
    assert float((coarse - exact).abs().max()) > 5 * float(wrong.max())
