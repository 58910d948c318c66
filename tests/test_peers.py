"""Equality with diffusers, an independent implementation, from the same start, to round-off.

The schedulers are given float64 noise levels (they compute float32 ones), and a closed-form
mixture as network. Every state is compared except the one at sigma = 0, where this library takes
a step of the solver's own order and diffusers one of order 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise

import pytest
import torch

from scoresde import (
    DDIM,
    SDE,
    Covariance,
    DiscreteVPSDE,
    GaussianMixture,
    Predrawn,
    from_times,
    iterate,
    sample,
    trailing,
)
from scoresde.grid import Grid
from scoresde.scalar import log, sin
from scoresde.solvers import Ancestral, DPMSolverPPSDE, Heun
from scoresde.solvers.exponential import (
    DEIS,
    DPM2,
    IPNDM,
    LMS,
    PNDM,
    DPMSolver,
    DPMSolverMultistep,
    DPMSolverPP,
    SASolver,
    UniPC,
)
from scoresde.solvers.exponential.forms import form

diffusers = pytest.importorskip("diffusers")
N, STEPS = 1000, 20

# diffusers hands its tensors to numpy in ways that numpy 2 deprecates, and deprecates algorithms
# of its own that are compared here all the same.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{words}")
    for words in (
        "__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers",
        "__array_wrap__ must accept context:DeprecationWarning:(diffusers|numpy)",
        "`algorithm_types dpmsolver and sde-dpmsolver` is deprecated:FutureWarning:diffusers",
    )
]


def mixture(sde):
    means = torch.tensor([[1.0, -0.5], [-0.8, 0.9], [0.1, 0.4]], dtype=torch.float64)
    return GaussianMixture(sde, means, Covariance.isotropic([0.02, 0.1, 0.05]), [0.5, 0.2, 0.3])


def start(x_scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return x_scale * torch.randn(8, 2, generator=generator, dtype=torch.float64)


def normals(count):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 2, generator=generator, dtype=torch.float64) for _ in range(count)]


class _Float64Torch:
    """torch, but with float64 under the name of float32: some schedulers cast states to it."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture(autouse=True)
def _double(monkeypatch):
    for name in (
        "dpmsolver_multistep",
        "unipc_multistep",
        "deis_multistep",
        "sasolver",
        "dpmsolver_singlestep",
        "euler_discrete",
        "euler_ancestral_discrete",
    ):
        module = import_module(f"diffusers.schedulers.scheduling_{name}")
        monkeypatch.setattr(module, "torch", _Float64Torch())


def make(kind, **config):
    scheduler = getattr(diffusers, kind)(
        num_train_timesteps=N, beta_schedule="linear", beta_start=1e-4, beta_end=0.02, **config
    )
    scheduler.alphas_cumprod = torch.cumprod(
        1 - torch.linspace(1e-4, 0.02, N, dtype=torch.float64), 0
    )
    scheduler.set_timesteps(STEPS)
    return scheduler


def table(scheduler):
    return DiscreteVPSDE.from_alphas_cumprod(scheduler.alphas_cumprod)


def levels(scheduler, times):
    """rho at whole indices, and a last one, in float64."""
    product = scheduler.alphas_cumprod[torch.as_tensor(times).long()]
    rho = ((1 - product) / product).sqrt()
    return torch.cat([rho, rho[-1:] / 2])


def ours(model, solver, grid, x, noise=None):
    return [info.x for info in iterate(model, solver, grid, x=x, noise=noise)]


def compare(mine, theirs, tolerance=1e-11):
    for k, (a, b) in enumerate(zip(mine[1:], theirs, strict=True)):
        gap = float((a - b).abs().max() / b.abs().max())
        assert gap < tolerance, f"state {k + 1} differs by {gap:.1e}"


