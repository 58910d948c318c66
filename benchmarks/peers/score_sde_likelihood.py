r"""The likelihood as score_sde computes it: the baseline that others are measured against.

Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
section 4.3 and appendix D.2: the probability-flow ODE and Hutchinson's trace estimate of its
divergence, with one Rademacher probe for the whole solve,

    dx/dt = f x - g^2 / 2 score         d log p / dt = -z^T (d/dx) (f x - g^2 / 2 score) z

in t from t_min to t_max by scipy's RK45, one step size for the whole batch, prior N(0, I). A
value of the right-hand side runs the network twice, once for the drift and once more for the
divergence, and goes back through the second. Written from that description; it differs from
score_sde's code in that the state keeps its dtype (there float32), any event shape will do, and a
solve that fails raises.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scoresde.model import Predictor


class Cost(NamedTuple):
    """What a solve took, the same for every sample of the batch.

    Attributes:
        evaluations: of the right-hand side; what score_sde reports as its NFE.
        forwards: network runs, two for each of them.
        backwards: passes back through the network, one for each of them.
    """

    evaluations: int
    forwards: int
    backwards: int


def score_sde_log_likelihood(
    model: Predictor,
    x: Tensor,
    *,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    seed: int = 0,
    t_min: float | None = None,
) -> tuple[Tensor, Cost]:
    """log p of x at t_min in nats, shape (B,) in float64, and what it took.

    Args:
        model: what predicts.
        x: data, shape (B, *), as the state at t_min.
        rtol, atol: tolerances of RK45, on the whole batch at once.
        seed: of the probe.
        t_min: where the solve starts; the process's own by default, 1e-5 in score_sde.

    Raises:
        RuntimeError: if the solver gives up.
    """
    from scipy.integrate import solve_ivp

    sde = model.sde
    low = sde.t_min if t_min is None else t_min
    batch, forwards = len(x), 0
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, x.shape, generator=generator)
    probe = (2 * signs - 1).to(x)

    def drift(state: Tensor, t: float) -> Tensor:
        nonlocal forwards
        forwards += 1
        score = model(state, sde.at(t)).score
        return float(sde.f(t)) * state - 0.5 * float(sde.g2(t)) * score

    def slope(t: float, packed: NDArray[np.float64]) -> NDArray[np.float64]:
        state = torch.from_numpy(packed[:-batch]).to(x).reshape(x.shape)
        with torch.no_grad():
            moved = drift(state, t)
        with torch.enable_grad():
            leaf = state.clone().requires_grad_()
            product = (drift(leaf, t) * probe).sum()
            pulled = torch.autograd.grad(product, leaf)[0]
        trace = (pulled * probe).flatten(1).sum(1)
        return np.concatenate([_flat(moved), _flat(trace)])

    start = np.concatenate([_flat(x), np.zeros(batch)])
    solution = solve_ivp(slope, (low, sde.t_max), start, method="RK45", rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"RK45 gave up at t = {solution.t[-1]:.3g}: {solution.message}")
    end = torch.from_numpy(solution.y[:, -1])
    z, gained = end[:-batch].reshape(batch, -1), end[-batch:]
    last = sde.at(sde.t_max)
    spread = 1.0 if abs(float(last.radius) - 1) < 1e-9 else float(last.sigma)
    prior = -0.5 * (z / spread).square().sum(1)
    prior = prior - z.shape[1] * (0.5 * math.log(2 * math.pi) + math.log(spread))
    evaluations = int(solution.nfev)
    return prior + gained, Cost(evaluations, forwards, evaluations)


def _flat(values: Tensor) -> NDArray[np.float64]:
    flat: NDArray[np.float64] = values.detach().double().cpu().numpy().reshape(-1)
    return flat
