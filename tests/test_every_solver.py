"""`check_solver`: every solver of the library passes, and wrong solvers fail."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field

import pytest
import torch
from support import DISCRETE

import scoresde.solvers
from scoresde import (
    DDIM,
    VESDE,
    VPSDE,
    Covariance,
    EulerMaruyama,
    FlowSDE,
    Gaussian,
    Heun,
    SubVPSDE,
    sample,
    uniform_lambda,
    uniform_t,
)  # fmt: skip
from scoresde._internal import specs
from scoresde.errors import ContractError, ZeroSNRError
from scoresde.scalar import affine, sqrt
from scoresde.solvers import (
    SEEDS2,
    AnnealedLangevin,
    ExponentialMultistep,
    ExponentialRK,
    PredictorCorrector,
    ProbabilityFlow,
    ReverseDiffusion,
    Solver,
)
from scoresde.solvers.exponential import presets
from scoresde.testing import check_solver
from scoresde.testing.runs import PROCESSES


def _default_solvers() -> list[Solver]:
    """Everything that the package exports and that makes a solver when called with nothing."""
    made = []
    for name in scoresde.solvers.__all__:
        thing = getattr(scoresde.solvers, name)
        if inspect.isclass(thing) and (not issubclass(thing, Solver) or inspect.isabstract(thing)):
            continue
        if callable(thing):
            try:
                one = thing()
            except TypeError:
                continue
            if isinstance(one, Solver):
                made.append(one)
    return made


MORE = [
    DDIM(eta=1.0),
    DDIM(eta=0.5),
    EulerMaruyama(stochasticity=0.0),
    EulerMaruyama(stochasticity=1.4),
    ReverseDiffusion(stochasticity=0.0),
    Heun(s_churn=10.0),
    PredictorCorrector(DDIM(), AnnealedLangevin(0.1)),
    ProbabilityFlow(clock="rho"),
]


SOLVERS = list(dict.fromkeys([*_default_solvers(), *MORE]))


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_keeps_the_contract(solver):
    # Samples with paths, or with steps, of their own are slow: one process has to do.
    slow = type(solver).__name__ in ("TorchSDE", "GottaGoFast")
    processes = [VPSDE()] if slow else PROCESSES
    check_solver(solver, processes).raise_if_failed()


@pytest.mark.parametrize("solver", [presets.IPNDM(), presets.PNDM()], ids=str)
def test_weights_for_even_steps_lose_their_order_on_uneven_ones(solver):
    # Published with the weights of equal steps, whatever the steps are; they claim no more than 1.
    report = check_solver(solver, [VPSDE()])
    report.raise_if_failed()
    assert report.measured["order, VPSDE, uneven"] == pytest.approx(1.0, abs=0.2)


def test_the_list_is_not_empty():
    kinds = {type(solver) for solver in _default_solvers()}
    assert {DDIM, EulerMaruyama, Heun, PredictorCorrector, ProbabilityFlow} <= kinds


def test_every_solver_has_its_name_on_the_command_line():
    made = {type(solver).__name__ for solver in _default_solvers()}
    assert made <= set(specs.SOLVERS)


# -- planted defects -----------------------------------------------------------------------------


@dataclass(frozen=True)
class WrongCoefficient(Solver):
    """DDIM with one coefficient 1% off."""

    order = 1

    def step(self, model, x, t, s, carry, noise):
        return model(x, t).mix(s.alpha, 1.01 * s.sigma), None


@dataclass(frozen=True)
class HalfTheScore(Solver):
    """Euler's method with the weight of the score halved, on one process only."""

    order = 1

    def step(self, model, x, t, s, carry, noise):
        prediction, h, sde = model(x, t), t.t - s.t, model.sde
        if s.is_clean:
            return prediction.x0, None
        score = 0.25 if type(sde).__name__ == "SubVPSDE" else 0.5
        x = affine(1.0 - h * sde.f(t.t), x, score * sde.g2(t.t) * h, prediction.score)
        return x, None