MULTISTEP = {
    "DDIM": (DDIM(), "DPMSolverMultistepScheduler", {"solver_order": 1}),
    "DPM-Solver++(2M)": (DPMSolverPP(2), "DPMSolverMultistepScheduler", {"solver_order": 2}),
    "DPM-Solver++(3M)": (DPMSolverPP(3), "DPMSolverMultistepScheduler", {"solver_order": 3}),
    "DPM-Solver-2M": (
        DPMSolverMultistep(2),
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "DPM-Solver-3M": (
        DPMSolverMultistep(3),
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    ),
    "DEIS 2": (DEIS(2, "lambda"), "DEISMultistepScheduler", {"solver_order": 2}),
    "DEIS 3": (DEIS(3, "lambda"), "DEISMultistepScheduler", {"solver_order": 3}),
    **{
        f"UniPC-{p} {b} {u}": (
            UniPC(p, b, u),
            "UniPCMultistepScheduler",
            {"solver_order": p, "solver_type": b, "predict_x0": u == "x0"},
        )
        for p in (1, 2, 3, 4)
        for b in ("bh1", "bh2")
        for u in ("x0", "eps")
    },
}


@pytest.mark.parametrize("name", MULTISTEP)
def test_multistep(name):
    solver, kind, config = MULTISTEP[name]
    scheduler = make(kind, lower_order_final=False, **config)
    times = scheduler.timesteps.tolist()
    scheduler.sigmas = levels(scheduler, times)
    model = mixture(table(scheduler))
    grid = from_times(model.sde, times, clean=False)
    x, theirs = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, model.sde.at(float(t))).eps, t, x).prev_sample
        theirs.append(x)
    compare(ours(model, solver, grid, start()), theirs[:-1])


SDES = {
    "DPM-Solver++(2M) SDE": (DPMSolverPP(2, tau=1.0), {"solver_order": 2}),
    "DPM-Solver-2M SDE": (
        DPMSolverMultistep(2, tau=1.0),
        {
            "solver_order": 2,
            "algorithm_type": "sde-dpmsolver",
            "final_sigmas_type": "sigma_min",
        },
    ),
}


@pytest.mark.parametrize("name", SDES)
def test_multistep_with_noise(name):
    solver, config = SDES[name]
    config = {"algorithm_type": "sde-dpmsolver++", **config}
    scheduler = make("DPMSolverMultistepScheduler", lower_order_final=False, **config)
    times = scheduler.timesteps.tolist()
    scheduler.sigmas = levels(scheduler, times)
    model = mixture(table(scheduler))
    draws = normals(len(times))
    x, theirs = start(), []
    for t, z in zip(scheduler.timesteps, draws, strict=True):
        eps = model(x, model.sde.at(float(t))).eps
        x = scheduler.step(eps, t, x, variance_noise=z).prev_sample
        theirs.append(x)
    grid = from_times(model.sde, times, clean=False)
    compare(ours(model, solver, grid, start(), Predrawn(tuple(draws))), theirs[:-1])


def test_third_order_sde_differs_by_a_sign():
    """diffusers' third-order SDE update has the wrong sign in the constant of its last term.

    The weight of D2 is 1/2 - 1/(2h) + (1 - e^-2h) / (2h)^2, which vanishes with h; diffusers has
    -1/2 in place of +1/2, so that its weight tends to -1. k-diffusion has it right.
    """
    scheduler = make(
        "DPMSolverMultistepScheduler", lower_order_final=False, solver_order=3,
        algorithm_type="sde-dpmsolver++",
    )  # fmt: skip
    times = scheduler.timesteps.tolist()
    sigmas = levels(scheduler, times)
    scheduler.sigmas, scheduler._step_index = sigmas, 2
    values = [torch.full((1, 1), u, dtype=torch.float64) for u in (0.0, 0.0, 1.0)]
    zero = torch.zeros(1, 1, dtype=torch.float64)
    theirs = scheduler.multistep_dpm_solver_third_order_update(values, sample=zero, noise=zero)

    knots = [table(scheduler).at_lambda(-math.log(float(r))) for r in sigmas[:4]]
    plan = DPMSolverPP(3, tau=1.0).init(
        mixture(table(scheduler)), Grid(table(scheduler), tuple(knots))
    )
    ours = plan.plans[2].rule.weights[0]
    h = float(knots[3].lam - knots[2].lam)
    before, earlier = (float(knots[i + 1].lam - knots[i].lam) / h for i in (1, 0))
    second = 1 / before / (before + earlier)  # D2 of the values (0, 0, 1)
    assert float(theirs) == pytest.approx(ours - float(knots[3].alpha) * second, rel=1e-10)


