"""Large jobs: resuming loses and repeats no sample, and different jobs are never mixed."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from typing import ClassVar

import numpy as np
import pytest
import torch

import scoresde as sd
from scoresde._internal.files import write_atomic, write_new
from scoresde.errors import CheckpointError, ConfigError, FingerprintError
from scoresde.sampling.jobs import SampleFolder, sample_many

SDE = sd.VPSDE()


def mixture(shift: float = 0.0) -> sd.GaussianMixture:
    means = torch.tensor([[-1.0 + shift, 0.5], [1.0, -0.5]])
    return sd.GaussianMixture(SDE, means, sd.Covariance.isotropic(0.04))


class Interrupted(sd.GaussianMixture):
    """Presses Ctrl-C after so many evaluations."""

    def __call__(self, x, knot):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(x, knot)


def run(folder, model=None, solver=None, **settings):
    args = {"event_shape": (2,), "seeds": range(7), "batch_size": 3, **settings}
    grid = sd.uniform_lambda(SDE, 5)
    return sample_many(model or mixture(), solver or sd.DDIM(eta=1.0), grid, folder, **args)


def test_every_sample_is_that_of_its_seed(tmp_path):
    job = run(tmp_path / "job")
    samples = job.samples()
    assert samples.shape == (7, 2)
    assert job.shards == 3
    whole = sd.sample(
        mixture(), sd.DDIM(eta=1.0), sd.uniform_lambda(SDE, 5), shape=(7, 2), seeds=range(7)
    )
    torch.testing.assert_close(samples, whole.x, rtol=1e-6, atol=1e-6)
    assert [s for k in range(3) for s in job.info(k)["seeds"]] == list(range(7))
    assert job.info(0)["nfe"] == [5, 5, 5]


def test_interrupted_job_goes_on_and_ends_bitwise_the_same(tmp_path):
    straight = run(tmp_path / "a").samples()
    model = mixture()
    model.__class__ = Interrupted
    model.left = 9  # a probe takes 1 (and 1 where it is refused), the first shard 5
    # The class and the counter would count as another model: a name takes their place.
    with pytest.raises(FingerprintError, match="changes when it is called"):
        run(tmp_path / "c", model=model)
    assert not (tmp_path / "c").exists()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", model=model, key="mixture")
    assert SampleFolder.open(tmp_path / "b").missing() == [1, 2]
    assert not list((tmp_path / "b").glob(".*"))
    first = (tmp_path / "b" / "shard-00000.npy").stat().st_mtime_ns
    resumed = run(tmp_path / "b", key="mixture")
    assert (tmp_path / "b" / "shard-00000.npy").stat().st_mtime_ns == first
    assert torch.equal(resumed.samples(), straight)


def test_broken_shard_is_sampled_again(tmp_path):
    job = run(tmp_path / "job")
    before = job.samples()
    job.file(1).write_bytes(job.file(1).read_bytes()[:90])
    assert job.missing() == [1]
    with pytest.raises(CheckpointError, match="shard-00001"):
        job.samples()
    assert torch.equal(run(tmp_path / "job").samples(), before)


def _flip(file, place):
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "harm",
    [
        lambda job: _flip(job.file(1), -1),  # the last bit of the last sample's sign or exponent
        lambda job: _flip(job.file(1), -4),  # its least bit
        lambda job: _flip(job.file(1).with_suffix(".json"), 20),
        lambda job: job.file(1).with_suffix(".json").write_text("{broken"),
        lambda job: job.file(1).with_suffix(".json").write_text("null"),
        lambda job: job.file(1).with_suffix(".json").write_bytes(b"\xff\xfe"),
        lambda job: job.file(1).with_suffix(".json").write_text("[" * 10**5),
        lambda job: job.file(1).with_suffix(".json").unlink(),
        lambda job: job.file(1).write_bytes(job.file(0).read_bytes()),
        lambda job: np.save(job.file(1), np.load(job.file(1)).astype(np.float64)),
    ],
)
def test_a_damaged_shard_is_noticed_and_healed(tmp_path, harm):
    job = run(tmp_path / "job")
    before, told = job.samples(), job.info(1)
    harm(job)
    assert job.missing() == [1]
    with pytest.raises(CheckpointError, match="shard-00001"):
        job.samples()
    assert torch.equal(run(tmp_path / "job").samples(), before)
    assert {**job.info(1), "seconds": 0} == {**told, "seconds": 0}


def test_a_shard_of_another_dtype_is_none_of_the_jobs(tmp_path):
    job, wide = run(tmp_path / "job"), run(tmp_path / "wide", dtype=torch.float64)
    for file in (wide.file(1), wide.file(1).with_suffix(".json")):  # whole, and sealed
        (tmp_path / "job" / file.name).write_bytes(file.read_bytes())
    assert job.missing() == [1]
    assert run(tmp_path / "job").samples().dtype == torch.float32


def test_a_damaged_info_file_has_a_clear_error(tmp_path):
    job = run(tmp_path / "job")
    job.file(0).with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match=r"shard-00000\.json is missing or damaged"):
        job.info(0)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        ("null", "not a JSON object"),
        ("{", "does not describe a sampling job"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": True}, "batch_size is true"),
        ({"seeds": []}, "seeds is"),
        ({"seeds": ["0"]}, "seeds is"),
        ({"event_shape": [-1]}, "event_shape is"),
        ({"dtype": None}, "dtype is null"),
    ],
)
def test_a_damaged_description_has_a_clear_error(tmp_path, edit, says):
    job = run(tmp_path)
    config = tmp_path / "config.json"
    text = edit if isinstance(edit, str) else json.dumps({**job.config, **edit})
    config.write_text(text)
    for act in (lambda: SampleFolder.open(tmp_path), lambda: run(tmp_path)):
        with pytest.raises(CheckpointError, match=says):
            act()
    assert config.read_text() == text


def _start(eta, folder, ready, answers):
    ready.wait()
    try:
        run(folder, solver=sd.DDIM(eta=eta))
    except CheckpointError:
        answers.put((eta, False))
    else:
        answers.put((eta, True))


def test_of_two_jobs_that_start_at_once_in_a_new_folder_one_is_refused(tmp_path):
    """Without an exclusive claim, both went on in every second try, and their samples mixed."""
    torch.set_num_threads(1)
    fork = multiprocessing.get_context("fork")
    for k in range(20):
        folder, ready, answers = tmp_path / str(k), fork.Barrier(2), fork.Queue()
        both = [fork.Process(target=_start, args=(e, folder, ready, answers)) for e in (0.0, 1.0)]
        for process in both:
            process.start()
        told = dict(answers.get(timeout=60) for _ in both)
        for process in both:
            process.join()
        assert sorted(told.values()) == [False, True]
        winner = next(eta for eta, accepted in told.items() if accepted)
        job = run(folder, solver=sd.DDIM(eta=winner))
        assert job.config["solver"] == repr(sd.DDIM(eta=winner))
        whole = run(tmp_path / f"alone-{winner}", solver=sd.DDIM(eta=winner))
        assert torch.equal(job.samples(), whole.samples())


def test_a_folder_that_another_job_took_is_written_to_no_more(tmp_path):
    model = mixture()
    model.__class__ = Thief
    Thief.act = None
    run(tmp_path / "other", model=model, solver=sd.DDIM(), key="x")
    other = (tmp_path / "other" / "config.json").read_bytes()
    Thief.act = lambda: (tmp_path / "job" / "config.json").write_bytes(other)
    with pytest.raises(CheckpointError, match="another configuration: solver was"):
        run(tmp_path / "job", model=model, key="x")
    assert [p.name for p in (tmp_path / "job").iterdir()] == ["config.json"]


class Thief(sd.GaussianMixture):
    """Puts another job's description into the folder, at the second evaluation."""

    act: ClassVar = None
    calls: ClassVar = 0

    def __call__(self, x, knot):
        Thief.calls += 1
        if Thief.act and len(x) == 3:
            Thief.act()
        return super().__call__(x, knot)


