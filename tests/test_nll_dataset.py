"""Bits per dimension of whole data sets: resumed, never mixed, counted once."""

from __future__ import annotations

import json
import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from support import generator

from scoresde import VPSDE, Gaussian, isotropic
from scoresde.errors import CheckpointError
from scoresde.likelihood import FixedGrid, nll_dataset


def integers(levels: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, levels, shape, generator=generator(seed))


class Interrupted(Gaussian):
    """Raises Ctrl-C when its calls are used up."""

    left: ClassVar = [10**9]  # of the class: no part of the model's fingerprint

    def __call__(self, x, knot):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return super().__call__(x, knot)

    def rows(self, index):
        return self


def test_an_interrupted_job_goes_on_and_counts_nothing_twice(tmp_path) -> None:
    images = integers(16, 10, 2)
    settings = {"levels": 16, "batch": 4, "method": FixedGrid(9)}
    model = Interrupted(VPSDE(t_min=1e-3), torch.zeros(2).double(), isotropic(0.3))
    whole = nll_dataset(model, images, tmp_path / "whole", **settings)
    part = tmp_path / "part"
    model.left[0] = 16  # the pilot takes 1, the first batch 9
    with pytest.raises(KeyboardInterrupt):
        nll_dataset(model, images, part, **settings)
    assert not (part / "summary.json").exists()
    model.left[0] = 100
    again = nll_dataset(model, images, part, **settings)
    assert again.per_image.tolist() == whole.per_image.tolist()
    assert model.left[0] == 100 - 1 - 2 * 9  # one batch was done before, two are new
    summary = json.loads((part / "summary.json").read_text())
    assert summary["images"] == 10
    assert summary["bits_per_dim"] == whole.mean
    assert np.load(part / "per_image.npz")["bits_per_dim"].shape == (10,)


def test_a_job_of_another_configuration_is_refused(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), isotropic(0.3))
    images = integers(16, 6, 2)
    settings = {"levels": 16, "batch": 4, "method": FixedGrid(9)}
    nll_dataset(model, images, tmp_path, **settings)
    with pytest.raises(CheckpointError, match="seed"):
        nll_dataset(model, images, tmp_path, seed=1, **settings)
    with pytest.raises(CheckpointError, match="images"):
        nll_dataset(model, images.flip(0), tmp_path, **settings)
    (tmp_path / "shard-00001.json").write_text("{broken")
    assert math.isfinite(nll_dataset(model, images, tmp_path, **settings).mean)


def test_a_job_stops_early_at_its_target(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), isotropic(0.3))
    images = integers(16, 100, 2)
    settings = {"levels": 16, "batch": 10, "method": FixedGrid(9)}
    got = nll_dataset(model, images, tmp_path, target=10.0, **settings)
    assert len(got.per_image) == 30