@pytest.mark.parametrize(("predictor", "corrector"), [(3, 4), (3, 3), (2, 2), (3, 2)])
def test_sa_solver(monkeypatch, predictor, corrector):
    """A corrector with fewer values than the predictor has to take back the oldest too."""
    scheduler = make(
        "SASolverScheduler", predictor_order=predictor, corrector_order=corrector,
        lower_order_final=False, tau_func=lambda t: 1.0,
    )  # fmt: skip
    times = scheduler.timesteps.tolist()
    scheduler.sigmas = levels(scheduler, times)
    model = mixture(table(scheduler))
    draws = normals(len(times))
    waiting = iter(draws)
    module = import_module("diffusers.schedulers.scheduling_sasolver")
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(waiting))
    x, theirs = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, model.sde.at(float(t))).eps, t, x).prev_sample
        theirs.append(x)
    grid = from_times(model.sde, times, clean=False)
    solver = SASolver(predictor, corrector, tau=1.0, tau_min=0.0, tau_max=math.inf)
    mine = ours(model, solver, grid, start(), Predrawn(tuple(draws)))
    compare(mine, theirs[:-1])


def test_third_order_sde_starts_with_an_exact_second_step():
    """k-diffusion's weights: (1 - e^-2h, phi_2 / r), with phi_2 = 1 - (1 - e^-2h) / 2h."""
    sde = table(make("DPMSolverMultistepScheduler"))
    knots = tuple(sde.at_lambda(lam) for lam in (-3.0, -2.6, -2.0, -1.5))
    plan = DPMSolverPP(3, tau=1.0).init(mixture(sde), Grid(sde, knots)).plans[1]
    h, before = float(knots[2].lam - knots[1].lam), float(knots[1].lam - knots[0].lam)
    total = -math.expm1(-2 * h)
    slope = (1 - total / (2 * h)) * h / before
    expected = [float(knots[2].alpha) * w for w in (total + slope, -slope)]
    assert plan.rule.weights == pytest.approx(expected, rel=1e-12)


def scaled_run(scheduler, model, x, levels_of_calls):
    """Schedulers whose state is x / alpha."""
    theirs = []
    for t, rho in zip(scheduler.timesteps, levels_of_calls, strict=True):
        knot = model.sde.at_lambda(-math.log(float(rho)))
        eps = model(x * float(knot.alpha), knot).eps
        x = scheduler.step(eps, t, x).prev_sample
        theirs.append(x)
    return theirs


def scaled_grid(scheduler):
    sde = table(scheduler)
    rho = levels(scheduler, torch.linspace(N - 1, 0, STEPS).round())
    return rho, Grid(sde, tuple(sde.at_lambda(-math.log(float(r))) for r in rho[:-1]))


def scaled_start(grid):
    return start() / float(grid.knots[0].alpha)


def scaled_ours(model, solver, grid):
    states = ours(model, solver, grid, start())
    return [x / float(knot.alpha) for x, knot in zip(states, grid.knots, strict=True)]


def test_lms():
    scheduler = make("LMSDiscreteScheduler")
    rho, grid = scaled_grid(scheduler)
    scheduler.sigmas = rho
    scheduler.is_scale_input_called = True  # `model` takes the state itself
    model = mixture(grid.sde)
    theirs = scaled_run(scheduler, model, scaled_start(grid), rho[:-1])
    compare(scaled_ours(model, LMS(4), grid), theirs[:-1])


def test_heun():
    scheduler = make("HeunDiscreteScheduler")
    rho, grid = scaled_grid(scheduler)
    scheduler.sigmas = torch.cat([rho[:1], rho[1:-1].repeat_interleave(2), rho[-1:]])
    model = mixture(grid.sde)
    theirs = scaled_run(scheduler, model, scaled_start(grid), scheduler.sigmas[:-1])
    compare(scaled_ours(model, Heun(), grid), theirs[1:-1:2])


