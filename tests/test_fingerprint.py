"""Fingerprints: what changes them, what does not, and what has none."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
import types
from collections import OrderedDict
from enum import Enum
from pathlib import Path

import pytest
import torch
from torch import nn

import scoresde as sd
from scoresde._internal.fingerprint import fingerprint, modules_in
from scoresde._internal.witness import disagree, identity
from scoresde.errors import ConfigError, FingerprintError

SDE = sd.VPSDE()


def mixture(shift: float = 0.0) -> sd.GaussianMixture:
    means = torch.tensor([[-1.0 + shift, 0.5], [1.0, -0.5]])
    return sd.GaussianMixture(SDE, means, sd.Covariance.isotropic(0.04))


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
        [sys.executable, "-B", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(sd.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def test_fingerprint_sees_the_files_of_users_and_not_where_they_are(tmp_path):
    first = _own(tmp_path / "a")
    assert _own(tmp_path / "b") == first  # another process, another folder
    # solver, model, features, class of the solver: which of them an edit touches
    for edit, touched in {
        ("0.5 * x", "0.6 * x"): [False, True, False, False],
        ("SCALE = 1.0", "SCALE = 0.9"): [True, False, False, True],
        ("float64}", "float16}"): [False, False, True, False],
    }.items():
        edited = _own(tmp_path / "a", OWN.replace(*edit))
        assert [a != b for a, b in zip(edited, first, strict=True)] == touched
    parent = _own(tmp_path / "a", helper=HELPER.replace("0.5", "0.4"))
    assert [a != b for a, b in zip(parent, first, strict=True)] == [False, True, False, False]


def test_fingerprint_sees_code_that_is_in_no_file():
    def typed(text):
        space = {"__name__": "__main__"}
        exec(compile(text, "<stdin>", "exec"), space)
        return space["Typed"]

    text = "class Typed:\n    @property\n    def a(self):\n        return [i for i in 'ab']\n"
    one, other = typed(text), typed(text.replace("ab", "abc"))
    assert fingerprint(one()) == fingerprint(typed(text)()) != fingerprint(other())


# -- what counts ---------------------------------------------------------------------------------

WEIGHT = torch.ones(2)
SCALE, TABLE, OFFSETS = 1.0, {"a": [1.0]}, types.SimpleNamespace(first=0.5)


def network(x, t):
    def inner(z):
        return z * SCALE

    return inner(x) * WEIGHT + TABLE["a"][0] + OFFSETS.first


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SCALE", 1.5),
        ("WEIGHT", torch.tensor([1.0, 1.5])),
        ("TABLE", {"a": [2.0]}),
        ("OFFSETS", types.SimpleNamespace(first=0.25)),
    ],
)
def test_the_globals_that_a_function_reads_count(monkeypatch, name, value):
    model = sd.ScoreModel(network, SDE, time="t")
    before = fingerprint(model)
    assert fingerprint(sd.ScoreModel(network, SDE, time="t")) == before
    monkeypatch.setitem(globals(), "DTYPES", "read by no network")
    assert fingerprint(model) == before
    monkeypatch.setitem(globals(), name, value)
    assert fingerprint(model) != before


def test_closures_and_defaults_of_a_function_count():
    def make(scale, weights, default=1.0):
        def net(x, t, factor=default, *, more=weights):
            return x * scale * factor * more

        return net

    one = torch.tensor([1.0, 2.0])
    same = fingerprint(make(0.5, one))
    assert fingerprint(make(0.5, one.clone())) == same
    others = [make(0.6, one), make("0.5", one), make(0.5, one + 1e-6), make(0.5, one, 2.0)]
    assert len({same, *map(fingerprint, others)}) == 5
    changed = make(0.5, one)
    changed.note = "an attribute of the function"
    assert fingerprint(changed) != same
    assert fingerprint(functools.cache(make(0.5, one))) != fingerprint(functools.cache(others[0]))
    assert fingerprint(functools.partial(network, 1)) != fingerprint(functools.partial(network, 2))


class Plain(nn.Module):
    __slots__ = ("slot",)
    half = 0.5

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.line.weight)
        self.public, self._private, self.slot = 1.0, 2.0, 3.0
        self.nested, self._held = [[1, 2], 3], torch.ones(2)
        self.register_buffer("kept", torch.ones(1))
        self.register_buffer("lost", torch.ones(1), persistent=False)

    def forward(self, x, t):
        return self.line(x)


def _set(path, value):
    def change(module):
        *way, last = path.split(".")
        setattr(functools.reduce(getattr, way, module), last, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("public", 1.5),
        _set("_private", 2.5),
        _set("slot", 3.5),
        _set("nested", [[1], 2, 3]),
        _set("_held", torch.zeros(2)),
        _set("kept", torch.zeros(1)),
        _set("lost", torch.zeros(1)),
        _set("line.weight", nn.Parameter(torch.ones(2, 2))),
        _set("line.extra", 1),
        _set("forward", lambda x, t: x),
        _set("public", 1),
        lambda module: module.register_forward_hook(lambda m, a, out: 2 * out),
        lambda module: module.line.register_forward_hook(lambda m, a, out: 2 * out),
        lambda module: module.register_forward_pre_hook(lambda m, a: a),
        lambda module: nn.utils.parametrize.register_parametrization(
            module.line, "weight", nn.Identity()
        ),
        lambda module: nn.utils.parametrizations.weight_norm(module.line),
    ],
)
def test_whatever_a_module_holds_counts(change):
    module = Plain()
    before = fingerprint(module)
    assert fingerprint(Plain()) == before == fingerprint(module.eval())
    change(module)
    assert fingerprint(module) != before


def test_hooks_count_by_what_they_are():
    def hooked(factor):
        module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(module.weight)
        module.register_forward_hook(lambda m, a, out: factor * out)
        return module

    assert fingerprint(hooked(2.0)) == fingerprint(hooked(2.0)) != fingerprint(hooked(3.0))


def test_the_class_of_a_parametrized_module_counts(monkeypatch):
    """PyTorch gives such a module a class of its own making, whose base is the user's."""

    class Mine(nn.Linear):
        def forward(self, x):
            return super().forward(x)

    module = nn.utils.parametrizations.weight_norm(Mine(2, 2))
    before = fingerprint(module)
    monkeypatch.setattr(Mine, "forward", lambda self, x: x)
    assert fingerprint(module) != before