def test_left_overs_of_killed_programs_are_removed_when_they_are_old(tmp_path):
    run(tmp_path)
    old, new = tmp_path / ".shard-00000.npy.ab.part", tmp_path / ".shard-00001.npy.cd.part"
    for part in (old, new):
        part.touch()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    run(tmp_path)
    assert not old.exists()
    assert new.exists()  # of a program that may be writing now


def test_files_have_the_permissions_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        run(tmp_path)
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}


def test_of_many_that_create_a_file_one_does(tmp_path, monkeypatch):
    def link(*args):
        raise PermissionError("no hard links here")

    for links in (True, False):
        if not links:
            monkeypatch.setattr("os.link", link)
        file = tmp_path / str(links)
        with ThreadPoolExecutor(8) as pool:
            wrote = list(pool.map(lambda k, f=file: (write_new(f, b"%d" % k), k), range(8)))
        (winner,) = [k for won, k in wrote if won]
        assert file.read_bytes() == b"%d" % winner
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted({"True", file.name})


def test_a_name_stands_for_the_model_and_the_witness_watches_it(tmp_path):
    run(tmp_path, key="epoch 7")
    config = SampleFolder.open(tmp_path).config
    assert config["model"] == "key epoch 7"
    run(tmp_path, model=mixture(1e-4), key="epoch 7")  # the name is what counts, within reason
    with pytest.raises(CheckpointError, match="model was 'key epoch 7', is now 'key epoch 8'"):
        run(tmp_path, key="epoch 8")
    with pytest.raises(CheckpointError, match="output for a fixed input has changed"):
        run(tmp_path, model=mixture(1.0), key="epoch 7")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": mixture(0.001)}, "model"),
        ({"solver": sd.DDIM(eta=0.5)}, "solver"),
        ({"seeds": range(1, 8)}, "seeds were 7 from 0 to 6, are now 7 from 1 to 7"),
        ({"seeds": range(6)}, "seeds were 7 from 0 to 6, are now 6 from 0 to 5"),
        ({"batch_size": 4}, "batch_size"),
        ({"dtype": torch.float64}, "dtype"),
        ({"final": "none"}, "final"),
    ],
)
def test_other_configuration_is_refused_and_nothing_changes(tmp_path, change, word):
    run(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=word):
        run(tmp_path, **change)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_job_is_extended_by_further_seeds(tmp_path):
    run(tmp_path / "a", notes={"model": "first"})
    first = (tmp_path / "a" / "shard-00000.npy").stat().st_mtime_ns
    job = run(tmp_path / "a", seeds=range(11), notes={"model": "second"})
    assert torch.equal(job.samples(), run(tmp_path / "b", seeds=range(11)).samples())
    assert (tmp_path / "a" / "shard-00000.npy").stat().st_mtime_ns == first
    assert SampleFolder.open(tmp_path / "a").config["notes"] == {"model": "first"}
    assert [s for k in range(job.shards) for s in job.info(k)["seeds"]] == list(range(11))