def test_dpm2():
    scheduler = make("KDPM2DiscreteScheduler")
    rho, grid = scaled_grid(scheduler)
    middle = torch.cat([rho[:1], (rho[:-1] * rho[1:]).sqrt()])
    scheduler.sigmas = torch.cat([rho[:1], rho[1:].repeat_interleave(2), rho[-1:]])
    scheduler.sigmas_interpol = torch.cat([middle[:1], middle[1:].repeat_interleave(2), rho[-1:]])
    calls = torch.stack([rho[:-2], middle[1:-1]], 1).flatten()
    model = mixture(grid.sde)
    scheduler.timesteps = scheduler.timesteps[: len(calls)]
    theirs = scaled_run(scheduler, model, scaled_start(grid), calls)
    compare(scaled_ours(model, DPM2(), grid), theirs[1::2])


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta):
    scheduler = make("DDIMScheduler", clip_sample=False)
    model = mixture(table(scheduler))
    times = scheduler.timesteps.tolist()
    draws = normals(STEPS)
    x, theirs = start(), []
    for t, z in zip(scheduler.timesteps, draws, strict=True):
        eps = model(x, model.sde.at(float(t))).eps
        x = scheduler.step(eps, t, x, eta=eta, variance_noise=z if eta else None).prev_sample
        theirs.append(x)
    grid = from_times(model.sde, times, clean=False)
    compare(ours(model, DDIM(eta), grid, start(), Predrawn(tuple(draws))), theirs[:-1])


def test_ddim_jumps_where_the_steps_do_not_divide_the_table():
    """It steps N // n indices down, and is told its next index N / n further down: the state is
    at another level than the network is told. `trailing` has real-valued indices instead.
    """
    for steps, error in ((200, 0.0), (300, 1.0), (400, 1.0)):
        scheduler = make("DDIMScheduler", clip_sample=False, timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        asked = scheduler.timesteps
        jumps = (asked[:-1] - N // steps - asked[1:]).abs()
        assert float(jumps.max()) == error
        grid = trailing(table(scheduler), steps, clean=False)
        gaps = torch.tensor([float(t.t - s.t) for t, s in pairwise(grid.knots)])
        assert torch.allclose(gaps, torch.tensor(N / steps), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "variance"), [("fixed_small", "posterior"), ("fixed_large", "forward")]
)
def test_ddpm(monkeypatch, kind, variance):
    scheduler = make("DDPMScheduler", clip_sample=False, variance_type=kind)
    model = mixture(table(scheduler))
    times = scheduler.timesteps.tolist()
    draws = normals(STEPS)
    waiting = iter(draws)
    module = import_module("diffusers.schedulers.scheduling_ddpm")
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(waiting))
    x, theirs = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, model.sde.at(float(t))).eps, t, x).prev_sample
        theirs.append(x)
    grid = from_times(model.sde, times, clean=False)
    compare(ours(model, Ancestral(variance), grid, start(), Predrawn(tuple(draws))), theirs[:-1])


@pytest.mark.parametrize(
    ("kind", "eta"), [("EulerDiscreteScheduler", 0.0), ("EulerAncestralDiscreteScheduler", 1.0)]
)
def test_euler(monkeypatch, kind, eta):
    scheduler = make(kind)
    rho, grid = scaled_grid(scheduler)
    scheduler.sigmas = rho
    model = mixture(grid.sde)
    draws = normals(STEPS)
    waiting = iter(draws)
    if eta:
        module = import_module("diffusers.schedulers.scheduling_euler_ancestral_discrete")
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: next(waiting))
    theirs = scaled_run(scheduler, model, scaled_start(grid), rho[:-1])
    states = ours(model, DDIM(eta), grid, start(), Predrawn(tuple(draws)))
    mine = [x / float(knot.alpha) for x, knot in zip(states, grid.knots, strict=True)]
    compare(mine, theirs[:-1])


