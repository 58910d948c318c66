"""Large jobs: resumed without losing or repeating a sample, never mixed."""

from __future__ import annotations

import json

import pytest
import torch

import scoresde as sd
from scoresde.errors import CheckpointError, ConfigError
from scoresde.identity import fingerprint
from scoresde.jobs import SampleFolder, sample_many, write_atomic

SDE = sd.VPSDE()


def mixture(shift: float = 0.0) -> sd.GaussianMixture:
    means = torch.tensor([[-1.0 + shift, 0.5], [1.0, -0.5]])
    return sd.GaussianMixture(SDE, means, sd.isotropic(0.04))


class Interrupted(sd.GaussianMixture):
    """Presses Ctrl-C after so many evaluations."""

    def __call__(self, x, knot):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().__call__(x, knot)


def run(folder, model=None, solver=None, **settings):
    args = {"shape": (2,), "seeds": range(7), "batch": 3, **settings}
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
    assert job.info(0)["nfe"] == 5


def test_interrupted_job_goes_on_and_ends_bitwise_the_same(tmp_path):
    straight = run(tmp_path / "a").samples()
    model = mixture()
    model.__class__ = Interrupted
    model.left = 7  # the first shard takes 5
    # The class and the counter would count as another model.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoresde.jobs.fingerprint", lambda value: "same")
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "b", model=model)
        assert SampleFolder.open(tmp_path / "b").missing() == [1, 2]
        assert not list((tmp_path / "b").glob(".*"))
        first = (tmp_path / "b" / "shard-00000.npy").stat().st_mtime_ns
        resumed = run(tmp_path / "b")
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


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": mixture(0.001)}, "model"),
        ({"solver": sd.DDIM(eta=0.5)}, "solver"),
        ({"seeds": range(8)}, "seeds"),
        ({"batch": 4}, "batch"),
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


def test_other_grid_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match="grid"):
        sample_many(
            mixture(), sd.DDIM(eta=1.0), sd.karras(SDE, 5), tmp_path,
            shape=(2,), seeds=range(7), batch=3,
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
    with pytest.raises(ConfigError, match="batch"):
        run(tmp_path / "b", batch=0)
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
        job = run(tmp_path, model=model, seeds=range(40), batch=40)
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


def test_fingerprint_is_content():
    def net(seed):
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))

    def model(seed=0, sde=SDE, **kw):
        return sd.ScoreModel(net(seed), sde, **{"time": "t", **kw})

    same = fingerprint(model())
    assert fingerprint(model()) == same
    assert fingerprint(model().eval()) == same  # dropout aside, mode is no setting of its own
    others = [
        model(1),
        model(sde=sd.VPSDE(t_min=1e-5)),
        model(predicts="v"),
        model(time=sd.scaled(999)),
        model().bind(y=1),
        model().to(torch.float64),
    ]
    assert len({same, *map(fingerprint, others)}) == 1 + len(others)
    one_bit = model()
    with torch.no_grad():
        bias = one_bit.net[2].bias
        bias[1] = torch.nextafter(bias[1], torch.tensor(9.0))
    assert fingerprint(one_bit) != same
    assert fingerprint(mixture()) == fingerprint(mixture()) != fingerprint(mixture(1e-6))
    assert fingerprint(lambda x: x + 1) != fingerprint(lambda x: x + 2)
