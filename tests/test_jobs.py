"""Large jobs: resumed without losing or repeating a sample, never mixed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location

import pytest
import torch

import scoresde as sd
from scoresde._internal.fingerprint import fingerprint
from scoresde.errors import CheckpointError, ConfigError
from scoresde.sampling.jobs import SampleFolder, sample_many, write_atomic

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
    model.left = 7  # the first shard takes 5
    # The class and the counter would count as another model.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoresde.sampling.jobs.fingerprint", lambda value: "same")
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
        model(time=sd.ScaledTime(999)),
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


OWN = """
import torch, scoresde as sd
from helper import Half
SCALE = 1.0

class Mine(sd.Solver):
    order = 1
    names = frozenset(("a", "b", "c"))
    def step(self, model, x, t, s, carry, noise):
        return model(x, t).x0 * SCALE, None

class Net(Half):
    def forward(self, x, t):
        return 0.5 * x

def features(x):
    return x[:, :1] if x.dtype in {torch.float32, torch.float64} else x

def model():
    return sd.ScoreModel(Net(), sd.VPSDE(), time="t")
"""
HELPER = "import torch\nclass Half(torch.nn.Module):\n    half = 0.5\n"


def _own(folder, text=OWN, helper=HELPER):
    """Fingerprints of solver, model and features that lie in files, by a process of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(text)
    (folder / "helper.py").write_text(helper)
    code = (
        "import own\nfrom scoresde._internal.fingerprint import fingerprint as f\n"
        "print(f(own.Mine()), f(own.model()), f(own.features), f(own.Mine))"
    )
    done = subprocess.run(
        [sys.executable, "-B", "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_fingerprint_sees_the_files_of_users_and_not_where_they_are(tmp_path):
    first = _own(tmp_path / "a")
    assert _own(tmp_path / "b") == first  # another process, another folder
    for edit in (("0.5 * x", "0.6 * x"), ("SCALE = 1.0", "SCALE = 0.9")):
        assert not set(_own(tmp_path / "a", OWN.replace(*edit))) & set(first)
    parent = _own(tmp_path / "a", helper=HELPER.replace("0.5", "0.4"))
    assert [a == b for a, b in zip(parent, first, strict=True)] == [True, False, True, True]


def test_fingerprint_sees_code_that_is_in_no_file():
    def typed(text):
        space = {"__name__": "__main__"}
        exec(compile(text, "<stdin>", "exec"), space)
        return space["Typed"]

    text = "class Typed:\n    @property\n    def a(self):\n        return [i for i in 'ab']\n"
    one, other = typed(text), typed(text.replace("ab", "abc"))
    assert fingerprint(one()) == fingerprint(typed(text)()) != fingerprint(other())


def test_samples_of_an_edited_solver_are_not_mixed_with_those_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its times are in whole seconds

    def mine():
        spec = spec_from_file_location("my_solver", tmp_path / "my_solver.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.Mine()

    text = OWN.replace("from helper import Half", "Half = torch.nn.Module")
    (tmp_path / "my_solver.py").write_text(text)
    before = run(tmp_path / "job", solver=mine()).samples()
    assert torch.equal(run(tmp_path / "job", solver=mine()).samples(), before)
    (tmp_path / "my_solver.py").write_text(text.replace("SCALE = 1.0", "SCALE = 0.99"))
    with pytest.raises(CheckpointError, match=r"the code of .*Mine"):
        run(tmp_path / "job", solver=mine())