@dataclass(frozen=True)
class TooMuchNoise(EulerMaruyama):
    """Euler-Maruyama with noise 3% too wide."""

    def step(self, model, x, t, s, carry, noise):
        class Louder:
            def increment(self, t, s):
                return 1.03 * noise.increment(t, s)

        return super().step(model, x, t, s, carry, Louder())


@dataclass(frozen=True)
class SameNoiseTwice(Solver):
    """Ancestral sampling with the noise of the step before: right in law for any one step."""

    order = 1
    stochastic = True

    def step(self, model, x, t, s, carry, noise):
        if s.is_clean or carry is None:
            return DDIM().step(model, x, t, s, None, noise)[0], (t, s)
        mean = DDIM(eta=1.0).step(model, x, t, s, None, _Silent())[0]
        lost = s.sigma * sqrt(1 - (s.rho / t.rho) ** 2)
        return affine(1.0, mean, lost, noise.increment(*carry)), (t, s)


class _Silent:
    def increment(self, t, s):
        return torch.zeros(())


@dataclass(frozen=True)
class LopsidedHeun(Heun):
    """Heun's rule with weights 0.52 and 0.48: of order 1, claimed 2."""

    def step(self, model, x, t, s, carry, noise):
        if s.is_clean:
            return super().step(model, x, t, s, carry, noise)
        first = model(x, t)
        second = model(first.at(s), s).eps
        slope = affine(0.52, first.eps, 0.48, second)
        moved = affine(s.alpha / t.alpha, x, s.alpha * (s.rho - t.rho), slope)
        return moved, carry._replace(rho=t.rho, eps=first.eps)


@dataclass(frozen=True)
class EvenWeights(Solver):
    """Adams-Bashforth with the weights of equal steps in rho, whatever the steps are."""

    order = 2

    def step(self, model, x, t, s, carry, noise):
        eps = model(x, t).eps
        if carry is None:
            start = Heun()
            return start.step(model, x, t, s, start.init(model, _One()), noise)[0], eps
        slope = affine(1.5, eps, -0.5, carry)
        return affine(s.alpha / t.alpha, x, s.alpha * (s.rho - t.rho), slope), eps

    def evals(self, grid):
        return grid.steps + 1 - (grid.steps == 1 and grid.ends_clean)


class _One:
    steps = 1


@dataclass(frozen=True)
class StopsShort(DDIM):
    """Does not take the step to sigma = 0."""

    def step(self, model, x, t, s, carry, noise):
        model(x, t)
        return (x, None) if s.is_clean else super().step(model, x, t, s, carry, noise)


@dataclass(frozen=True)
class AsksAtTheEnd(DDIM):
    """Evaluates the network at the step's target, sigma = 0 included."""

    def step(self, model, x, t, s, carry, noise):
        return model(super().step(model, x, t, s, carry, noise)[0], s).at(s), None


@dataclass(frozen=True)
class AsksOutside(DDIM):
    """Evaluates the network at times beyond t_max."""

    def step(self, model, x, t, s, carry, noise):
        model(x, t._replace(t=1.3 * t.t))
        return super().step(model, x, t, s, carry, noise)

    def evals(self, grid):
        return 2 * grid.steps


@dataclass(frozen=True)
class CountsHalf(Heun):
    """Two evaluations a step, one stated."""

    def evals(self, grid):
        return grid.steps


@dataclass(frozen=True)
class Remembers(DDIM):
    """Keeps its last prediction in itself."""

    def step(self, model, x, t, s, carry, noise):
        object.__setattr__(self, "last", float(t.t))
        return super().step(model, x, t, s, carry, noise)


@dataclass(frozen=True)
class SharedHistory(DDIM):
    """Changes the carry that it was given."""

    def init(self, model, grid):
        return []

    def step(self, model, x, t, s, carry, noise):
        carry.append(t)
        out = super().step(model, x, t, s, None, noise)[0]
        return out * (1 + 1e-9 * (len(carry) % 5)), carry


