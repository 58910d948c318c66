"""A file is data: reading it imports nothing, runs nothing and does not exhaust memory."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import gaussian

import scoresde as sd
from scoresde import tune
from scoresde._internal import files, specs
from scoresde.cli import main
from scoresde.errors import CheckpointError, ConfigError
from scoresde.grid import uniform_lambda
from scoresde.training import networks
from scoresde.training.checkpoint import load_model, read, save_model
from scoresde.training.loop import Recipe, load_recipe
from scoresde.tune.result import MOST_KNOTS, Tuned

ROOT = Path(__file__).parent.parent
SDE = sd.VPSDE(t_min=1e-5)  # of closed-form problems on the command line


@pytest.fixture
def run(monkeypatch, capsys):
    """scoresde ARGS -> (exit code, stderr)."""

    def call(*args):
        monkeypatch.setattr(sys, "argv", ["scoresde", *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capsys.readouterr().err

    return call


def tuned(solver: sd.Solver, sde: sd.SDE = SDE) -> Tuned:
    return Tuned(
        solver, uniform_lambda(sde, 4), "0" * 16, 4, 4, "default", "RMS endpoint error", 0.5,
        None, None, None, 1,
    )  # fmt: skip


def grid_file(path: Path, **changes: object) -> Path:
    tuned(sd.DDIM()).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def one_line(error: str) -> bool:
    return len(error.strip().splitlines()) == 1 and "Traceback" not in error and len(error) < 1500


# -- names in files ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["load", "--grid", "--solver"])
@pytest.mark.parametrize(
    "attack",
    [
        {"from": "os", "solver": "system('touch TOUCHED')"},
        {"solver": "os:system('touch TOUCHED')"},
        {"solver": "EVIL.py:Solver"},
        {"solver": "DDIM(eta=os:system('touch TOUCHED'))"},
        {"solver": "PredictorCorrector(corrector=__import__('os').system('touch TOUCHED'))"},
        {"own": True, "solver": "EVIL.py:Solver"},
        {"sde": {"name": "os:system", "command": "touch TOUCHED"}},
        {"sde": {"name": "EVIL", "t_min": {"name": "system"}}},
    ],
)
def test_a_tuned_grid_runs_nothing(run, tmp_path, monkeypatch, attack, way):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "TOUCHED"
    (tmp_path / "EVIL.py").write_text(f"open({str(marker)!r}, 'w')\n")
    path = grid_file(tmp_path / "grid.json", **attack)
    if way == "load":
        with pytest.raises(CheckpointError, match=r"grid\.json"):
            tune.load(path, gaussian(SDE))
    else:
        code, error = run("sample", "ring8", way, path, "--n", 2, "--out", tmp_path / "out")
        assert code == 2
        assert one_line(error)
    assert not marker.exists()
    assert not (tmp_path / "out").exists()


def test_names_that_come_from_elsewhere_import_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it was run')\n")
    for spec in ("evil_module:Mine", "evil_module.py:Mine", f"{tmp_path}/evil_module.py:Mine"):
        for read_one in (specs.solver, specs.grid, specs.process):
            with pytest.raises(ConfigError, match="import it yourself"):
                read_one(spec)
        with pytest.raises(ConfigError, match="import it yourself"):
            sd.sample(gaussian(SDE), spec, nfe=4, shape=(1, 3))
        with pytest.raises(ConfigError, match="import it yourself"):
            sd.log_likelihood(gaussian(SDE), torch.zeros(1, 3), method=spec)
    assert "evil_module" not in sys.modules


class Mine(sd.Solver):
    order = 1

    def step(self, model, x, t, s, carry, noise):
        return model(x, t).at(s), None


class DDIM(Mine):
    """A user's own, with the name of one of the library's."""


@pytest.mark.parametrize("solver", [Mine(), DDIM()], ids=["own", "own of a known name"])
def test_a_solver_of_ones_own_is_given_again(run, tmp_path, solver):
    path = tmp_path / "grid.json"
    tuned(solver).save(path)
    assert "test_file_safety" not in path.read_text()
    with pytest.raises(CheckpointError, match=r"a class of your own.*load\(.*, model, solver\)"):
        tune.load(path, gaussian(SDE))
    with pytest.warns(tune.TunedGridWarning, match="model"):
        own, grid = tune.load(path, gaussian(SDE), solver)
    assert (own, grid) == (solver, uniform_lambda(SDE, 4))
    code, error = run("sample", "ring8", "--grid", path, "--n", 2, "--out", tmp_path / "out")
    assert code == 2
    assert "--solver FILE.py:NAME beside --grid" in error


class OwnVP(sd.VPSDE):
    """A process of a user's own."""


