"""Users' own classes can be used, saved, loaded, named and tuned like those of the library."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import dataclass, field

import pytest
import torch
from support import gaussian, generator, randn

import scoresde as sd
from scoresde import tune
from scoresde._internal import specs
from scoresde._internal.plain_data import from_plain, to_plain
from scoresde.bench import Against, Starts, compare
from scoresde.bench.named_metrics import METRICS
from scoresde.cli import main
from scoresde.errors import ConfigError
from scoresde.exact.problems import ring8
from scoresde.likelihood.method import Method, Path
from scoresde.metrics import Estimate
from scoresde.prediction import PredictsF, PredictsFlow
from scoresde.scalar import log
from scoresde.training.losses import (
    Mixed,
    Simple,
    TimeDraw,
    UniformT,
    Weighting,
    from_dict,
    score_matching_loss,
    to_dict,
)


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


@dataclass(frozen=True)
class Sigmoid(sd.SDE):
    """Variance-preserving, with half log-SNR from `high` to `low`, linear in t."""

    high: float = 6.0
    low: float = -6.0
    own_time = "t"

    def log_alpha(self, t):
        return -0.5 * log(1.0 + self._odds(t))

    def log_sigma(self, t):
        return 0.5 * log(self._odds(t)) - 0.5 * log(1.0 + self._odds(t))

    def _odds(self, t):
        lam = self.high + t * (self.low - self.high)
        return (-2.0 * lam).exp() if isinstance(lam, torch.Tensor) else math.exp(-2.0 * lam)


OWN_FILE = '''
import math
from dataclasses import dataclass
import scoresde as sd
from scoresde.likelihood import FixedGrid
from scoresde.metrics import EnergyDistance, Estimate

@dataclass(frozen=True)
class Slow(sd.VPSDE):
    """A process of my own."""

@dataclass(frozen=True)
class Mine(sd.DDIM):
    """A solver of my own."""

def Half(order=1):
    return sd.DDIM(eta=0.5)

def squares(sde, n, power=2.0):
    return sd.from_times(sde, [sde.t_max * (1 - k / n) ** power for k in range(n)])

class Width:
    name = "width"
    better = "zero"
    def __init__(self, at):
        self.true = at.samples().std()
    def __call__(self, x):
        return Estimate(float(x.std() - self.true), math.nan, math.nan)

def twice(at):
    return EnergyDistance(at.samples()[:500])

@dataclass(frozen=True)
class Method(FixedGrid):
    """A method of my own."""
'''


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "things_of_mine.py"
    file.write_text(OWN_FILE)
    return file


def test_everything_of_ones_own_on_one_command_line(run, own, tmp_path):
    out = tmp_path / "bench"
    code, _, error = run(
        "bench", "ring8", "--process", f"{own}:Slow(beta_max=15.0)", "--solver", f"{own}:Mine",
        "--solver", f"{own}:Half", "--solver", "DDIM", "--grid", f"{own}:squares(power=1.5)",
        "--metric", f"{own}:Width", "--metric", "rms", "--nfe", 5, "--samples", 32, "--out", out,
    )  # fmt: skip
    assert code == 0, error
    cells = json.loads((out / "report.json").read_text())["cells"]
    mine, half, theirs = cells
    assert mine["scores"]["rms endpoint error"] == theirs["scores"]["rms endpoint error"]
    assert "rms endpoint error" not in half["scores"]  # it draws noise
    sde = specs.process(f"{own}:Slow(beta_max=15.0)", own=True)
    grid = specs.grid(f"{own}:squares(power=1.5)", own=True)(sde, 5)
    x = sd.sample(ring8(sde), sd.DDIM(), grid, shape=(32, 2), seeds=range(32)).x
    width = float(x.std()) - theirs["scores"]["width"][0]
    true = ring8(sde).sample(4032, seed=0)
    assert abs(width - float(true.std())) < 0.02
    code, said, error = run("sample", "ring8", "--process", f"{own}:Slow", "--solver",
                            f"{own}:Mine(eta=1.0)", "--n", 2, "--out", tmp_path / "s")  # fmt: skip
    assert code == 0, error
    assert "2 samples of Mine(eta=1.0)" in said


def test_a_process_and_a_solver_of_ones_own_are_tuned(run, own, tmp_path):
    out = tmp_path / "grid.json"
    common = "ring8", "--process", f"{own}:Slow(beta_max=15.0)"
    code, _, error = run(
        "tune", *common, "--solver", f"{own}:Mine", "--nfe", 4, "--starts", 8, "--held-out", 8,
        "--rounds", 0, "--out", out,
    )  # fmt: skip
    assert code == 0, error
    assert str(tmp_path) not in out.read_text()
    sample = "sample", *common, "--n", 2, "--grid", out
    assert run(*sample, "--out", tmp_path / "a")[0] == 2
    code, _, error = run(*sample, "--solver", f"{own}:Mine", "--out", tmp_path / "b")
    assert code == 0, error
    assert "warning" not in error
    code, _, error = run(
        "tune", *common, "--solver", "DDIM", "--metric", f"{own}:twice", "--nfe", 4,
        "--starts", 64, "--held-out", 64, "--rounds", 0, "--out", out,
    )  # fmt: skip
    assert code == 0, error
    assert json.loads(out.read_text())["metric"] == "energy distance"


def test_a_likelihood_method_of_ones_own():
    @dataclass(frozen=True)
    class Euler(Method):
        steps: int = 4000

        def run(self, flow, z):
            (low, high), ones = flow.ends, torch.ones(len(z), dtype=z.dtype)
            h, total, fixed = (high - low) / self.steps, 0.0 * ones, flow.fixed()
            traces = torch.zeros(len(z), flow.divergence.columns, dtype=z.dtype)
            for k in range(self.steps):
                slope, trace = fixed(low + (k + 0.5) * h, (z, traces))
                z, total = z + h * slope, total + h * trace.mean(1)
            return Path(z, total, 0 * ones, math.nan * ones)

    model = gaussian(sd.VPSDE(), 2)
    x = randn(5, 2)
    exact = model.log_prob(x, model.sde.at(model.sde.t_min))
    found = sd.log_likelihood(model, x, method=Euler(), divergence=sd.Exact()).nats
    assert float((found - exact).abs().max()) < 2e-2
    coarse = sd.log_likelihood(model, x, method=Euler(200), divergence=sd.Exact()).nats
    assert float((coarse - exact).abs().max()) > 3 * float((found - exact).abs().max())


def test_a_process_of_ones_own_is_sampled_told_and_written_down():
    sde = Sigmoid(high=5.0)
    assert sd.sde.from_dict(json.loads(json.dumps(sde.to_dict())), known=(Sigmoid,)) == sde
    with pytest.raises(ConfigError, match="unknown process 'Sigmoid'"):
        sd.sde.from_dict(sde.to_dict())
    truth = gaussian(sde, 2)
    for predicts in ("eps", "flow"):
        row = sd.ScoreModel(lambda x, t: x, sde, predicts=predicts).predicts

        def net(x, t, row=row):
            knot = sde.at(float(t[0]))
            exact = truth(x, knot)
            return row.target(exact.x0, exact.eps, knot)

        x = randn(3, 2)
        grid = sd.uniform_lambda(sde, 40)
        found = sd.sample(sd.ScoreModel(net, sde, predicts=predicts), sd.UniPC(3), grid, x=x).x
        exact = truth.flow(x, grid.knots[0], sde.clean)
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-4)


def test_a_metric_is_made_of_what_is_at_hand():
    class Spread:
        name = "spread"

        def __init__(self, at):
            self.true = at.samples().std()

        def __call__(self, x):
            return Estimate(float(x.std() / self.true), math.nan, math.nan)

    model = ring8(sd.VPSDE(t_min=1e-5))
    against = Against(features=lambda x: torch.cat([x, x**2], 1))
    table = compare(
        model, "Heun", nfe=40, metric=[Spread, "fid", "RMS"], against=against, starts=Starts(64)
    )
    scores = table.cells[0].scores
    assert set(scores) == {"spread", "Frechet distance", "rms endpoint error"}
    x = sd.sample(model, "Heun", nfe=40, shape=(64, 2), seeds=range(64)).x
    assert scores["spread"].value * float(model.sample(4000, seed=0).std()) == pytest.approx(
        float(x.std()), rel=0.03
    )
    with pytest.raises(ConfigError, match="did you mean 'fid'"):
        compare(model, "Heun", nfe=4, metric="fidd")
    with pytest.raises(ConfigError, match="made int, not a scoresde Metric"):
        compare(model, "Heun", nfe=4, metric=lambda at: 3)
    assert "fid" not in METRICS


# -- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Doubled(Weighting):
    inner: Weighting = field(default_factory=Simple)

    def __call__(self, predicts, knot, density):
        return 2.0 * self.inner(predicts, knot, density)


@dataclass(frozen=True)
class Late(TimeDraw):
    start: float = 0.5

    def quantile(self, sde, u):
        return self.start + u * (sde.t_max - self.start)

    def density(self, sde, knot):
        return UniformT().density(sde, knot)


def test_weightings_and_draws_of_ones_own_are_data():
    value = Mixed(Late(0.25), UniformT(), 0.3)
    data = json.loads(json.dumps(to_dict(value)))
    assert from_dict(data, known=(Late,)) == value
    with pytest.raises(ConfigError, match="'Late'"):
        from_dict(data)
    both = Doubled(Simple("eps"))
    assert from_dict(json.loads(json.dumps(to_dict(both))), known=(Doubled,)) == both


@pytest.mark.parametrize("sde", [sd.EDMSDE(), sd.VPSDE(), sd.FlowSDE(0.1), sd.TrigonometricSDE()])
def test_the_error_of_a_velocity_counts_as_such_for_any_network(sde):
    """`Simple("flow")` of an x0 network is the squared error of the velocity it stands for."""
    flow = PredictsFlow(sde)

    def net(x, t):
        return 0.3 * x

    model = sd.ScoreModel(net, sde, predicts="x0", time="t")
    x0 = randn(64, 2)
    loss = score_matching_loss(model, x0, generator=generator(3), weighting=Simple("flow"))
    g = generator(3)
    t = UniformT().draw(sde, 64, g)
    knot = sde.at(t.reshape(-1, 1))
    eps = torch.randn(x0.shape, generator=g, dtype=x0.dtype)
    x = knot.alpha * x0 + knot.sigma * eps
    said = model(x, knot)
    error = flow.target(said.x0, said.eps, knot) - flow.target(x0, eps, knot)
    torch.testing.assert_close(loss, error.square().mean(1))


# -- plain data ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holds:
    number: float = math.inf
    text: str | None = None
    inner: PredictsF = field(default_factory=lambda: PredictsF(0.25))
    several: tuple[tuple[int, ...], ...] = ((1, 2), ())


@pytest.mark.parametrize("number", [1.5, math.inf, -math.inf, 0, True, 2**70, 5e-324])
def test_frozen_values_come_back_from_strict_json(number):
    value = Holds(number, "x")
    text = json.dumps(to_plain(value), allow_nan=False)
    again = from_plain("value", json.loads(text), [Holds, PredictsF])
    assert again == value
    assert type(again.number) is type(number)


def test_what_is_not_plain_is_refused():
    for value in (Holds(text="inf"), Holds(inner=lambda: 0), {"a": 1}, Holds, object()):
        with pytest.raises(ConfigError, match="no JSON form"):
            to_plain(value)
    with pytest.raises(ConfigError, match="cannot be built from"):
        from_plain("value", {"name": "Holds", "count": 3}, [Holds])


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        ("euler", sd.DDIM()),
        ("Euler", sd.DDIM()),
        ("euler(eta=0.5)", sd.DDIM(eta=0.5)),
        ("euler_ancestral", sd.DDIM(eta=1.0)),
        ("ddpm", sd.Ancestral()),
        ("ddpm(variance='forward')", sd.Ancestral("forward")),
        ("dpmpp_2m", sd.DPMSolverPP(2)),
        ("dpmpp_2m_sde", sd.DPMSolverPP(2, tau=1.0)),
        ("dpmpp_2m_sde(tau=0.5)", sd.DPMSolverPP(2, tau=0.5)),
        ("dpmpp_3m_sde", sd.DPMSolverPP(3, tau=1.0)),
        ("dpmsolver++", sd.DPMSolverPP()),
        ("DPM-Solver++(order=3)", sd.DPMSolverPP(3)),
        ("dpm_2", sd.DPM2()),
        ("uni_pc", sd.UniPC()),
    ],
)
def test_names_of_the_field_are_known(name, solver):
    assert specs.solver(name) == solver


@pytest.mark.parametrize("name", specs.ALIASES)
def test_every_alias_names_something(name):
    if specs.ALIASES[name].partition("(")[0] in specs.GRIDS:
        assert specs.grid(name)(sd.VPSDE(), 5).steps == 5
    else:
        assert isinstance(specs.solver(name), sd.Solver)


def test_a_misspelt_name_of_the_field_leads_to_it():
    for wrong, right in (("dpmpp2m", "dpmpp_2m"), ("ddmp", "ddpm"), ("eulr", "euler")):
        with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
            specs.solver(wrong)


@pytest.mark.parametrize("name", ["Recommended", " RECOMMENDED "])
def test_recommended_in_capitals_is_the_same(name):
    model = ring8(sd.VPSDE(t_min=1e-5))
    settings = {"starts": 8, "held_out": 8, "rounds": 0, "dtype": torch.float64}
    one, other = (tune.tune(model, each, 6, **settings) for each in ("recommended", name))
    assert (one.solver, one.grid, one.cost) == (other.solver, other.grid, other.cost)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DDIM", ["solver DDIM(", "eta=0.0"]),
        ("ddim", ["solver DDIM("]),
        ("dpmpp_2m_sde", ["DPMSolverPP(order=2, tau=1.0)", "solver DPMSolverPP(", "tau=0.0"]),
        ("karras", ["grid karras(", "exponent=7"]),
        ("VESDE", ["process VESDE(", "sigma_max=50.0"]),
        ("PerSample", ["method PerSample(", "tol="]),
    ],
)
def test_info_shows_arguments(run, name, words):
    code, said, error = run("info", name)
    assert code == 0, error
    assert all(word in said for word in words), said
    assert "sde, n" not in said


def test_an_embedding_table_says_what_it_takes():
    table = torch.nn.Embedding(50, 2)
    betas = sd.linear_betas(50)
    model = sd.ScoreModel.from_betas(lambda x, t: x + table(t), betas)
    with pytest.raises(RuntimeError) as caught:
        sd.sample(model, "DDIM", nfe=4, shape=(2, 2))
    assert any("time='index'" in note for note in caught.value.__notes__)
    indexed = sd.ScoreModel.from_betas(lambda x, t: x + table(t), betas, time="index")
    x = torch.zeros(2, 2)
    assert torch.equal(indexed(x, indexed.sde.at(31.4)).raw, table.weight[[31, 31]])