@dataclass(frozen=True)
class OwnGenerator(DDIM):
    """Draws from torch's global generator."""

    stochastic = True

    def step(self, model, x, t, s, carry, noise):
        return super().step(model, x + 0 * torch.randn_like(x), t, s, carry, noise)


@dataclass(frozen=True)
class InPlace(DDIM):
    """Overwrites the state that it was given."""

    def step(self, model, x, t, s, carry, noise):
        out = super().step(model, x, t, s, carry, noise)
        x.mul_(0.5)
        return out


@dataclass(frozen=True)
class Coupled(DDIM):
    """Scales by a norm of the whole batch."""

    def step(self, model, x, t, s, carry, noise):
        out = super().step(model, x, t, s, carry, noise)[0]
        return out * (1 + 1e-6 * torch.tanh(out.square().mean())), None


@dataclass(frozen=True)
class Promotes(DDIM):
    """Lets a float64 coefficient promote the state."""

    def step(self, model, x, t, s, carry, noise):
        out = super().step(model, x, t, s, carry, noise)[0]
        return out * torch.ones(x.shape[:1] + (1,) * (x.ndim - 1), dtype=torch.float64), None


@dataclass(frozen=True)
class FourAxes(DDIM):
    """Broadcasts as if all states were images."""

    def step(self, model, x, t, s, carry, noise):
        out = super().step(model, x, t, s, carry, noise)[0]
        return out * torch.ones(len(x), 1, 1, 1, dtype=x.dtype), None


@dataclass(frozen=True)
class Looks(DDIM):
    """Branches on a value of the state."""

    def step(self, model, x, t, s, carry, noise):
        if x.numel() and float(x.flatten()[0]) > 1e6:
            x = x.clamp(-1e6, 1e6)
        return super().step(model, x, t, s, carry, noise)


@dataclass(frozen=True)
class SaysNothing(DDIM):
    """Draws noise without saying so."""

    def step(self, model, x, t, s, carry, noise):
        return super().step(model, x + 1e-12 * noise.normal(), t, s, carry, noise)


@dataclass(frozen=True)
class Unhashable(DDIM):
    """Holds a list, so that it is no value."""

    weights: list = field(default_factory=list)


@dataclass(frozen=True)
class Rounds(DDIM):
    """Computes in float32 where the state is float32, badly: a small difference of large terms."""

    def step(self, model, x, t, s, carry, noise):
        out = super().step(model, x, t, s, carry, noise)[0]
        return (out + 3000.0) - 3000.0, None


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (WrongCoefficient, "order, VPSDE, even"),
        (HalfTheScore, "order, SubVPSDE, even"),
        (TooMuchNoise, "weak order, VPSDE, even"),
        (SameNoiseTwice, "strong order, VPSDE, uneven"),
        (LopsidedHeun, "order, VPSDE, even"),
        (EvenWeights, "order, VPSDE, uneven"),
        (StopsShort, "step to sigma = 0"),
        (AsksAtTheEnd, "network evaluations"),
        (AsksOutside, "network evaluations"),
        (CountsHalf, "network evaluations"),
        (Remembers, "a pure step"),
        (SharedHistory, "a pure step"),
        (OwnGenerator, "a pure step"),
        (InPlace, "a pure step"),
        (Coupled, "independent samples"),
        (Promotes, "dtypes and shapes"),
        (FourAxes, "dtypes and shapes"),
        (Looks, "a pure step"),
        (SaysNothing, "a pure step"),
        (Unhashable, "a value"),
        (Rounds, "float32 round-off"),
    ],
)
def test_a_planted_defect_is_found(make, check):
    report = check_solver(make(), [VPSDE(), SubVPSDE()])
    assert not report.ok
    assert any(finding.check.startswith(check) for finding in report.findings), str(report)
    with pytest.raises(ContractError, match="breaks the contract"):
        report.raise_if_failed()