def test_a_grid_of_an_own_process_is_one_of_the_models(tmp_path):
    path = tmp_path / "grid.json"
    tuned(sd.DDIM(), OwnVP(beta_max=15.0)).save(path)
    with pytest.warns(tune.TunedGridWarning, match="model"):
        _, grid = tune.load(path, gaussian(OwnVP(beta_max=15.0)))
    assert grid == uniform_lambda(OwnVP(beta_max=15.0), 4)
    with pytest.raises(CheckpointError, match=r"unknown process 'OwnVP'"):
        tune.load(path, gaussian(SDE))


# -- damaged files -------------------------------------------------------------------------------

DEEP = "[" * 100_000
DAMAGED = {
    "empty": b"",
    "not UTF-8": b'{"scoresde_grid": "\xff"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "cut": b'{"scoresde_grid": 5, "times": [1.0, 0.',
    "null": b"null",
    "list": b"[1, 2]",
    "text": b'"VPSDE"',
    "deep": DEEP.encode(),
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "40 deep": (b'{"a":' * 40 + b"1" + b"}" * 40),
    "digits": b'{"scoresde_grid": ' + b"9" * 10_000 + b"}",
    "zeros": b"\0" * 100,
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("what", ["grid", "recipe", "header", "diffusers"])
def test_damaged_json_is_one_line(run, tmp_path, kind, what):
    data, path = DAMAGED[kind], tmp_path / "file.json"
    path.write_bytes(data)
    if what == "grid":
        args, words = ("sample", "ring8", "--grid", path), "file.json"
    elif what == "recipe":
        args, words = ("train", path), "file.json"
    elif what == "header":
        path = tmp_path / "file.safetensors"
        text = data.decode("latin-1")
        save_file({"w": torch.zeros(2)}, path, metadata={"scoresde": text})
        args, words = ("sample", path), "file.safetensors"
    else:
        (tmp_path / "config.json").write_bytes(data)
        args, words = ("sample", tmp_path), "config.json"
    code, error = run(*args, "--out", tmp_path / "out")
    assert code == 2
    assert one_line(error), error[:2000]
    assert words in error


@pytest.mark.parametrize(
    "change",
    [
        {"times": None},
        {"times": []},
        {"times": "abc"},
        {"times": [1.0, None]},
        {"times": [float("nan"), 0.5]},
        {"times": [[1.0]]},
        {"times": [1.0 - k * 1e-6 for k in range(20_000)]},
        {"sde": None},
        {"sde": []},
        {"sde": {"name": None}},
        {"sde": {"name": ["VPSDE"]}},
        {"sde": {"name": "VPSDE", "beta_min": "a"}},
        {"sde": {"name": "VPSDE", "beta_min": {"name": "VPSDE"}}},
        {"sde": {"name": "SDE"}},
        {"sde": {"name": "DiscreteVPSDE", "log_alphas": ["x", None]}},
        {"solver": None},
        {"solver": "DDIM(" * 3000},
        {"solver": "DDIM(eta=" + "(" * 5000 + ")" * 5000 + ")"},
        {"solver": "DDIM(eta=" + "-" * 9000 + "1)"},
        {"solver": "ExponentialMultistep(values=999999999)"},
        {"solver": "DDIM\0"},
        {"scoresde_grid": None},
        {"scoresde_grid": 4},
    ],
    ids=repr,
)
def test_a_tuned_grid_with_nonsense_in_it_is_refused(tmp_path, change):
    path = grid_file(tmp_path / "grid.json", **change)
    with pytest.raises(CheckpointError, match=r"grid\.json") as caught:
        tune.load(path, gaussian(SDE))
    assert one_line(str(caught.value))


def test_a_file_larger_than_the_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "large.json"
    path.write_bytes(b" " * 2000 + b"{}")
    assert files.read_json(path) == {}
    monkeypatch.setattr(files, "JSON_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than"):
        files.read_json(path)
    with pytest.raises(CheckpointError, match="larger than"):
        load_recipe(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        files.read_json(tmp_path)  # a folder


def test_values_at_the_limits_are_read(tmp_path):
    text = '{"a":' * files.JSON_DEPTH + "1" + "}" * files.JSON_DEPTH
    (tmp_path / "deep.json").write_text(text)
    files.read_json(tmp_path / "deep.json")
    times = [1.0 - k * 9e-5 for k in range(MOST_KNOTS)]
    path = grid_file(tmp_path / "grid.json", times=times)
    with pytest.warns(tune.TunedGridWarning):
        assert tune.load(path, gaussian(SDE))[1].steps == MOST_KNOTS


# -- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        {"name": "FourierMLP", "width": 10**9},
        {"name": "FourierMLP", "width": 10**6},
        {"name": "FourierMLP", "dim": 10**30},
        {"name": "FourierMLP", "depth": 10**9},
        {"name": "FourierMLP", "width": -1},
        {"name": "FourierMLP", "width": "wide"},
        {"name": "FourierMLP", "width": 2.5},
        {"name": "FourierMLP", "width": None},
        {"name": "FourierMLP", "frequencies": [1.0] * 10**6},
        {"name": "PlainMLP", "width": 10**5},
        {"name": "ImageUNet", "widths": [2**16, 2**16]},
        {"name": "ImageUNet", "layers": 10**8},
        {"name": "ImageUNet", "size": 2**40},
        {"name": "ImageUNet", "widths": []},
        {"name": "ImageUNet", "widths": None},
        {"name": "PatchUNet", "classes": 10**12},
        {"name": "PatchUNet", "patch": 0},
    ],
    ids=repr,
)
def test_sizes_of_gigabytes_are_refused_before_they_are_taken(tmp_path, network):
    """In a file of weights and in a recipe, with no more than a few megabytes taken on the way."""
    pytest.importorskip("diffusers")
    networks.from_dict({"name": "ImageUNet"})  # imports are done
    path = tmp_path / "m.safetensors"
    save_model(path, sd.ScoreModel(networks.FourierMLP(), SDE, time="log_rho"))
    header = read(path)[1]
    tensors = load_file(path)
    text = json.dumps({"format": 1, **header, "network": network})
    save_file(tensors, path, metadata={"scoresde": text})
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({**load_recipe("swiss_roll").to_dict(), "network": network}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=r"m\.safetensors") as caught:
        load_model(path)
    assert one_line(str(caught.value))
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe).build()
    assert one_line(str(caught.value))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 10**10}, "batch_size of at most"),
        ({"batch_size": "many"}, "batch_size of a recipe must be int"),
        ({"batch_size": True}, "batch_size of a recipe must be int"),
        ({"lr": None}, "lr of a recipe must be float"),
        ({"sde": None}, "sde of a recipe must be dict"),
        ({"time": 3}, "time of a recipe must be dict or str"),
        ({"seed": -1}, "seed from 0"),
        ({"seed": 2**70}, "seed from 0"),
        ({"steps": 0}, "steps >= 1"),
    ],
)
def test_recipes_are_checked_field_by_field(tmp_path, change, words):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({**load_recipe("swiss_roll").to_dict(), **change}))
    with pytest.raises(ConfigError, match=rf"recipe\.json is not a recipe.*{words}"):
        load_recipe(path)


