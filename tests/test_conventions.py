"""The rows of docs/wrapping_your_network.md, tested with a perfect network of each codebase.

Every network here uses the formulas and symbols of its codebase, and the posterior mean of a
mixture. Wrapped as the table says, it must give the score of that mixture.
"""

import math

import numpy as np
import pytest
import torch
from support import randn

from scoresde import (
    EDMSDE,
    VESDE,
    VPSDE,
    CosineVPSDE,
    DiscreteVPSDE,
    FlowSDE,
    IndexTime,
    PredictsF,
    ScaledTime,
    ScoreModel,
    SubVPSDE,
    TrigonometricSDE,
    linear_betas,
)
from scoresde.errors import ConfigError, ShapeError

MEANS = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.3, -0.8]], dtype=torch.float64)
VARIANCE = 0.05


def column(value, x):
    return torch.as_tensor(value, dtype=torch.float64).reshape(-1, 1).expand(len(x), 1)


def posterior_mean(x, alpha, sigma):
    """E[x0 | x] for x = alpha x0 + sigma eps, with x0 from the mixture above."""
    alpha, sigma = column(alpha, x), column(sigma, x)
    total = alpha**2 * VARIANCE + sigma**2
    offset = x[:, None] - alpha[..., None] * MEANS
    weights = torch.softmax(-0.5 * offset.square().sum(2) / total, 1)
    gain = alpha * VARIANCE / total
    return (weights[..., None] * (MEANS + gain[..., None] * offset)).sum(1)


def noise(x, alpha, sigma):
    alpha, sigma = column(alpha, x), column(sigma, x)
    return (x - alpha * posterior_mean(x, alpha, sigma)) / sigma


# -- networks, as the codebases have them --------------------------------------------------------

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
ALPHAS_CUMPROD = torch.cumprod(1 - BETAS, 0)


def improved_diffusion(x, timesteps):  # indices; the mean's half, then the variance's
    product = ALPHAS_CUMPROD[timesteps.long()]
    eps = noise(x, product.sqrt(), (1 - product).sqrt())
    return torch.cat([eps, torch.full_like(eps, 7.0)], 1)


LONG = torch.cumprod(1 - torch.linspace(2.5e-5, 0.005, 4000, dtype=torch.float64), 0)


def improved_diffusion_4000(x, timesteps):  # rescaled: 1000/4000 of the index
    product = LONG[(4 * timesteps).round().long()]
    return noise(x, product.sqrt(), (1 - product).sqrt())


def predicts_xstart(x, timesteps):
    product = ALPHAS_CUMPROD[timesteps.long()]
    return posterior_mean(x, product.sqrt(), (1 - product).sqrt())


def score_sde_ve_discrete(x, labels):  # an index from the noisiest of 1000 sigmas down
    sigmas = torch.exp(torch.linspace(math.log(50.0), math.log(0.01), 1000, dtype=torch.float64))
    sigma = sigmas[labels.long()]
    return -noise(x, 1.0, sigma) / column(sigma, x)


def edm_vp_precond(x, sigma):  # c_skip 1, c_out -sigma around the network's own noise
    return x + -column(sigma, x) * noise(x, 1.0, sigma)


def sit_vp(x, t):  # log_mean_coeff in 1 - t; data at t = 1; the velocity in t
    back = 1 - t
    log_mean = -0.25 * back**2 * (20 - 0.1) - 0.5 * back * 0.1
    slope = 0.5 * back * (20 - 0.1) + 0.5 * 0.1  # d log_mean / dt
    alpha, sigma = log_mean.exp(), (1 - (2 * log_mean).exp()).sqrt()
    d_alpha, d_sigma = alpha * slope, (2 * log_mean).exp() * (2 * slope) / (-2 * sigma)
    return column(d_alpha, x) * posterior_mean(x, alpha, sigma) + column(d_sigma, x) * noise(
        x, alpha, sigma
    )


def sit_gvp(x, t):
    half = math.pi / 2
    alpha, sigma = (half * t).sin(), (half * t).cos()
    return half * (
        column(sigma, x) * posterior_mean(x, alpha, sigma)
        - column(alpha, x) * noise(x, alpha, sigma)
    )