def test_dpm_solver_sde():
    """Where the noise of a step's two stages is given as one realisation and its continuation.

    The scheduler itself draws both as increments of a Brownian path in sigma, as if the process
    gave them equal weight.
    """
    pytest.importorskip("torchsde")
    scheduler = make("DPMSolverSDEScheduler")
    rho, grid = scaled_grid(scheduler)
    # A state that is not corrected in between is of order 1, that at a step's end of order 2.
    scheduler.sigmas = torch.cat([rho[:1], rho[1:-1].repeat_interleave(2), rho[-1:]])
    model, draws = mixture(grid.sde), normals(2 * STEPS)
    waiting, first, x0 = iter(draws), [], form("x0")

    def noise(high, low):
        t, s = (grid.sde.at_lambda(-math.log(float(r))) for r in (high, low))
        if first:
            middle, n = first.pop()
            n = n * x0.decay(middle, s, 1.0) + next(waiting) * x0.spread(middle, s, 1.0)
        else:
            n = next(waiting) * x0.spread(t, s, 1.0)
            first.append((s, n))
        return n / x0.spread(t, s, 1.0)

    scheduler.noise_sampler = noise
    middle = (rho[:-2] * rho[1:-1]).sqrt()
    calls = torch.stack([rho[:-2], middle], 1).flatten()
    scheduler.timesteps = scheduler.timesteps[: len(calls)]
    theirs = scaled_run(scheduler, model, scaled_start(grid), calls)
    states = ours(model, DPMSolverPPSDE(), grid, start(), Predrawn(tuple(draws)))
    mine = [x / float(knot.alpha) for x, knot in zip(states, grid.knots, strict=True)]
    compare(mine, theirs[1::2])


def test_pndm_without_its_runge_kutta_start_asks_twice_at_one_index():
    """So that n steps cost n + 1 evaluations; with the start, as compared below, it does not."""
    scheduler = make("PNDMScheduler", skip_prk_steps=True)
    asked = scheduler.timesteps.tolist()
    assert len(asked) == STEPS + 1
    assert asked[1] == asked[2]
    model = mixture(table(scheduler))
    info = sample(model, PNDM(), from_times(model.sde, asked[2:], clean=False), x=start())
    assert info.mean_nfe == STEPS - 2 + 9  # three Runge-Kutta steps of four


def test_pndm():
    scheduler = make("PNDMScheduler", skip_prk_steps=False)
    model = mixture(table(scheduler))
    x, theirs = start(), []
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, model.sde.at(float(t))).eps, t, x).prev_sample
        theirs.append(x)
    grid = from_times(model.sde, [950 - 50 * k for k in range(STEPS)], clean=False)
    kept = [*theirs[3:12:4], *theirs[12:-1]]
    compare(ours(model, PNDM(), grid, start()), kept)


@dataclass(frozen=True)
class _Sine(SDE):
    """sigma = sin^2(pi t / 2), the process of diffusers' IPNDMScheduler."""

    def log_alpha(self, t):
        return 0.5 * log(1 - sin(0.5 * math.pi * t) ** 4)

    def log_sigma(self, t):
        return 2 * log(sin(0.5 * math.pi * t))


def test_ipndm():
    """From its second knot on: at the first, alpha = 0 and the scheduler takes x0 for 0 / 1e-8."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(STEPS)
    scheduler.betas = (
        torch.sin(torch.linspace(1, 0, STEPS + 1, dtype=torch.float64) * math.pi / 2) ** 2
    )
    scheduler.alphas = (1 - scheduler.betas**2).sqrt()
    scheduler._step_index = 1
    sde = _Sine()
    model = mixture(sde)
    times = [1 - k / STEPS for k in range(1, STEPS)]
    x, theirs = start(), []
    for t, label in zip(times, scheduler.timesteps[1:], strict=True):
        x = scheduler.step(model(x, sde.at(t)).v, label, x).prev_sample
        theirs.append(x)
    compare(ours(model, IPNDM(4), from_times(sde, times, clean=False), start()), theirs[:-1])


def test_singlestep_dpm_solver_2s():
    """Two of its calls are one step here; on a grid uniform in lambda the middle is the same."""
    scheduler = make(
        "DPMSolverSinglestepScheduler", solver_order=2, lower_order_final=False,
        final_sigmas_type="sigma_min",
    )  # fmt: skip
    sde = table(scheduler)
    lams = torch.linspace(float(sde.lam(999)), float(sde.lam(0)), STEPS + 1, dtype=torch.float64)
    scheduler.sigmas = torch.exp(-lams)
    scheduler.order_list = [1, 2] * (STEPS // 2)
    knots = tuple(sde.at_lambda(float(lam)) for lam in lams)
    model = mixture(sde)
    x, theirs = start(), []
    for t, knot in zip(scheduler.timesteps, knots, strict=False):
        x = scheduler.step(model(x, knot).eps, t, x).prev_sample
        theirs.append(x)
    mine = ours(model, DPMSolver(2, "x0"), Grid(sde, knots[::2]), start())
    compare(mine, theirs[1::2])
