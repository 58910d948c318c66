"""The command line: names are read safely, files are written, and errors say what to write."""

from __future__ import annotations

import json
import re
import shutil
import sys

import numpy as np
import pytest
import torch

import scoresde as sd
import scoresde.grid
from scoresde._internal import specs
from scoresde.cli import main, measuring
from scoresde.cli.app import app
from scoresde.errors import ConfigError
from scoresde.exact import problems
from scoresde.sampling.jobs import SampleFolder
from scoresde.solvers import Heun, Langevin, PredictorCorrector
from scoresde.solvers.exponential.presets import published


@pytest.fixture
def run(monkeypatch, capsys):
    """scoresde ARGS -> (exit code, stdout, stderr)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["scoresde", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return call


# -- specifications -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "solver",
    [
        sd.DDIM(),
        sd.DDIM(eta=0.5),
        Heun(s_churn=10.0),  # s_max=inf, as repr writes it
        PredictorCorrector(sd.DDIM(eta=1.0), Langevin(snr=0.1, steps=2)),
        sd.EulerMaruyama(stochasticity=0.5),
    ],
)
def test_repr_and_description_read_back(solver):
    assert specs.solver(repr(solver)) == solver
    assert specs.solver(specs.describe(solver)) == solver


def test_description_leaves_defaults_out():
    assert specs.describe(sd.DDIM()) == "DDIM"
    assert specs.describe(PredictorCorrector(sd.DDIM(eta=1.0))) == (
        "PredictorCorrector(predictor=DDIM(eta=1.0))"
    )


def test_published_names_describe_and_read_back():
    assert specs.describe(sd.DPMSolverPP(3, tau=1.0)) == "DPMSolverPP(order=3, tau=1.0)"
    assert specs.describe(sd.UniPC()) == "UniPC"
    assert specs.describe(sd.ExponentialMultistep(2, "v", corrector=1)).startswith("Exponential")
    for preset, spec in published().items():
        assert specs.describe(preset) == spec
        assert specs.solver(spec) == preset


@pytest.mark.parametrize("name", specs.SOLVERS)
def test_every_solver_of_the_table_is_made(name):
    assert isinstance(specs.solver(name), sd.Solver)


@pytest.mark.parametrize("name", ["uniform_t", "uniform_lambda", "karras", "power"])
def test_every_grid_of_the_table_is_made(name):
    grid = specs.grid(name)(sd.VPSDE(), 7)
    assert grid == getattr(scoresde.grid, name)(sd.VPSDE(), 7)
    assert specs.grid("karras(exponent=5)")(sd.VPSDE(), 7) == sd.karras(sd.VPSDE(), 7, 5)


def test_processes_and_foreign_classes():
    assert specs.process("VESDE(sigma_max=80.0)") == sd.VESDE(sigma_max=80.0)
    assert specs.solver("scoresde.solvers.ddim:DDIM(eta=1.0)", own=True) == sd.DDIM(eta=1.0)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("DDIMM", "did you mean 'DDIM'"),
        ("DDIM(etta=1)", "did you mean 'eta'"),
        ("DDIM(eta=", "never closed"),
        ("DDIM) or (1", "never closed"),
        ("DDIM(eta=__import__('os').getcwd())", "cannot read|unknown"),
        ("DDIM(eta=[x for x in (1,)])", "an argument is a number"),
        ("DDIM(**{'eta': 1})", r"\*\* is not allowed"),
        ("DDIM(eta=2.0)", "between 0 and 1"),
        ("no.such.module:Solver", "cannot import"),
        ("scoresde.solvers:DDIMM", "did you mean 'DDIM'"),
        ("scoresde.sde:VPSDE", "not a scoresde.Solver"),
    ],
)
def test_nonsense_says_what_would_be_right(spec, hint):
    with pytest.raises(ConfigError, match=hint):
        specs.solver(spec, own=True)


def test_grid_arguments_are_checked():
    with pytest.raises(ConfigError, match="did you mean 'exponent'"):
        specs.grid("karras(exponant=5)")
    with pytest.raises(ConfigError, match="unknown argument of karras 'sde'"):
        specs.grid("karras(sde=1)")


# -- commands ------------------------------------------------------------------------------------


def test_sample_writes_what_python_draws(run, tmp_path):
    out = tmp_path / "ring"
    code, said, _ = run(
        "sample", "ring8(seed=3)", "--solver", "DDIM(eta=1.0)", "--n", 5, "--nfe", 6,
        "--batch-size", 2, "--dtype", "float64", "--seed", 7, "--out", out,
    )  # fmt: skip
    assert code == 0
    assert "5 samples of DDIM(eta=1.0), 6 network evaluations each" in said
    sde = sd.VPSDE(t_min=1e-5)
    from scoresde.exact.problems import ring8

    truth = sd.sample(
        ring8(sde, seed=3), "ddim(eta=1.0)", nfe=6, shape=(5, 2),
        seeds=range(7, 12), dtype=torch.float64,
    )  # fmt: skip
    torch.testing.assert_close(SampleFolder.open(out).samples(), truth.x)
    code, _, error = run("sample", "ring8(seed=4)", "--n", 5, "--batch-size", 2, "--out", out)
    assert code == 2
    assert "another configuration: " in error
    assert "Traceback" not in error


def test_a_budget_that_cannot_be_used_up_is_told(run, tmp_path):
    code, said, _ = run(
        "sample", "ring8", "--solver", "Heun", "--nfe", 10, "--n", 2, "--out", tmp_path / "a"
    )
    assert code == 0
    assert "takes 9 evaluations on this grid, the largest number within 10" in said
    sde = sd.VPSDE(t_min=1e-5)
    theirs = SampleFolder.open(tmp_path / "a").config["grid"]
    from scoresde.exact.problems import ring8

    assert theirs == sd.sample(ring8(sde), "Heun", nfe=10, shape=(1, 2)).grid.to_dict()


def test_recommended_is_the_default_and_a_tuned_grid_replaces_its_own(run, tmp_path):
    code, said, error = run("sample", "ring8", "--n", 2, "--nfe", 7, "--out", tmp_path / "a")
    assert code == 0, error
    assert "7 network evaluations each" in said
    code, said, error = run(
        "tune", "ring8", "--nfe", 7, "--starts", 4, "--held-out", 4, "--rounds", 1,
        "--out", tmp_path / "grid.json",
    )  # fmt: skip
    assert code == 0, error
    assert "times the default's" in said or "no candidate is better than the default" in said
    for option, place in (("--grid", "b"), ("--solver", "s")):
        code, said, error = run(
            "sample", "ring8", "--n", 2, "--nfe", 7, option, tmp_path / "grid.json",
            "--out", tmp_path / place,
        )  # fmt: skip
        assert code == 0, error
    one, other = (SampleFolder.open(tmp_path / place).config for place in "bs")
    assert other.pop("notes")["solver"] == one.pop("notes")["grid"] == str(tmp_path / "grid.json")
    assert one == other
    code, said, error = run(
        "sample", "ring8", "--n", 2, "--solver", tmp_path / "grid.json", "--grid", "karras",
        "--out", tmp_path / "d",
    )  # fmt: skip
    assert code == 2
    assert "contains its own grid" in error
    code, said, error = run(
        "sample", "ring8", "--n", 2, "--nfe", 8, "--grid", tmp_path / "grid.json",
        "--out", tmp_path / "c",
    )  # fmt: skip
    assert code == 2
    assert "a grid of 7 evaluations, not 8; leave --nfe out, or tune another grid" in error
    times = json.loads((tmp_path / "grid.json").read_text())["times"]
    assert SampleFolder.open(tmp_path / "b").config["grid"]["times"] == times


MINE = """
from dataclasses import dataclass
from scoresde import DDIM