def test_class_attributes_and_parents_count(monkeypatch):
    before = fingerprint(Plain())
    monkeypatch.setattr(Plain, "half", 0.25)
    assert fingerprint(Plain()) != before


class Colour(Enum):
    RED, BLUE = 1, 2


def test_values_of_different_content_differ():
    class Slots:
        __slots__ = ("a", "b")

        def __init__(self, a, b):
            self.a, self.b = a, b

    class Words(dict):
        pass

    cycle: list = [1]
    cycle.append(cycle)
    values = [
        [[1, 2], 3], [[1], 2, 3], [1, 2, 3], (1, 2, 3), [1, [2, 3]], ["1", 2, 3], [1.0, 2, 3],
        [True, 2, 3], {1, 2, 3}, {1: 2}, {1: 2, 3: None}, [], (), {}, None, 0, 0.0, -0.0, "", b"",
        ["ab", "c"], ["a", "bc"], ["abc"], {"a": {"b": 1}}, {"a": 1, "b": 1}, float("nan"),
        Slots(1, 2), Slots(2, 1), OrderedDict(a=1), Words(a=1), Colour.RED, Colour.BLUE, cycle,
        torch.zeros(2), torch.zeros(2, 1), torch.zeros(2).double(), torch.zeros(2).numpy(),
        torch.float32, torch.float64, slice(1, 2), range(3), Path("a"), Path("b"), 1j,
    ]  # fmt: skip
    assert len({fingerprint(value) for value in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a", "b", "c"}) == fingerprint({"c", "b", "a"})
    assert fingerprint(torch.device("cpu")) == fingerprint(torch.device("cuda"))


def test_names_of_the_library_do_not_hang_on_files(monkeypatch):
    before = [fingerprint(each) for each in (sd.Heun(), sd.Heun, SDE)]
    for kind in (sd.Heun, type(SDE)):
        monkeypatch.setattr(kind, "__module__", "scoresde.elsewhere.moved")
    assert [fingerprint(each) for each in (sd.Heun(), sd.Heun, SDE)] == before
    assert fingerprint(sd.Heun()) != fingerprint(sd.DDIM())


# -- what has none -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "held",
    [
        threading.Lock(),
        (i for i in "ab"),
        torch.Generator(),
        torch.ones(2, 2).to_sparse(),
        torch.jit.script(nn.Linear(1, 1)),
        sys.stderr,
    ],
    ids=lambda held: type(held).__name__,
)
def test_what_cannot_be_known_is_named_and_a_name_is_asked_for(held):
    model = sd.ScoreModel(lambda x, t: x, SDE, time="t", output=lambda out: (held, out)[1])
    with pytest.raises(FingerprintError, match=r"output.*cannot be known; write key="):
        fingerprint(model)
    assert issubclass(FingerprintError, ConfigError)
    assert identity(model, "mine", SDE.at(0.5), (2, 2), dtype=torch.float32)["model"] == "key mine"
    with pytest.raises(ConfigError, match="key must be a name, got 3"):
        identity(model, 3, SDE.at(0.5), (2, 2), dtype=torch.float32)


class Caching(nn.Module):
    """Keeps what it works out, as many networks do."""

    def __init__(self):
        super().__init__()
        self._cache = {}

    def forward(self, x, t):
        self._cache.setdefault(len(x), torch.randn(1, generator=torch.Generator().manual_seed(0)))
        return x


class Tidy(Caching):
    def __getstate__(self):
        return {k: v for k, v in super().__getstate__().items() if k != "_cache"}


def test_a_model_that_changes_as_it_is_called_needs_a_name_or_leaves_its_cache_out():
    def ask(net, key=None):
        model = sd.ScoreModel(net, SDE, time="t")
        return identity(model, key, SDE.at(0.5), (3, 2), dtype=torch.float32)

    with pytest.raises(FingerprintError, match=r"changes when it is called.*write key="):
        ask(Caching())
    assert ask(Caching(), "mine")["model"] == "key mine"
    first = ask(net := Tidy())
    assert net._cache
    assert ask(net) == first == ask(Tidy())


@pytest.mark.parametrize("solver", [sd.DDIM(eta=1.0), sd.DPMSolverPP(3), sd.ProbabilityFlow()])
def test_a_run_changes_the_fingerprint_of_nothing_in_the_library(solver):
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()
    one = sd.ScoreModel(lambda x, t: net(x), SDE, time="t", net_dtype=torch.float32)
    for model in (
        mixture(),
        one,
        one.bind(),
        sd.CFG(one, cond={}, uncond={}, scale=2.0, batched=False),
    ):
        grid = sd.uniform_lambda(SDE, 4)
        before = [fingerprint(each) for each in (model, solver, grid)]
        sd.sample(model, solver, grid, shape=(3, 2))
        assert [fingerprint(each) for each in (model, solver, grid)] == before


# -- the witness -----------------------------------------------------------------------------------


def test_a_witness_is_taken_in_evaluation_mode_and_leaves_the_model_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    net[1].running_var.fill_(3.0)
    net[1].eval()  # alone
    model = sd.ScoreModel(lambda x, t: net(x), SDE, time="t")

    def state():
        return [m.training for m in net.modules()], [b.tolist() for b in net.buffers()]

    before, knot = state(), SDE.at(0.5)
    net[1].register_forward_hook(lambda m, a, out: m.running_mean.add_(1.0).sum() * 0 + out)
    found = identity(model, "x", knot, (5, 2), dtype=torch.float32)
    assert state() == before
    # What it is: the answer to two fixed samples of the variance that states have there.
    assert [type(m).__name__ for m in modules_in(model)].count("BatchNorm1d") == 1
    assert len(found["witness"]) == 4
    net[1]._forward_hooks.clear()
    again = identity(model, "x", knot, (5, 2), dtype=torch.float32)
    assert again == found == identity(model, "x", knot, (2, 2), dtype=torch.float32)


def test_witnesses_are_compared_with_a_tolerance():
    one = [1.0, -2.0, 0.5]
    assert not disagree(one, [1.005, -2.01, 0.5])
    assert disagree(one, [1.05, -2.0, 0.5])
    assert disagree(one, [-1.0, 2.0, -0.5])
    assert disagree(one, one[:2])
    assert disagree(one, None)
    assert disagree(one, ["1", -2.0, 0.5])
    assert not disagree(None, None)
    assert not disagree([0.0], [0.0])


def test_cycles_of_functions_do_not_depend_on_the_order_of_hashes(tmp_path):
    (tmp_path / "cycle.py").write_text(
        "from scoresde._internal.fingerprint import fingerprint\n"
        "def even(x, n):\n    return x if n == 0 else odd(x, n - 1)\n"
        "def odd(x, n):\n    return -x if n == 0 else even(x, n - 1)\n"
        "def net(x, t):\n    return even(x, 3) + odd(x, 2)\n"
        "print(fingerprint(net))\n"
    )
    found = set()
    for seed in range(6):
        done = subprocess.run(
            [sys.executable, "cycle.py"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1


def test_the_state_of_a_decorator_counts():
    class Times:
        def __init__(self, function, factor):
            functools.update_wrapper(self, function)
            self.factor = factor

        def __call__(self, *args):
            return self.factor * self.__wrapped__(*args)

    def one(x):
        return x

    assert fingerprint(Times(one, 1.0)) != fingerprint(Times(one, 2.0))
    assert fingerprint(Times(one, 1.0)) == fingerprint(Times(one, 1.0))
