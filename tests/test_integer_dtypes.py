"""Integers of every dtype are the same integers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import gaussian

from scoresde import VPSDE, bits_per_dim, nll_dataset
from scoresde.cli.work import read_images
from scoresde.errors import ConfigError, DtypeError
from scoresde.likelihood import FixedGrid, Pixels
from scoresde.likelihood.bounds import variational_bound
from scoresde.training.data import Dataset, dequantize, image_array

pytestmark = pytest.mark.filterwarnings("ignore::scoresde.likelihood.AccuracyWarning")

KINDS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
MODEL = gaussian(VPSDE(), 3)
RULE = {"method": FixedGrid(9, order=2)}


def _numbers(kind, high):
    most = min(high, np.iinfo(kind).max)
    values = np.array([[0, 1, most], [2, most // 2, most - 1], [5, 6, 7]], dtype=kind)
    return values, int(most) + 1


@pytest.mark.parametrize("order", ["=", ">", "<"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("high", [255, 4095, 65_535])
def test_bits_of_one_set_of_integers_are_one_number(kind, high, order, tmp_path):
    values, levels = _numbers(kind, high)
    np.save(tmp_path / "x.npy", values.astype(values.dtype.newbyteorder(order)))
    images, pixels = read_images(str(tmp_path / "x.npy")), Pixels(levels)
    found = bits_per_dim(MODEL, images, pixels=pixels, **RULE)
    want = bits_per_dim(MODEL, torch.from_numpy(values.astype(np.int64)), pixels=pixels, **RULE)
    assert torch.equal(found.per_image, want.per_image)
    bare = bits_per_dim(MODEL, torch.from_numpy(values), pixels=pixels, **RULE)
    assert torch.equal(bare.per_image, want.per_image)


@pytest.mark.parametrize("kind", ["uint16", "uint32", "uint64"])
def test_data_sets_and_bounds(kind, tmp_path):
    values, levels = _numbers(kind, 65_535)
    pixels, rare, usual = Pixels(levels), torch.from_numpy(values), torch.tensor(values.tolist())
    jobs = [
        nll_dataset(MODEL, x, tmp_path / name, pixels=pixels, batch_size=2, **RULE)
        for name, x in (("usual", usual), ("rare", rare))
    ]
    assert torch.equal(jobs[0].per_image, jobs[1].per_image)
    plain, bound = (
        variational_bound(MODEL, x, pixels=Pixels(300), evaluations=2, seeds=3)
        for x in (usual % 300, (usual % 300).to(rare.dtype))
    )
    assert torch.equal(bound.per_sample, plain.per_sample)


@pytest.mark.parametrize("kind", KINDS)
def test_training_data_of_any_dtype(kind, tmp_path):
    values, levels = _numbers(kind, 4095)
    rows = torch.tensor([2, 0])
    draw = torch.Generator().manual_seed(0)
    classes = torch.from_numpy(np.array([3, 1, 2], dtype=kind))
    data = Dataset(torch.from_numpy(values), levels=levels, labels=classes)
    found = data.batch(rows, draw)
    lower = torch.tensor(values.tolist())[rows].double() * 2 / levels - 1
    assert float((found - lower).min()) >= -1e-7
    assert float((found - lower).max()) <= 2 / levels + 1e-7
    assert data.conditions(rows, draw, 0.0, 9)["y"].tolist() == [2, 3]
    draws = [
        dequantize(x, draw.manual_seed(1), levels=levels)
        for x in (torch.from_numpy(values), torch.tensor(values.tolist()))
    ]
    assert torch.equal(*draws)
    np.savez(tmp_path / "x.npz", images=values[None, :, :].astype(values.dtype.newbyteorder(">")))
    read = image_array(tmp_path / "x.npz", levels=levels)
    assert read.levels == levels
    assert read.values[0, 0].tolist() == values.tolist()


def test_levels_that_a_dtype_does_not_say_have_to_be_said(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.full((1, 2, 2), 4095, dtype=np.uint16))
    with pytest.raises(ConfigError, match="write levels=4096"):
        image_array(tmp_path / "x.npz")
    with pytest.raises(ConfigError, match=r"0 \.\. 255, got values from 4095"):
        image_array(tmp_path / "x.npz", levels=256)


def test_hints_lead_to_a_dtype_that_holds_the_levels_and_works():
    real = torch.tensor([[0.0, 40_000.0, 3.0]])
    with pytest.raises(DtypeError, match=r"to\(torch\.int64\)"):
        bits_per_dim(MODEL, real, pixels=Pixels(65_536))
    with pytest.raises(DtypeError, match=r"to\(torch\.int64\)"):
        dequantize(real, torch.Generator(), levels=65_536)
    with pytest.raises(ConfigError, match=r"pixels=Pixels\(levels=40001\)"):
        bits_per_dim(MODEL, real.to(torch.uint16))


def test_integers_beyond_int64_are_refused_rather_than_turned_negative():
    with pytest.raises(ConfigError, match="2\\^63"):
        bits_per_dim(MODEL, torch.tensor([[0, 1, 2**63]], dtype=torch.uint64))