def test_other_grid_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match="grid"):
        sample_many(
            mixture(), sd.DDIM(eta=1.0), sd.karras(SDE, 5), tmp_path,
            event_shape=(2,), seeds=range(7), batch_size=3,
        )  # fmt: skip


def test_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(CheckpointError, match=r"thesis\.tex"):
        run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"lr": 1}))
    with pytest.raises(CheckpointError, match="does not describe a sampling job"):
        run(tmp_path)


def test_bad_settings(tmp_path):
    with pytest.raises(ConfigError, match="repeat"):
        run(tmp_path / "a", seeds=[1, 2, 1])
    with pytest.raises(ConfigError, match="batch_size"):
        run(tmp_path / "b", batch_size=0)
    with pytest.raises(ConfigError, match="bfloat16"):
        run(tmp_path / "c", dtype=torch.bfloat16)
    assert not list(tmp_path.iterdir())


def test_failed_samples_are_kept_and_named(tmp_path):
    class Poisoned(sd.GaussianMixture):
        def __call__(self, x, knot):
            prediction = super().__call__(x, knot)
            raw = torch.where(x[:, :1] > 1.5, torch.nan, prediction.raw)
            return prediction.replace(raw)

    model = mixture()
    model.__class__ = Poisoned
    with pytest.warns(sd.sampling.NonFiniteWarning):
        job = run(tmp_path, model=model, seeds=range(40), batch_size=40)
    bad = (~job.samples().isfinite().all(1)).nonzero().flatten().tolist()
    assert 0 < len(bad) < 40
    assert sorted(map(int, job.info(0)["failures"])) == bad


def test_conditions_follow_their_seeds(tmp_path):
    def net(x, t, y):
        return x - y[:, None]  # eps that pulls towards y

    model = sd.ScoreModel(net, SDE, time="t").bind(y=torch.arange(7.0))
    job = run(tmp_path, model=model, solver=sd.DDIM())
    whole = sd.sample(model, sd.DDIM(), sd.uniform_lambda(SDE, 5), shape=(7, 2), seeds=range(7))
    torch.testing.assert_close(job.samples(), whole.x)


def test_write_leaves_nothing_half_done(tmp_path, monkeypatch):
    target = tmp_path / "file"
    write_atomic(target, b"old")

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(target, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert target.read_bytes() == b"old"


def test_samples_of_an_edited_solver_are_not_mixed_with_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its times are in whole seconds

    def mine():
        spec = spec_from_file_location("my_solver", tmp_path / "my_solver.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Mine()

    text = (
        "import scoresde as sd\n"
        "SCALE = 1.0\n"
        "class Mine(sd.Solver):\n"
        "    order = 1\n"
        "    def step(self, model, x, t, s, carry, noise):\n"
        "        return model(x, t).x0 * SCALE, None\n"
    )
    (tmp_path / "my_solver.py").write_text(text)
    before = run(tmp_path / "job", solver=mine()).samples()
    assert torch.equal(run(tmp_path / "job", solver=mine()).samples(), before)
    (tmp_path / "my_solver.py").write_text(text.replace("SCALE = 1.0", "SCALE = 0.99"))
    with pytest.raises(CheckpointError, match=r"the code of .*Mine"):
        run(tmp_path / "job", solver=mine())