@dataclass(frozen=True)
class Mine(DDIM):
    gain: float = 1.0
"""


def test_a_grid_is_tuned_by_a_distance_to_true_samples(run, tmp_path):
    out = tmp_path / "grid.json"
    settings = ("tune", "ring8", "--nfe", 5, "--starts", 64, "--held-out", 128, "--out", out)
    code, said, error = run(*settings, "--solver", "DDIM", "--metric", "energy", "--truths", 500)
    assert code == 0, error
    assert "energy distance" in said
    assert json.loads(out.read_text())["metric"] == "energy distance"
    np.save(tmp_path / "true.npy", np.full((9, 3), 0.5, np.float32))
    np.save(tmp_path / "whole.npy", np.full((9, 2), 400))
    for options, wrong in (
        (("--metric", "rms"), "unknown distance 'rms' (known: energy, frechet, kernel, mmd"),
        (("--metric", "precision"), "unknown distance 'precision'"),
        (("--metric", "frechet"), "'frechet' needs features; write features=digit_features(), or"),
        (("--truth", "true.npy"), "--truth, --truths and --features need a --metric; write"),
        (
            ("--metric", "energy", "--truth", tmp_path / "true.npy"),
            f"have shape (2,), those of --truth {tmp_path / 'true.npy'} have shape (3,)",
        ),
        (
            ("--metric", "energy", "--truth", tmp_path / "whole.npy"),
            "integers are read as images with levels 0..255, but",
        ),
    ):
        code, said, error = run(*settings, *options)
        assert code == 2
        assert wrong in error


def test_true_samples_are_drawn_from_a_file_but_its_first(tmp_path):
    file = tmp_path / "true.npy"
    np.save(file, np.arange(40, dtype=np.float32).reshape(20, 2))
    metric = measuring.distance(
        "energy", problems.ring8(sd.VPSDE()), (2,),
        truth=str(file), skipped=12, truths=5, features="", seed=3, device="cpu",
    )  # fmt: skip
    rows = set((metric.reference[:, 0] / 2).tolist())
    assert len(rows) == 5
    assert rows < set(range(12, 20))


def test_tuned_grid_of_a_solver_of_ones_own(run, tmp_path):
    file = tmp_path / "a_solver_of_mine.py"
    file.write_text(MINE)
    tuned = tmp_path / "new" / "folder" / "grid.json"
    code, said, error = run(
        "tune", "ring8", "--nfe", 5, "--solver", f"{file}:Mine(gain=2.0)", "--starts", 4,
        "--held-out", 4, "--rounds", 1, "--out", tuned,
    )  # fmt: skip
    assert code == 0, error
    assert "Mine(gain=2.0)" in said
    assert str(tmp_path) not in tuned.read_text()
    code, said, error = run("sample", "ring8", "--n", 2, "--grid", tuned, "--out", tmp_path / "b")
    assert code == 2
    assert "--solver FILE.py:NAME beside --grid" in error
    code, said, error = run(
        "sample", "ring8", "--n", 2, "--grid", tuned, "--solver", f"{file}:Mine(gain=2.0)",
        "--out", tmp_path / "c",
    )  # fmt: skip
    assert code == 0, error
    code, said, error = run("tune", "ring8", "--nfe", 5, "--out", tmp_path)
    assert code == 2
    assert "is a folder; write --out" in error


def test_bench_writes_a_report(run, tmp_path):
    code, said, error = run(
        "bench", "ring8", "--solver", "DDIM", "--solver", "recommended", "--nfe", "4,6",
        "--samples", 8, "--out", tmp_path,
    )  # fmt: skip
    assert code == 0, error
    assert "| recommended" in said
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["setup"]["given"] == {"model": "ring8"}
    assert report["setup"]["event_shape"] == [2]
    assert [(c["solver"], c["nfe"]) for c in report["cells"]] == [
        ("DDIM", 4), ("DDIM", 6), ("recommended", 4), ("recommended", 6),
    ]  # fmt: skip
    assert (tmp_path / "report.html").exists()
    assert "- Command: `scoresde bench ring8 --solver DDIM" in (tmp_path / "report.md").read_text()


def test_bench_takes_peers_features_measures_and_tuned_grids(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import scoresde as sd\n"
        "def corners(x):\n"
        "    return x.sign()\n"
        "class Peer:\n"
        "    name, package, version, kind = 'their Euler', 'theirs', '2', 'deterministic'\n"
        "    def run(self, model, nfe, x, seed=0):\n"
        "        grid = sd.uniform_lambda(model.sde, nfe)\n"
        "        return sd.sample(model, sd.DDIM(), grid, x=x).x, nfe\n"
    )
    (tmp_path / "others.py").write_text(
        "from mine import Peer\n"
        "KINDS = ('deterministic',)\n"
        "def available(kind): return [Peer()]\n"
        "def absent(): return {'azula': 'pip install azula'}\n"
    )
    code, _, error = run(
        "tune", "spiral", "--nfe", 6, "--solver", "DDIM", "--starts", 8, "--held-out", 8,
        "--rounds", 1, "--out", tmp_path / "grid.json",
    )  # fmt: skip
    assert code == 0, error
    args = [
        "bench", "spiral", "--solver", "DDIM", "--solver", tmp_path / "grid.json", "--nfe", "6",
        "--samples", 16, "--metric", "rms", "--metric", "frechet",
        "--features", f"{tmp_path}/mine.py:corners", "--jobs", 2,
        "--out", tmp_path / "out",
    ]  # fmt: skip
    theirs = ["--peers-from", "others", "--peer", "their Euler"]
    code, said, error = run(*args, *theirs, "--peer", "azula DDIM uniform t")
    assert code == 0, error
    assert "Not installed: azula" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    own, tuned, peer = report["cells"]
    assert tuned["solver"] == "tuned"
    assert tuned["nfe"] == 6
    assert own["scores"]["rms endpoint error"] == peer["scores"]["rms endpoint error"]
    assert set(peer["scores"]) == {"rms endpoint error", "Frechet distance"}
    shutil.copy(tmp_path / "grid.json", tmp_path / "again.json")
    assert run(*args, "--solver", tmp_path / "again.json", "--jobs", 1)[0] == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [c["solver"] for c in report["cells"]] == ["DDIM", "tuned (grid)", "tuned (again)"]
    for wrong, words in (
        (["--peers-from", "others", "--peer", "their Eule"], "did you mean 'their Euler'"),
        (["--peer", "all", "--peers-from", "no.peers"], "cannot find peers"),
        (["--features", "inception:gone.pth"], "no file 'gone.pth'"),
        (["--metric", "fidd"], "did you mean 'fid'"),
    ):
        code, _, error = run(*args, *wrong)
        assert code == 2
        assert words in error


def test_own_model_file(run, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch, scoresde as sd\n"
        "def make():\n"
        "    return sd.Gaussian(sd.VPSDE(), torch.zeros(3), sd.Covariance.isotropic(0.25))\n"
        "model = make()\n"
        "number = 3\n"
        "class Mine(sd.Solver):\n"
        "    order = 1\n"
        "    def step(self, model, x, t, s, carry, noise):\n"
        "        return model(x, t).x0, None\n"
    )
    own = f"{tmp_path}/mine.py:Mine"
    code, said, error = run(
        "sample", "ring8", "--solver", own, "--nfe", 3, "--n", 2, "--out", tmp_path / "own"
    )
    assert code == 0, error
    assert "2 samples of Mine, 3 network evaluations each" in said
    assert specs.lookup("solver", own, {}, own=True) is type(
        specs.solver(own, own=True)
    )  # loaded once
    for member in ("make", "model"):
        code, _, error = run(
            "sample", f"{tmp_path}/mine.py:{member}", "--n", 2, "--out", tmp_path / member
        )
        assert code == 0, error
        assert SampleFolder.open(tmp_path / member).samples().shape == (2, 3)
    for member, word in (("modle", "did you mean 'model'"), ("number", "must be a model")):
        code, _, error = run("sample", f"{tmp_path}/mine.py:{member}", "--out", tmp_path / "x")
        assert code == 2
        assert word in error


def test_a_process_is_for_closed_forms(run, tmp_path):
    (tmp_path / "fixed.py").write_text(
        "import torch, scoresde as sd\n"
        "model = sd.Gaussian(sd.VPSDE(), torch.zeros(3), sd.Covariance.isotropic(0.25))\n"
    )
    for command in ("sample", "bench"):
        code, _, error = run(
            command, f"{tmp_path}/fixed.py:model", "--process", "EDMSDE()", "--out", tmp_path / "x"
        )
        assert code == 2
        assert "--process is only for closed-form problems" in error
        assert "has its own process, VPSDE(t_min=0.001" in error


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_line_of_its_own(run, tmp_path):
    (tmp_path / "torn.py").write_text(
        "import torch, scoresde as sd\n"
        "def net(x, t):\n"
        "    return torch.where(x[:, :1] > 0, torch.nan, x)\n"
        "model = sd.ScoreModel(net, sd.VPSDE(), time='t')\n"
    )
    code, _, error = run(
        "sample", f"{tmp_path}/torn.py:model", "--event-shape", 2, "--n", 9, "--nfe", 3,
        "--out", tmp_path / "x",
    )  # fmt: skip
    assert code == 0
    assert re.search(r"(^|[\r\n])scoresde: \d of 9 samples are not finite", error)
    assert "Warning:" not in error


def test_ctrl_c_in_bench_says_how_to_go_on(run, tmp_path, monkeypatch):
    def stop(*args, **settings):
        raised = KeyboardInterrupt()
        raised.add_note("3 of 8 cells done")
        raise raised

    monkeypatch.setattr("scoresde.cli.benchmark.compare", stop)
    code, _, error = run("bench", "ring8", "--out", tmp_path)
    assert code == 130
    assert error.endswith(
        "scoresde: stopped, 3 of 8 cells done; run the same command again to resume\n"
    )


def test_nll_is_that_of_the_library(run, tmp_path):
    (tmp_path / "small.py").write_text(
        "import torch, scoresde as sd\n"
        "data = torch.zeros(1, 2, 2), sd.Covariance.isotropic(0.1)\n"
        "model = sd.Gaussian(sd.VPSDE(t_min=1e-5), *data)\n"
    )
    images = np.random.default_rng(0).integers(90, 160, (3, 1, 2, 2)).astype(np.uint8)
    np.savez(tmp_path / "images.npz", digits=images)
    spec, data = f"{tmp_path}/small.py:model", f"{tmp_path}/images.npz:digits"
    out = tmp_path / "nll"
    args = ("nll", spec, "--data", data, "--n", 2, "--draws", 2, "--nodes", 61, "--out", out)
    code, said, error = run(*args)
    assert code == 0, error
    record = json.loads((out / "summary.json").read_text())
    assert f"{record['bits_per_dim']:.3f} +- {record['stderr']:.3f} bits/dim" in said
    named = {
        line.partition(" ")[0]: set(re.findall(r"([a-z]+) -?[\d.]+", line))
        for line in said.splitlines()
    }
    assert named["standard"] == {"images", "trace", "draws"}
    assert {"ode", "truncation"} <= named["systematic:"]
    assert named["systematic:"].isdisjoint(named["standard"])
    assert record["data"] == data
    assert run(*args)[1] == said  # nothing is left to do
    code, _, error = run(*args, "--seed", 1)
    assert code == 2
    assert "another configuration: seed" in error
    per_image = np.load(out / "per_image.npz")["bits_per_dim"]
    # The truth: a Gaussian's own log-density at t_min, at the draws that the library takes.
    sde = sd.VPSDE(t_min=1e-5)
    model = sd.Gaussian(sde, torch.zeros(1, 2, 2), sd.Covariance.isotropic(0.1))
    middle = torch.from_numpy(images[:2]).double().add(0.5).div(128).sub(1)
    truth = -model.log_prob(middle, 1e-5) / (4 * np.log(2)) - np.log2(2 / 256)
    # Within a bin, u^2 / 2 s^2 changes by at most |x| width / (2 s^2) + ..., about 0.01 bits/dim.
    assert per_image.tolist() == pytest.approx(truth.tolist(), abs=0.02)
    code, _, error = run("nll", spec, "--data", f"{tmp_path}/images.npz:letters")
    assert code == 2
    assert "digits" in error


def test_a_coarse_likelihood_names_the_options_that_mend_it(run, tmp_path):
    (tmp_path / "wide.py").write_text(
        "import torch, scoresde as sd\n"
        "means = torch.linspace(-0.8, 0.8, 12).repeat(12, 1).double() * torch.eye(12)\n"
        "model = sd.GaussianMixture(sd.VPSDE(t_min=1e-5), means, sd.Covariance.isotropic(1e-4))\n"
    )
    np.save(
        tmp_path / "x.npy", np.full((3, 12), 128, np.uint8) + np.arange(3, dtype=np.uint8)[:, None]
    )
    args = ("nll", f"{tmp_path}/wide.py:model", "--data", tmp_path / "x.npy", "--nodes")
    code, said, error = run(*args, 5)
    assert code == 0, error
    assert "exceeds the standard error" in said
    assert "write --nodes 9, or --method 'PerSample(tol=1e-4)'" in said
    assert "AccuracyWarning" not in error


def test_train_from_a_recipe_file(run, tmp_path):
    from scoresde.training.loop import load_recipe

    recipe = load_recipe("swiss_roll").to_dict()
    recipe["data"]["n"] = 500
    (tmp_path / "tiny.json").write_text(json.dumps(recipe))
    code, said, error = run(
        "train", tmp_path / "tiny.json", "--steps", 3, "--out", tmp_path / "run"
    )
    assert code == 0, error
    assert "model.safetensors" in said
    model = tmp_path / "run" / "model.safetensors"
    code, _, error = run("sample", model, "--n", 3, "--nfe", 4, "--out", tmp_path / "out")
    assert code == 0, error
    assert SampleFolder.open(tmp_path / "out").samples().shape == (3, 2)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["sample", "mnits", "--out", "OUT"], ["unknown model", "did you mean 'mnist'"]),
        (["sample", "ring8", "--grid", "karas", "--out", "OUT"], ["did you mean 'karras'"]),
        (["sample", "ring8", "--process", "VPSDEE", "--out", "OUT"], ["did you mean 'VPSDE'"]),
        (["sample", "ring8", "--event-shape", "a,b", "--out", "OUT"], ["such as 3,32,32"]),
        (
            ["sample", "ring8", "--event-shape", "3", "--out", "OUT"],
            ["write --event-shape 2, or leave"],
        ),
        (
            ["sample", "mnist", "--event-shape", "3,32,32", "--out", "OUT"],
            ["write --event-shape 1,28,28"],
        ),
        (
            ["bench", "mnist", "--event-shape", "0,1", "--out", "OUT"],
            ["write --event-shape 1,28,28"],
        ),
        (
            ["sample", "ring8", "--nfe", "9", "--solver", "ProbabilityFlow", "--out", "OUT"],
            ["a tolerance instead of a budget"],
        ),
        (["sample", "ring8", "--solver", "nowhere.py:Mine", "--out", "OUT"], ["no file"]),
        (["sample", "ring8", "--device", "cuda:99", "--out", "OUT"], ["cannot use device"]),
        (["sample", "gone.safetensors", "--out", "OUT"], ["no checkpoint"]),
        (["train", "swiss_rol", "--out", "OUT"], ["did you mean 'swiss_roll'"]),
        (["nll", "mnist", "--data", "nowhere.npy"], ["cannot read 'nowhere.npy'"]),
        (["nll", "mnist", "--pixels", "centres"], ["'edges' convention"]),
        (["nll", "ring8", "--method", "FixedGird"], ["did you mean 'FixedGrid'"]),
        # No option is ignored.
        (["nll", "mnist", "--method", "FixedGrid", "--nodes", "9"], ["leave one out"]),
        (["nll", "mnist", "--table", "parquet"], ["write --out FOLDER as well"]),
        (["train", "swiss_roll", "--data", "gone.npz", "--out", "OUT"], ["leave the data out"]),
        (["info", "--process", "VESDE"], ["write scoresde info ring8"]),
        (["bench", "ring8", "--peers-from", "here", "--out", "OUT"], ["write --peer all"]),
        (["bench", "ring8", "--truths", "9", "--out", "OUT"], ["write --truth"]),
        (["bench", "ring8", "--grid", "karras", "--solver", "recommended", "--out", "OUT"],
         ["leave grids out"]),
        (["bench", "ring8", "--nfe", "9", "--solver", "ProbabilityFlow", "--out", "OUT"],
         ["has its own grid or chooses its"]),
        (["bench", "ring8", "--tolerance", "1e-3", "--metric", "energy", "--out", "OUT"],
         ["tolerance=0.001 is for reference endpoints"]),
        (["bench", "mnist", "--truth", "x.npy", "--metric", "rms", "--out", "OUT"],
         ["--truth x.npy is not used by the metric rms"]),
        (["bench", "mnist", "--features", "digits", "--metric", "energy", "--out", "OUT"],
         ["--features digits is not used by the metric energy"]),
        (["tune", "ring8", "--truths", "9", "--out", "OUT"], ["need a --metric"]),
        (["tune", "ring8", "--solver", "EulerMaruyama", "--rounds", "1", "--out", "OUT"],
         ["rounds=1 has no effect here"]),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_code_2(run, tmp_path, args, words):
    code, _, error = run(*[str(tmp_path / "x") if a == "OUT" else a for a in args])
    assert code == 2
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    for word in words:
        assert word in error
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "args",
    [
        ["sample", "ring8", "--nfe", 2, "--n", 2],
        ["nll", "mnist", "--n", 2],
        ["train", "swiss_roll", "--steps", 1],
        ["bench", "ring8", "--nfe", 2, "--solver", "DDIM", "--samples", 4],
        ["tune", "ring8", "--nfe", 2, "--starts", 2, "--held-out", 2],
        ["demo"],
    ],
    ids=lambda args: args[0],
)
def test_a_place_that_cannot_be_written_to_is_one_line(run, tmp_path, args):
    (tmp_path / "file").write_text("in the way")
    code, _, error = run(*args, "--out", tmp_path / "file" / "out")
    assert code == 2
    assert "Traceback" not in error
    assert str(tmp_path / "file") in error.strip().splitlines()[-1]


def test_info_lists_and_describes(run):
    code, said, _ = run("info")
    assert code == 0
    text = re.sub(r"\s+", " ", said)
    for name in (*specs.SOLVERS, *specs.GRIDS, *specs.PROCESSES, "mnist", "ring8"):
        assert name in text
    code, said, _ = run("info", "mnist")
    assert code == 0
    assert "VPSDE" in said
    assert "(1, 28, 28)" in said


def test_help_has_examples_that_parse(run):
    """Every example is a command that exists, with options that exist."""
    import typer

    commands = typer.main.get_command(app).commands
    for name, command in commands.items():
        assert f"`scoresde {name}" in command.epilog
        for line in re.findall(r"`(scoresde .*?)`", command.epilog):
            words = line.split()
            options = {o for p in commands[words[1]].params for o in p.opts}
            assert {word for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize(
    ("metric", "found"),
    [("fid", ("heldout", "digits")), ("KID", ("heldout", "digits")), ("RMS", ("", ""))],
)
def test_true_samples_and_features_are_found_for_names_of_the_field(metric, found):
    assert measuring.at_hand("mnist", "", "", [metric]) == found


def test_features_are_for_metrics_that_take_them():
    assert measuring.at_hand("mine", "", "digits", ["fid"]) == ("", "digits")
    with pytest.raises(ConfigError, match="not used by the metric RMS"):
        measuring.at_hand("mine", "", "digits", ["RMS"])