def sit_noise(x, t):
    return noise(x, t, 1 - t)


TURNED = {"predicts": "flow", "time": lambda knot: 1 - knot.t, "output": lambda out: -out}


def embedding_table(x, timesteps):
    assert timesteps.dtype == torch.long
    return improved_diffusion(x, timesteps)[:, :2]


def denoising_diffusion_pytorch(x, time):  # objective pred_v
    a, s = ALPHAS_CUMPROD[time.long()].sqrt(), (1 - ALPHAS_CUMPROD[time.long()]).sqrt()
    return column(a, x) * noise(x, a, s) - column(s, x) * posterior_mean(x, a, s)


def score_sde(std):
    def network(x, labels):  # score_fn(x, t) is -network(x, 999 t) / std
        t = labels / 999
        log_mean = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
        return noise(x, log_mean.exp(), std(log_mean))

    return network


def score_sde_ve(x, labels):  # labels are sigma(t); the output is the score
    return -noise(x, 1.0, labels) / column(labels, x)


def edm(x, sigma):
    return posterior_mean(x, 1.0, sigma)


def edm_bare(x, c_noise):  # x comes multiplied by c_in
    sigma = column((4 * c_noise).exp(), x)
    root = (sigma**2 + 0.5**2).sqrt()
    c_skip, c_out, c_in = 0.5**2 / root**2, sigma * 0.5 / root, 1 / root
    return (posterior_mean(x / c_in, 1.0, sigma) - c_skip * (x / c_in)) / c_out


def flow_matching(x, t):  # x = (1 - t) noise + t data
    return posterior_mean(x, t, 1 - t) - noise(x, t, 1 - t)


def optimal_transport(x, t, low=0.1):  # x = (1 - (1 - low) t) noise + t data
    sigma = 1 - (1 - low) * t
    return posterior_mean(x, t, sigma) - (1 - low) * noise(x, t, sigma)


def interpolant(x, t):  # x = cos(pi t / 2) data + sin(pi t / 2) noise
    half = math.pi / 2
    alpha, sigma = column((half * t).cos(), x), column((half * t).sin(), x)
    return half * (alpha * noise(x, alpha, sigma) - sigma * posterior_mean(x, alpha, sigma))


def velocity_of_edm(x, sigma):  # x = data + sigma noise, dx/dsigma
    return noise(x, 1.0, sigma)


def rectified_1000(x, timestep):  # x = (1 - sigma) data + sigma noise
    sigma = timestep / 1000
    return noise(x, 1 - sigma, sigma) - posterior_mean(x, 1 - sigma, sigma)


def log_snr(x, value):  # variance-preserving, told log(alpha^2 / sigma^2)
    return noise(x, torch.sigmoid(value).sqrt(), torch.sigmoid(-value).sqrt())