# -- wrong coefficients planted in the library's own solvers ---------------------------------------


@dataclass(frozen=True)
class BentWeights(ExponentialMultistep):
    """The oldest value of the predictor and of the corrector weighs 3% more."""

    def _rule(self, grid, t, s, places):
        rule = super()._rule(grid, t, s, places)
        return rule._replace(weights=(*rule.weights[:-1], 1.03 * rule.weights[-1]))


@dataclass(frozen=True)
class BentNoise(ExponentialMultistep):
    """The noise is 2% too wide."""

    def _rule(self, grid, t, s, places):
        rule = super()._rule(grid, t, s, places)
        return rule._replace(spread=1.02 * rule.spread)


@dataclass(frozen=True)
class BentStages(SEEDS2):
    """The last stage weighs 1% less."""

    def rows(self, h):
        return (1.0,), (0.0, 0.99)


@dataclass(frozen=True)
class BentTableau(ExponentialRK):
    """The last stage weighs 2% less, in steps within the grid."""

    def init(self, model, grid):
        run = super().init(model, grid)
        bent = []
        for plan in run.plans:
            weights = plan.last.weights
            if plan.inner:
                weights = (*weights[:-1], 0.98 * weights[-1])
            bent.append(plan._replace(last=plan.last._replace(weights=weights)))
        return run._replace(plans=tuple(bent))


@pytest.mark.parametrize(
    ("solver", "check"),
    [
        (BentWeights(2, "x0", "lambda", "dpm++"), "order, VPSDE, even"),
        (BentWeights(3, "x0", "lambda", "bh2", corrector=3), "order, VPSDE, even"),
        (BentWeights(4, "eps", "t"), "order, VPSDE, even"),
        (BentNoise(3, "x0", "lambda", "bh1", corrector=3, tau=1.0), "weak order, VPSDE, even"),
        (BentStages(), "weak order, VPSDE, even"),
        (BentTableau("dpm3", "eps"), "order, VPSDE, even"),
        (BentTableau("krogstad4", "x0"), "order, VPSDE, even"),
    ],
    ids=str,
)
def test_a_wrong_coefficient_is_found(solver, check):
    findings = check_solver(solver, [VPSDE()]).findings
    assert check in {finding.check for finding in findings}
    assert all("order" in finding.message for finding in findings if finding.check == check)


def test_a_wrong_process_is_the_only_one_named():
    found = {
        finding.check
        for finding in check_solver(HalfTheScore(), [VPSDE(), SubVPSDE(), VESDE()]).findings
    }
    assert {name for name in found if name.startswith("order")} == {
        "order, SubVPSDE, even",
        "order, SubVPSDE, uneven",
    }


def test_a_report_reads_well():
    report = check_solver(DDIM(), [VPSDE()])
    text = str(report)
    assert text.startswith("DDIM: keeps the contract of a solver, 0 findings in ")
    assert "order, VPSDE, even" in text
    assert 0.9 < report.measured["order, VPSDE, even"] < 1.1
    report.raise_if_failed()


@pytest.mark.parametrize("name", specs.SOLVERS)
@pytest.mark.parametrize("sde", [FlowSDE(), DISCRETE["zero-SNR table"]], ids=["flow", "table"])
def test_few_steps_from_no_signal_run_or_say_why_not(sde, name):
    mean = torch.tensor([0.7, -0.2], dtype=torch.float64)
    model, solver = Gaussian(sde, mean, Covariance.isotropic(0.25)), specs.solver(name)
    for maker in (uniform_lambda, uniform_t):
        for n in (1, 2, 3):
            try:
                out = sample(model, solver, maker(sde, n), shape=(3, 2), dtype=torch.float64)
            except ZeroSNRError:
                continue
            assert bool(out.x.isfinite().all()), n
            if n == 1 and solver.stochastic:  # the denoised x0, which is the mean at pure noise
                torch.testing.assert_close(out.x, mean.expand(3, 2), rtol=1e-12, atol=1e-12)
