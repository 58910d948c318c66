r"""Weights of the multistep family, in float64 and ahead of the loop.

The prediction u is taken to be the polynomial through its values at some knots, in a coordinate c
of the user's choice, so that the step's integral becomes a weighted sum of those values,

    W_j = integral over the step of kernel(a) L_j(c(a)) da,

with L_j the Lagrange polynomials. Gauss-Legendre quadrature evaluates them in their product form:
no powers, no linear system, nothing that loses digits for short steps or high orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ...sde import SDE
from ...sde.knot import Knot
from .forms import COORDINATES, GAUSS, Array, Form, X0Form

PUBLISHED: dict[str, dict[int, str]] = {
    "exact": {},
    "mean": dict.fromkeys(range(2, 16), "mean"),
    "dpm++": {2: "mean", 3: "halved"},
    "bh1": {2: "h"},
    "bh2": {2: "mean"},
}
"""Where published weights differ from the exact integral, by the number of values used.

mean: the kernel is replaced by its mean over the step ("phi_1-scaled"). halved: the quadratic
term has half its weight, as in DPM-Solver++(3M), whose order is 2 for that reason. h: the linear
term is weighted as if the kernel were constant (B_1(h) = h of UniPC, and SA-Solver).
"""


def step_weights(
    form: Form,
    sde: SDE,
    t: Knot,
    s: Knot,
    nodes: Sequence[tuple[int, Knot]],
    *,
    coordinate: str,
    rule: str,
    tau: float,
) -> tuple[float, ...]:
    """The weight of each node's prediction in a step from t to s.

    Args:
        form: the prediction variable.
        sde: the process, for the coordinate t.
        t, s: ends of the step; s may be the clean end.
        nodes: where predictions are known, as (index in the grid, knot); t itself comes first.
        coordinate: "t", "lambda", "rho", "angle" or "index" (of the grid).
        rule: a key of `PUBLISHED`.
        tau: share of noise.
    """
    total = form.total(t, s, tau)
    count = len(nodes)
    if count == 1:
        return (total,)
    if s.is_clean:
        return _to_clean(form, t, s, [knot for _, knot in nodes])
    treated = PUBLISHED[rule].get(count, "exact")
    first = nodes[0][0]
    if coordinate == "index":
        at = [float(index) for index, _ in nodes]
        ends = (float(first), float(first + 1))
    else:
        at = [COORDINATES[coordinate](knot) for _, knot in nodes]
        ends = (COORDINATES[coordinate](t), COORDINATES[coordinate](s))
    if treated == "mean":
        u, du = GAUSS
        basis = lagrange(ends[0] + u * (ends[1] - ends[0]), at)
        return tuple(float(w) for w in total * (basis @ du))
    if treated == "h":
        h = (1 + tau**2) * (t.lam - s.lam) if isinstance(form, X0Form) else s.lam - t.lam
        linear = 0.5 * total * float(h / math.expm1(h)) * (ends[1] - ends[0]) / (at[1] - at[0])
        return (total - linear, linear)
    rho, measure = _quadrature(form, t, s, tau)
    c = _coordinate(coordinate, sde, rho)
    weights = lagrange(c, at) @ measure
    if treated == "halved":
        second = 0.5 * float((c - ends[0]) ** 2 @ measure)
        weights -= second * np.array(
            [1 / math.prod(x - y for y in at if y != x) for x in at]  # a divided difference
        )
    return tuple(float(w) for w in weights)


def lagrange(x: Array, nodes: Sequence[float]) -> Array:
    """Lagrange's basis polynomials of the nodes at x (Q,), shape (len(nodes), Q)."""
    rows = [
        math.prod(((x - other) / (own - other) for other in nodes if other != own), start=x**0)
        for own in nodes
    ]
    return np.stack(rows)


def _to_clean(form: Form, t: Knot, s: Knot, nodes: Sequence[Knot]) -> tuple[float, ...]:
    """A step to sigma = 0: in rho or the angle, both of which are finite there."""
    if isinstance(form, X0Form):  # the kernel is concentrated at the end
        return tuple(float(w) for w in lagrange(np.zeros(1), [float(k.rho) for k in nodes])[:, 0])
    rho, measure = _quadrature(form, t, s, 0.0)
    return tuple(
        float(w) for w in lagrange(np.arctan(rho), [math.atan(k.rho) for k in nodes]) @ measure
    )


def _quadrature(form: Form, t: Knot, s: Knot, tau: float) -> tuple[Array, Array]:
    """Nodes rho of the step and what each contributes: kernel times length."""
    u, du = GAUSS
    if t.is_zero_snr or s.is_clean:
        angle = float(t.angle) + u * float(s.angle - t.angle)
        rho, length = np.tan(angle), du * float(s.angle - t.angle)
    else:
        h = float(s.lam - t.lam)
        rho = np.exp(-(float(t.lam) + u * h))
        length = -du * h * rho / (1 + rho * rho)
    return rho, form.kernel(rho, s, tau) * length


def _coordinate(name: str, sde: SDE, rho: Array) -> Array:
    if name == "rho":
        return rho
    if name == "angle":
        return np.arctan(rho)
    if name == "lambda":
        return -np.log(rho)
    times = sde.t_at_lambda(torch.from_numpy(-np.log(rho)))
    return np.asarray(torch.as_tensor(times))