@pytest.mark.parametrize("n", [10**12, 0, "all", None, 2.5])
def test_a_data_set_of_a_recipe_has_a_size_that_fits(run, tmp_path, n):
    path = tmp_path / "recipe.json"
    recipe = {**load_recipe("swiss_roll").to_dict(), "data": {"name": "swiss_roll", "n": n}}
    path.write_text(json.dumps(recipe))
    code, error = run("train", path, "--out", tmp_path / "out")
    assert code == 2
    assert one_line(error)
    assert "needs a whole number n" in error


def test_a_recipe_is_the_same_after_a_round_trip():
    recipe = load_recipe("mnist")
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


# -- folders of diffusers ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    diffusers = pytest.importorskip("diffusers")
    path = tmp_path_factory.mktemp("folder")
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16),
        layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    net.save_pretrained(path / "unet")
    diffusers.DDPMScheduler(prediction_type="v_prediction").save_pretrained(path / "scheduler")
    return path


WEIGHTS = "diffusion_pytorch_model.safetensors"


def spoiled(folder: Path, tmp_path: Path, how: str) -> Path:
    """A copy of the folder in which something is wrong."""
    path = tmp_path / "copy"
    shutil.copytree(folder, path)
    weights, config = path / "unet" / WEIGHTS, path / "unet" / "config.json"
    tensors, names = load_file(weights), sorted(load_file(weights))
    if how == "none":
        weights.unlink()
    elif how == "all missing":
        save_file({}, weights, metadata={"format": "pt"})
    elif how == "half missing":
        save_file({name: tensors[name] for name in names[::2]}, weights, {"format": "pt"})
    elif how == "one missing":
        save_file({name: tensors[name] for name in names[1:]}, weights, {"format": "pt"})
    elif how == "one more":
        save_file({**tensors, "evil.weight": torch.zeros(3)}, weights, {"format": "pt"})
    elif how == "another shape":
        changed = {**tensors, names[0]: torch.zeros(2, *tensors[names[0]].shape)}
        save_file(changed, weights, {"format": "pt"})
    elif how == "another class":
        about = {**json.loads(config.read_text()), "_class_name": "UNet1DModel"}
        config.write_text(json.dumps(about))
    elif how == "a scheduler":
        about = {**json.loads(config.read_text()), "_class_name": "DDPMScheduler"}
        config.write_text(json.dumps(about))
    elif how == "a function":
        about = {**json.loads(config.read_text()), "_class_name": "is_torch_available"}
        config.write_text(json.dumps(about))
    elif how == "no name":
        config.write_text("{}")
    elif how == "a network as its scheduler":
        config = path / "scheduler" / "scheduler_config.json"
        about = {**json.loads(config.read_text()), "_class_name": "UNet2DModel"}
        config.write_text(json.dumps(about))
    return path


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("none", "no weights in safetensors"),
        ("all missing", "cannot read|are missing"),
        ("half missing", "are missing"),
        ("one missing", "1 are missing, such as"),
        ("one more", "1 belong to no part of it, such as evil.weight"),
        ("another shape", "cannot read|another shape"),
        ("another class", "cannot read|are missing"),
        ("a scheduler", "'DDPMScheduler', which is not a network"),
        ("a function", "'is_torch_available', which is not a network"),
        ("no name", "None, which is not a network"),
        ("a network as its scheduler", "'UNet2DModel', which is not a scheduler"),
    ],
)
def test_no_network_goes_on_with_random_weights(folder, tmp_path, how, words):
    from scoresde.adapters.diffusers import from_diffusers

    with pytest.raises(CheckpointError, match=words) as caught:
        from_diffusers(spoiled(folder, tmp_path, how))
    assert one_line(str(caught.value))