TABLE = DiscreteVPSDE.from_betas(linear_betas())
ROWS = {
    "improved-diffusion": ScoreModel(
        improved_diffusion, TABLE, predicts="eps", output=lambda out: out[:, :2]
    ),
    "improved-diffusion, 4000 steps": ScoreModel(
        improved_diffusion_4000,
        DiscreteVPSDE.from_betas(linear_betas(4000)),
        time=ScaledTime(1000 / 4000),
    ),
    "predict_xstart": ScoreModel(predicts_xstart, TABLE, predicts="x0"),
    "score_sde VP, not continuous": ScoreModel(
        lambda x, labels: improved_diffusion(x, labels)[:, :2],
        DiscreteVPSDE.from_betas(np.linspace(1e-4, 0.02, 1000)),
    ),
    "score_sde VE, not continuous": ScoreModel(
        score_sde_ve_discrete,
        VESDE(0.01, 50.0),
        predicts="score",
        time=lambda knot: round(999 * (1 - knot.t)),
    ),
    "EDM, precond vp": ScoreModel(
        edm_vp_precond, EDMSDE(t_min=0.0064, t_max=152.0), predicts="x0", time="sigma"
    ),
    "SiT, VP": ScoreModel(sit_vp, VPSDE(), **TURNED),
    "SiT, GVP": ScoreModel(sit_gvp, TrigonometricSDE(), **TURNED),
    "SiT, noise": ScoreModel(sit_noise, FlowSDE(), predicts="eps", time=lambda knot: 1 - knot.t),
    "embedding table": ScoreModel(
        embedding_table, TABLE, predicts="eps", time=IndexTime(1000, 999.0)
    ),
    "embedding table by name": ScoreModel(embedding_table, TABLE, predicts="eps", time="index"),
    "denoising-diffusion-pytorch": ScoreModel.from_betas(
        denoising_diffusion_pytorch, BETAS, predicts="v"
    ),
    "score_sde VP": ScoreModel(
        score_sde(lambda log_mean: (1 - (2 * log_mean).exp()).sqrt()),
        VPSDE(),
        predicts="eps",
        time=ScaledTime(999),
    ),
    "score_sde sub-VP": ScoreModel(
        score_sde(lambda log_mean: 1 - (2 * log_mean).exp()),
        SubVPSDE(),
        predicts="eps",
        time=ScaledTime(999),
    ),
    "score_sde VE": ScoreModel(score_sde_ve, VESDE(0.01, 50.0), predicts="score", time="sigma"),
    "EDM": ScoreModel(edm, EDMSDE(), predicts="x0", time="sigma"),
    "EDM, bare": ScoreModel(edm_bare, EDMSDE(), predicts=PredictsF(sigma_data=0.5)),
    "EDM, bare, on VP": ScoreModel(edm_bare, VPSDE(), predicts=PredictsF(0.5), time="c_noise"),
    "flow matching": ScoreModel(
        flow_matching,
        FlowSDE(),
        predicts="flow",
        time=lambda knot: 1 - knot.t,
        output=lambda out: -out,
    ),
    "optimal transport": ScoreModel(
        optimal_transport,
        FlowSDE(sigma_min=0.1),
        predicts="flow",
        time=lambda knot: 1 - knot.t,
        output=lambda out: -out,
    ),
    "interpolant": ScoreModel(interpolant, TrigonometricSDE(), predicts="flow"),
    "velocity of EDM": ScoreModel(velocity_of_edm, EDMSDE(), predicts="flow", time="sigma"),
    "rectified flow": ScoreModel(rectified_1000, FlowSDE(), predicts="flow", time=ScaledTime(1000)),
    "log-SNR": ScoreModel(log_snr, CosineVPSDE(), predicts="eps", time=ScaledTime(2, "lambda")),
}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.8])
@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_table(row, share):
    model = ROWS[row]
    t = model.sde.t_min + share * (model.sde.t_max - model.sde.t_min)
    if isinstance(model.sde, DiscreteVPSDE):
        t = float(round(t))  # their tables are between no two entries
    if "VE, not" in row:
        t = round(999 * t) / 999
    knot = model.sde.at(t)
    x = knot.alpha * randn(6, 2) + knot.sigma * randn(6, 2, seed=1)
    want = -noise(x, knot.alpha, knot.sigma) / knot.sigma
    # x0 to eps costs alpha / sigma digits, and so do their own float64 formulas near t = 0.
    limit = 1e-11 * (1 + math.exp(knot.lam)) ** 2
    assert (model.score(x, t) - want).abs().max() < limit * want.abs().max()


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 4)])
def test_times_that_would_broadcast_along_another_axis_are_refused(shape):
    model = ScoreModel(lambda x, t: x, VPSDE(), time=lambda knot: 0.5)
    x, times = randn(4, 4), torch.rand(shape, dtype=torch.float64)
    with pytest.raises(ShapeError, match="like=x"):
        model(x, VPSDE().at(times))
    assert model(x, VPSDE().at(times.flatten()[:4], like=x)).eps.shape == (4, 4)


def test_an_index_that_runs_past_its_table_is_refused():
    """IndexTime(1000) is for t in (0, 1): with a table's own indices it would be told 998001."""
    with pytest.raises(ConfigError, match="time='index'"):
        ScoreModel(embedding_table, TABLE, time=IndexTime(1000))
