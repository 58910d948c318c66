"""Where sampling starts, and the noise range of a network, held against planted errors."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import pytest
import torch

from scoresde import (
    CFG,
    DDIM,
    EDMSDE,
    VESDE,
    VPSDE,
    Covariance,
    DiscreteVPSDE,
    ExponentialMultistep,
    FlowSDE,
    Gaussian,
    ScoreModel,
    cosine_betas,
    load_pretrained,
    log_likelihood,
    sample,
    uniform_lambda,
    uniform_t,
)
from scoresde.diagnose import noise_range
from scoresde.diagnose.levels import NoiseRangeWarning
from scoresde.errors import ConfigError, ShapeError
from scoresde.exact.problems import ring8
from scoresde.noise import generator
from scoresde.sampling import SizeWarning, recommended
from scoresde.sampling.start import FirstStepWarning, draw_start, start_of
from scoresde.sde import TrigonometricSDE
from scoresde.training.checkpoint import load_model, save_model
from scoresde.trusted import NoiseRange

COSINE = DiscreteVPSDE.from_betas(cosine_betas(1000))
MEAN, STD = 0.3, 0.5
DIM = 64


def truth(sde) -> Gaussian:
    centre = torch.full((DIM,), MEAN, dtype=torch.float64)
    return Gaussian(sde, centre, Covariance.isotropic(STD**2))


def network(sde, error: float, predicts: str = "eps") -> ScoreModel:
    """The exact network with an error of fixed size in its output, which depends on the input."""
    exact = truth(sde)
    waves = torch.randn(DIM, DIM, generator=generator("waves"), dtype=torch.float64)

    def net(x, t):
        y = x.double()
        out = getattr(exact(y, sde.at(t, like=y)), predicts)
        return (out + error * math.sqrt(2) * torch.sin(3 * y @ waves)).to(x.dtype)

    return ScoreModel(net, sde, predicts=predicts, time="t", net_dtype=torch.float64)


# -- the start -----------------------------------------------------------------------------------


def test_networks_of_eps_and_the_score_start_where_their_x0_can_be_trusted():
    model = network(COSINE, 0.02)
    began = start_of(model)
    assert began.rho == pytest.approx(0.5 / 0.02)  # deviation assumed / floor assumed
    assert float(COSINE.at(began.t).rho) == pytest.approx(25.0, rel=1e-9)
    for nfe in (1, 5, 12, 20):
        for solver in (None, "DDIM", "Heun", "UniPC", "Ancestral", "recommended(stochastic=True)"):
            out = sample(model, solver, nfe=max(nfe, 3), shape=(2, DIM))
            assert float(out.grid.knots[0].rho) == pytest.approx(25.0, rel=1e-9)
            assert "from rho = 25 (above it an error of 0.02 in eps" in repr(out)


def test_others_start_at_the_end_of_the_process():
    assert start_of(truth(COSINE)).t == COSINE.t_max
    assert start_of(CFG.pair(truth(COSINE), truth(COSINE), scale=1.0)).t == COSINE.t_max
    assert start_of(network(COSINE, 0.0, "x0")).t == COSINE.t_max
    assert start_of(network(COSINE, 0.0, "v")).t == COSINE.t_max
    low = VESDE(sigma_max=10.0)
    assert start_of(network(low, 0.0, "score")).t == low.t_max  # within reach
    guided = CFG.pair(network(COSINE, 0.0), truth(COSINE), scale=2.0)
    assert start_of(guided).rho == pytest.approx(25.0)  # the worst of its models decides


def test_a_network_with_a_floor_gives_samples_of_the_data():
    """From the end of the process five evaluations return several times the deviation."""
    model = network(COSINE, 0.02)
    for nfe in (5, 10, 20):
        x = sample(model, nfe=nfe, shape=(512, DIM), seeds=1).x.double()
        # The start leaves out the mean, which moves samples by MEAN STD / 25 = .006 at most; eps
        # errs by .02 along the way.
        assert abs(float(x.mean()) - MEAN) < 0.015
        assert float(x.std()) == pytest.approx(STD, rel=0.04)
        far = sample(model, nfe=nfe, shape=(512, DIM), seeds=1, start="end").x
        assert float(far.std()) > 2 * STD or nfe > 5


def test_a_start_can_be_asked_for():
    model = network(COSINE, 0.02)
    assert float(sample(model, nfe=5, start=7.0, shape=(1, DIM)).grid.knots[0].rho) == (
        pytest.approx(7.0, rel=1e-9)
    )
    with pytest.warns(SizeWarning):
        far = sample(model, "Heun", nfe=5, start="end", shape=(1, DIM))
    assert far.grid.knots[0].t == COSINE.t_max
    with pytest.raises(ConfigError, match="within the levels of the process"):
        sample(model, nfe=5, start=1e6, shape=(1, DIM))
    with pytest.raises(ConfigError, match="beside a grid"):
        sample(model, DDIM(), uniform_lambda(COSINE, 4), start=5.0, shape=(1, DIM))


def test_a_hopeless_first_step_is_told_once_and_obeyed():
    model = network(COSINE, 0.02)
    with pytest.warns(
        FirstStepWarning, match=r"from rho = 2.03e\+04 to .* start at rho = 25"
    ) as said:
        sample(model, DDIM(), uniform_t(COSINE, 5), shape=(1, DIM))
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(truth(COSINE), DDIM(), uniform_t(COSINE, 5), shape=(1, DIM))
        sample(network(COSINE, 0.0, "v"), DDIM(), uniform_t(COSINE, 5), shape=(1, DIM))
        sample(model, DDIM(), uniform_lambda(COSINE, 200), shape=(1, DIM))  # small steps
        sample(network(VPSDE(), 0.02), DDIM(), uniform_lambda(VPSDE(), 10), shape=(1, DIM))


def test_settings_follow_the_floor():
    exact, net = truth(VPSDE()), network(VPSDE(), 0.02)
    assert recommended(exact, 20)[0].prediction == "v"
    assert recommended(net, 20)[0].prediction == recommended(VPSDE(), 20)[0].prediction == "x0"
    assert recommended(exact, 20, floor=0.02, start=25.0) == recommended(net, 20)
    assert recommended(net, 20, floor=0.0)[0] == recommended(exact, 20)[0]


@pytest.mark.parametrize(
    ("nfe", "values", "last"),
    [(5, 2, 1.2 / 5), (9, 2, 1.2 / 9), (10, 3, 12 / 10**2), (20, 3, 12 / 20**2)],
)
def test_settings_of_networks_are_those_of_the_guide(nfe, values, last):
    solver, grid = recommended(VPSDE(t_min=1e-5), nfe, data_std=0.5)
    assert (solver.values, solver.corrector, solver.coordinate) == (values, values - 1, "lambda")
    assert float(grid.knots[-2].rho) == pytest.approx(0.5 * last, rel=1e-6)


@pytest.mark.parametrize("nfe", [8, 20])
def test_an_image_network_is_served_better_than_by_the_settings_of_closed_forms(nfe):
    """RMS to the network's own flow, from the same 12 starts. Networks in the plane are not: see
    docs/choosing_a_solver.md.
    """
    file = Path(__file__).parents[1] / "benchmarks" / "networks" / "cifar_F_edm.safetensors"
    model = load_model(file).model
    shape, fine = (12, 3, 32, 32), uniform_lambda(model.sde, 120, t_max=start_of(model).t)
    truth = sample(model, ExponentialMultistep(3, "v", "lambda"), fine, shape=shape).x
    rms = [
        float((sample(model, *plan, shape=shape).x - truth).square().mean().sqrt())
        for plan in (recommended(model, nfe), recommended(model, nfe, floor=0.0))
    ]
    assert rms[0] < 0.85 * rms[1]


# -- the range -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("error", "sde"), [(0.02, COSINE), (0.05, VESDE(0.01, 500.0))])
def test_the_range_ends_where_the_planted_error_reaches_the_deviation(error, sde):
    model = network(sde, error)
    data = truth(sde).sample(256, seed=3)
    found = noise_range(model, data, levels=40)
    # The error of x0 is error * rho beyond what the noise hides; it equals the guess's, STD, at
    assert found.high == pytest.approx(STD / error, rel=0.08)
    assert found.std == pytest.approx(STD, rel=0.02)
    assert torch.allclose(found.mean, data.mean(0))
    blind = noise_range(model, shape=(256, DIM), levels=40)
    assert blind.high == pytest.approx(STD / error, rel=0.12)
    assert blind.std == pytest.approx(STD, rel=0.05)
    assert float((blind.mean - MEAN).abs().mean()) < 0.1


def test_an_exact_model_is_trusted_everywhere():
    model = truth(VPSDE())
    found = noise_range(model, model.sample(512, seed=0))
    assert found.high == pytest.approx(float(VPSDE().at(1.0).rho))
    for level in found.levels:  # the linear guess is the best there is
        assert level.error == pytest.approx(level.guess, rel=0.03)


def test_a_range_is_used_for_the_start_and_its_moments():
    found = NoiseRange(0.01, 12.0, torch.full((DIM,), MEAN), STD**2)
    model = network(COSINE, 0.02).with_range(found)
    out = sample(model, nfe=10, shape=(2000, DIM), seeds=0, keep=[0])
    begun = out.trajectory[0]
    assert float(begun.knot.rho) == pytest.approx(12.0, rel=1e-9)
    alpha = float(begun.knot.alpha)
    spread = math.sqrt((alpha * STD) ** 2 + float(begun.knot.sigma) ** 2)
    # 5 standard errors of 128,000 numbers
    assert float(begun.x.mean()) == pytest.approx(alpha * MEAN, abs=5 * spread / 358)
    assert float(begun.x.std()) == pytest.approx(spread, rel=5 / 506)
    assert "the highest level that is trusted" in repr(out)
    assert model.floor == pytest.approx(STD / 12.0)
    assert NoiseRange.from_dict(found.to_dict()).to_dict() == found.to_dict()
    with pytest.warns(FirstStepWarning, match="above the highest level at which the model"):
        sample(model, DDIM(), uniform_lambda(COSINE, 200), shape=(1, DIM))
    assert model.with_range(None).noise_range is None


def test_the_variance_of_the_data_is_in_the_start():
    """At rho = 1, where it is a fifth of the variance of the state."""
    model = network(EDMSDE(), 0.0).with_range(NoiseRange(0.01, 5.0, torch.zeros(DIM), STD**2))
    noise = torch.ones(2, DIM, dtype=torch.float64)
    begun = draw_start(model, EDMSDE().at_rho(1.0), noise)
    torch.testing.assert_close(begun, math.sqrt(1.0 + STD**2) * noise, rtol=1e-12, atol=0)


def test_nowhere_trusted_and_nonsense_are_clear_errors():
    sde = EDMSDE()
    wrong = ScoreModel(lambda x, t: -x, sde, predicts="x0", time="t")
    data = truth(sde).sample(64, seed=0)
    with pytest.raises(ConfigError, match=r"trusted nowhere.*Likely mistakes: another time"):
        noise_range(wrong, data)
    with pytest.raises(ConfigError, match="either data"):
        noise_range(wrong)
    with pytest.raises(ConfigError, match="low < high"):
        NoiseRange(3.0, 1.0, torch.zeros(2), 1.0)
    with pytest.raises(ConfigError, match=r"write model.with_range"):
        network(sde, 0.0).with_range(3.0)


def test_a_likelihood_still_ends_where_the_process_does():
    model = network(VPSDE(t_min=1e-3), 0.0)
    x = truth(VPSDE()).sample(3, seed=1)
    found = log_likelihood(model, x)
    assert torch.allclose(found.nats, truth(VPSDE()).log_prob(x, VPSDE().at(1e-3)), atol=0.05)


def test_a_range_is_saved_with_its_model(tmp_path):
    model = load_pretrained("swiss_roll")
    found = NoiseRange(0.01, 12.0, torch.tensor([0.1, -0.2]), 0.25)
    save_model(tmp_path / "ranged.safetensors", model.with_range(found))
    again = load_model(tmp_path / "ranged.safetensors").model
    assert again.noise_range.to_dict() == found.to_dict()
    assert sample(again, nfe=5, shape=(1, 2)).start.rho == 12.0


def test_a_range_that_ends_among_the_data_warns():
    sde = EDMSDE()
    exact = truth(sde)

    def net(x, t):  # right below rho = 1, nonsense above
        y = x.double()
        knot = sde.at(t, like=y)
        eps = exact(y, knot).eps
        return torch.where(knot.rho < 1.0, eps, -eps).to(x.dtype)

    model = ScoreModel(net, sde, predicts="eps", time="t", net_dtype=torch.float64)
    with pytest.warns(NoiseRangeWarning, match="check_model"):
        found = noise_range(model, exact.sample(64, seed=0))
    assert found.high < 1.5


def test_moments_of_another_shape_are_refused():
    found = NoiseRange(0.01, 12.0, torch.zeros(1, 1), STD**2)
    with pytest.raises(ShapeError, match=r"shape \(1, 1\), and a sample has \(64,\)"):
        sample(network(COSINE, 0.0).with_range(found), nfe=5, shape=(2, DIM))
    with pytest.raises(ConfigError, match="must differ from one another"):
        noise_range(truth(COSINE), torch.ones(8, DIM))
    with pytest.raises(ConfigError, match="must be finite"):
        NoiseRange(0.01, 12.0, torch.full((2,), math.nan), 1.0)


@pytest.mark.parametrize("name", ["ProbabilityFlow", "DPMSolverAdaptive"])
@pytest.mark.parametrize("sde", [FlowSDE(), TrigonometricSDE()], ids=["flow", "trigonometric"])
def test_steps_of_their_own_begin_right_after_alpha_is_zero(sde, name):
    """The one step of the grid from alpha = 0 must not be the whole way: that gives the mean."""
    x = sample(ring8(sde), name, shape=(400, 2), seeds=0).x
    assert float(x.std()) == pytest.approx(float(ring8(sde).sample(4000, seed=1).std()), rel=0.06)


def test_samples_of_absurd_size_are_named_and_kept():
    """A network that says eps = -9 x / sigma above rho = 1: every step multiplies the state."""
    sde = EDMSDE()

    def net(x, t):
        return -9.0 * x.double() / sde.at(t, like=x.double()).sigma

    model = ScoreModel(net, sde, predicts="eps", time="t", net_dtype=torch.float64)
    with pytest.warns(SizeWarning, match="2 of 2 samples are absurdly large"):
        out = sample(model, "DDIM", nfe=20, shape=(2, DIM))
    assert sorted(out.failures) == [0, 1]
    assert "the solver diverged" in out.failures[1]
    assert bool(torch.isfinite(out.x).all())