def test_a_pipeline_and_a_scheduler_beside_the_weights(folder, tmp_path):
    import diffusers

    from scoresde.adapters.diffusers import from_diffusers

    want = from_diffusers(folder)
    pipeline = diffusers.DDPMPipeline(
        diffusers.UNet2DModel.from_pretrained(folder / "unet"),
        diffusers.DDPMScheduler.from_pretrained(folder / "scheduler"),
    )
    beside = tmp_path / "beside"
    shutil.copytree(folder / "unet", beside)
    shutil.copy(folder / "scheduler" / "scheduler_config.json", beside)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    knot = want.sde.at(400.5)
    with torch.no_grad():
        for source in (pipeline, beside, str(beside)):
            model = from_diffusers(source)
            assert model.predicts == want.predicts
            assert torch.equal(model(x, knot).x0, want(x, knot).x0)
    with pytest.raises(ConfigError, match="no network in"):
        from_diffusers(diffusers.DDPMScheduler(), diffusers.DDPMScheduler())


# -- what lies where the command is run ----------------------------------------------------------

TRAP = "import pathlib; pathlib.Path(__file__ + '.run').write_text('')\nraise SystemExit(3)\n"
LOCAL = ("diffusers", "matplotlib", "safetensors", "scipy", "typer", "tqdm", "joblib", "rich")


