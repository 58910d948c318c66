"""Bits per dimension of whole data sets: jobs resume, never mix, and count each image once."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from support import generator

from scoresde import VPSDE, Covariance, Gaussian
from scoresde.errors import CheckpointError, ConfigError
from scoresde.likelihood import (
    Exact,
    FixedGrid,
    Hutchinson,
    Pixels,
    bits_per_dim,
    estimate_frame,
    nll_dataset,
)

# Few nodes: these tests count and compare, and their integrations are coarse on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:the integration's error")


def integers(levels: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, levels, shape, generator=generator(seed))


class Interrupted(Gaussian):
    """Raises Ctrl-C when its calls are used up."""

    left: ClassVar = [10**9]  # a count of its calls, so that jobs need a name: key=

    def __call__(self, x, knot):
        self.left[0] -= 1
        if self.left[0] < 0:
            raise KeyboardInterrupt
        return super().__call__(x, knot)

    def rows(self, index):
        return self


def test_an_interrupted_job_goes_on_and_counts_nothing_twice(tmp_path) -> None:
    images = integers(16, 10, 2)
    settings = {"pixels": Pixels(16), "batch_size": 4, "method": FixedGrid(9), "key": "gaussian"}
    model = Interrupted(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    whole = nll_dataset(model, images, tmp_path / "whole", **settings)
    part = tmp_path / "part"
    model.left[0] = 17  # the witness and the pilot take 1 each, the first batch 9
    with pytest.raises(KeyboardInterrupt):
        nll_dataset(model, images, part, **settings)
    assert not (part / "summary.json").exists()
    model.left[0] = 100
    again = nll_dataset(model, images, part, **settings)
    assert again.per_image.tolist() == whole.per_image.tolist()
    assert model.left[0] == 100 - 2 - 2 * 9  # one batch was done before, two are new
    summary = json.loads((part / "summary.json").read_text())
    assert summary["images"] == 10
    assert summary["bits_per_dim"] == whole.mean
    assert np.load(part / "per_image.npz")["bits_per_dim"].shape == (10,)


def test_a_job_of_another_configuration_is_refused(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    images = integers(16, 6, 2)
    settings = {"pixels": Pixels(16), "batch_size": 4, "method": FixedGrid(9)}
    nll_dataset(model, images, tmp_path, **settings)
    with pytest.raises(CheckpointError, match="seed"):
        nll_dataset(model, images, tmp_path, seed=1, **settings)
    with pytest.raises(CheckpointError, match="images"):
        nll_dataset(model, images.flip(0), tmp_path, **settings)
    (tmp_path / "shard-00001.json").write_text("{broken")
    assert math.isfinite(nll_dataset(model, images, tmp_path, **settings).mean)


def test_damaged_and_foreign_parts_of_a_job_are_computed_again(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    images = integers(16, 6, 2)

    def job(folder, nodes=11):
        return nll_dataset(
            model, images, tmp_path / folder, pixels=Pixels(16), batch_size=4, nodes=nodes
        )

    whole, fewer = job("job").per_image.tolist(), job("fewer", 5).per_image.tolist()
    assert whole != fewer
    shard, method = tmp_path / "job" / "shard-00001.json", tmp_path / "job" / "method.json"
    good, grid = json.loads(shard.read_text()), method.read_bytes()
    flipped = json.dumps({**good, "nats": [[n + 0.25 for n in row] for row in good["nats"]]})
    for file, content in [
        (shard, flipped.encode()),
        (shard, b"null"),
        (shard, b"\xff"),
        (shard, b"[" * 10**5),
        (shard, (tmp_path / "fewer" / shard.name).read_bytes()),
        (shard, (tmp_path / "job" / "shard-00000.json").read_bytes()),
        (method, (tmp_path / "fewer" / "method.json").read_bytes()),
        (method, grid.replace(b"11", b"12", 1)),
        (method, b"{"),
    ]:
        file.write_bytes(content)
        assert job("job").per_image.tolist() == whole
        assert method.read_bytes() == grid
        healed = json.loads(shard.read_text())
        assert healed == good


def test_a_name_stands_for_the_model_and_the_witness_watches_it(tmp_path) -> None:
    def job(variance: float, key: str | None):
        model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(variance))
        settings = {"pixels": Pixels(16), "batch_size": 4, "method": FixedGrid(9), "key": key}
        return nll_dataset(model, integers(16, 6, 2), tmp_path / str(key), **settings)

    job(0.3, None)
    with pytest.raises(CheckpointError, match="model differ"):
        job(0.3001, None)
    job(0.3, "mine")
    job(0.3001, "mine")
    with pytest.raises(CheckpointError, match="configuration: witness differ"):
        job(0.6, "mine")


def test_a_job_stops_early_at_its_target(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    images = integers(16, 100, 2)
    settings = {"pixels": Pixels(16), "batch_size": 10, "method": FixedGrid(9)}
    got = nll_dataset(model, images, tmp_path, target=10.0, **settings)
    assert len(got.per_image) == 30


class Counted(Gaussian):
    """Takes its time, and keeps a tally of its evaluations in a file."""

    pause: ClassVar = [0.0]
    tally: ClassVar[list[Path]] = [Path()]

    def __call__(self, x, knot):
        time.sleep(self.pause[0])
        with self.tally[0].open("a") as file:
            file.write(f"{len(x)}\n")
        return super().__call__(x, knot)


def test_a_job_killed_at_any_time_loses_one_batch_and_counts_nothing_twice(tmp_path) -> None:
    """SIGKILL, which no program can answer, over and over until the job is done."""
    model = Counted(VPSDE(t_min=1e-3), torch.zeros(3).double(), Covariance.isotropic(0.3))
    images = integers(16, 22, 3)
    settings = {
        "pixels": Pixels(16),
        "batch_size": 4,
        "nodes": 7,
        "divergence": Hutchinson(2),
        "key": "x",
    }
    Counted.tally[0] = tmp_path / "once"
    whole = nll_dataset(model, images, tmp_path / "whole", **settings)
    once = len((tmp_path / "once").read_text().split())
    part = tmp_path / "part"
    Counted.tally[0], Counted.pause[0] = tmp_path / "tally", 0.004
    kills, fork = 0, multiprocessing.get_context("fork")

    def calls() -> int:
        return len(Counted.tally[0].read_text().split()) if Counted.tally[0].exists() else 0

    while not (part / "summary.json").exists():
        process = fork.Process(target=nll_dataset, args=(model, images, part), kwargs=settings)
        before, limit = calls(), 3 + 11 * (kills + 1)
        process.start()
        stuck = time.monotonic() + 60
        while process.is_alive() and calls() - before < limit and time.monotonic() < stuck:
            time.sleep(0.001)
        process.kill()
        process.join()
        kills += 1
        assert kills < 30
    Counted.pause[0] = 0.0
    again = nll_dataset(model, images, part, **settings)
    assert kills > 2
    assert again.per_image.tolist() == whole.per_image.tolist()
    # A killed run loses at most its witness, its pilots for truncation and grid, and one batch.
    lost = 1 + 1 + 7 + 5 * 7
    assert once < calls() <= once + 2 + kills * lost
    assert len(np.load(part / "per_image.npz")["bits_per_dim"]) == 22


def test_the_default_method_is_fitted_once_and_kept(tmp_path) -> None:
    model = Counted(VPSDE(t_min=1e-3), torch.zeros(3).double(), Covariance.isotropic(0.3))
    Counted.tally[0] = tmp_path / "tally"
    images = integers(16, 12, 3)
    settings = {
        "pixels": Pixels(16),
        "batch_size": 6,
        "nodes": 9,
        "divergence": Exact(),
        "key": "x",
    }
    got = nll_dataset(model, images, tmp_path / "job", **settings)
    assert got.mean_nfe == 9
    kept = json.loads((tmp_path / "job" / "method.json").read_text())
    grid = FixedGrid(kept["nodes"], kept["order"], tuple(kept["places"]))
    x = Pixels(16).lower_edge(images) + Pixels(16).width / 2
    frame = estimate_frame(x)
    told = bits_per_dim(
        model, images, pixels=Pixels(16), method=grid, frame=frame, divergence=Exact(), batch_size=6
    )
    assert got.per_image.tolist() == told.per_image.tolist()
    assert got.parts["prior"] == told.parts["prior"] > 0
    before = Counted.tally[0].read_text()
    nll_dataset(model, images, tmp_path / "job", **settings)
    assert Counted.tally[0].read_text() == before + "2\n12\n"  # witness, truncation


def test_values_of_each_image_as_parquet(tmp_path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    got = nll_dataset(
        model, integers(16, 6, 2), tmp_path, pixels=Pixels(16), method=FixedGrid(9), table="parquet"
    )
    columns = parquet.read_table(tmp_path / "per_image.parquet").to_pydict()
    assert columns["bits_per_dim"] == got.per_image.tolist()
    assert columns["nfe"] == [9] * 6
    with pytest.raises(ConfigError, match="'npz' or 'parquet'"):
        nll_dataset(model, integers(16, 6, 2), tmp_path, pixels=Pixels(16), table="csv")


def test_nodes_beside_a_method_are_refused(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    with pytest.raises(ConfigError, match="nodes=9 is only for the default method"):
        nll_dataset(model, integers(16, 6, 2), tmp_path, method=FixedGrid(9), nodes=9)


def test_the_summary_is_strict_json_and_keeps_notes(tmp_path) -> None:
    model = Gaussian(VPSDE(t_min=1e-3), torch.zeros(2).double(), Covariance.isotropic(0.3))
    got = nll_dataset(
        model,
        integers(16, 6, 2),
        tmp_path,
        pixels=Pixels(16),
        method=FixedGrid(9),
        notes={"data": "mine"},
    )

    def refuse(name):
        raise AssertionError(name)

    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=refuse)
    assert summary["data"] == "mine"
    assert summary["parts"]["draws"] is None
    assert summary["stderr"] == got.stderr