def command(folder: Path, *args: str, module: bool = False) -> subprocess.CompletedProcess:
    """The command in a folder, as it is installed or as a module."""
    start = ["-m", "scoresde.cli"]
    if not module:
        start = ["-P", "-c", "from scoresde.cli import main; main()"]
    return subprocess.run(
        [sys.executable, *start, *args], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.fixture
def trapped(tmp_path):
    for name in LOCAL:
        (tmp_path / f"{name}.py").write_text(TRAP)
    (tmp_path / "helpers_of_mine.py").write_text("SCALE = 1.0\n")
    (tmp_path / "unrelated.py").write_text(TRAP)
    (tmp_path / "my_solvers.py").write_text(
        "import scoresde as sd\n"
        "from helpers_of_mine import SCALE\n"
        "class Mine(sd.Solver):\n"
        "    order = 1\n"
        "    def step(self, model, x, t, s, carry, noise):\n"
        "        import helpers_of_mine\n"
        "        return helpers_of_mine.SCALE * model(x, t).at(s), None\n"
    )
    return tmp_path


@pytest.mark.parametrize("module", [False, True], ids=["installed", "python -m"])
def test_only_the_named_file_is_imported(trapped, module):
    if module:  # until the command itself runs, Python looks in the current directory first
        for name in ("typer", "tqdm", "rich", "scipy"):
            (trapped / f"{name}.py").unlink()
    done = command(
        trapped, "bench", "ring8", "--solver", "my_solvers:Mine", "--solver", "my_solvers.py:Mine",
        "--solver", "DDIM", "--nfe", "4", "--samples", "8", "--jobs", "2", "--out", "bench",
        module=module,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not list(trapped.glob("*.run"))
    rows = json.loads((trapped / "bench" / "report.json").read_text())["cells"]
    assert [row["solver"] for row in rows] == ["Mine", "Mine", "DDIM"]
    errors = {row["solver"]: row["scores"]["rms endpoint error"][0] for row in rows}
    assert errors["Mine"] == errors["DDIM"]  # which it is


def test_a_network_is_sampled_beside_files_of_its_librarys_names(trapped):
    done = command(trapped, "sample", "mnist", "--n", "1", "--nfe", "2", "--out", "out")
    assert done.returncode == 0, done.stderr
    assert (trapped / "out" / "samples.png").is_file()
    assert not list(trapped.glob("*.run"))


def test_a_file_with_the_name_of_a_package_is_not_taken_for_it(tmp_path):
    (tmp_path / "diffusers.py").write_text(
        "import torch, scoresde as sd\ndef make():\n    return sd.load_pretrained('mnist')\n"
    )
    done = command(
        tmp_path, "sample", "diffusers.py:make", "--event-shape", "1,28,28", "--n", "1",
        "--nfe", "2", "--out", "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_an_own_module_is_found_where_the_command_is_run(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "inner.py").write_text(
        "import torch, scoresde as sd\n"
        "from mine import other\n"
        "model = sd.Gaussian(sd.VPSDE(), torch.zeros(3), sd.Covariance.isotropic(other.SCALE))\n"
    )
    (tmp_path / "mine" / "other.py").write_text("SCALE = 0.25\n")
    done = command(tmp_path, "sample", "mine.inner:model", "--n", "2", "--out", "out")
    assert done.returncode == 0, done.stderr
    done = command(tmp_path, "sample", "mine.iner:model", "--n", "2", "--out", "out2")
    assert done.returncode == 2
    assert one_line(done.stderr)


def test_the_command_leaves_python_as_it_was(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    before = list(sys.path)
    assert run("sample", "ring8", "--n", 1, "--nfe", 2, "--out", tmp_path / "out")[0] == 0
    assert sys.path == before
    assert "PYTHONSAFEPATH" not in os.environ
