r"""Weights of the multistep family, computed in float64 before the loop.

The prediction u is replaced by the polynomial through its values at some knots, in a coordinate c
that the user chooses. The integral over the step becomes a weighted sum of those values,

    W_j = integral over the step of kernel(a) L_j(c(a)) da,

with L_j the Lagrange polynomials. Gauss-Legendre quadrature uses their product form, without
powers or a linear system, so no digits are lost for short steps or high orders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ...axis import AngleAxis, Axis, axis
from ...sde import SDE
from ...sde.knot import Knot
from .forms import Form, X0Form
from .quadrature import GAUSS, Array

Coordinate = str | Axis
"""The name of an axis, an `Axis`, or "index": the position in the grid, defined at knots only."""

PUBLISHED: dict[str, dict[int, str]] = {
    "exact": {},
    "mean": dict.fromkeys(range(2, 16), "mean"),
    "dpm++": {2: "mean", 3: "halved"},
    "dpm++3m sde": {3: "halved"},
    "bh1": {2: "h"},
    "bh2": {2: "mean"},
}
"""How published weights differ from the exact integral, for each number of values.

mean: the kernel is replaced by its mean over the step ("phi_1-scaled"). halved: the quadratic
term has half its weight, as in DPM-Solver++(3M), which therefore has order 2 (its SDE form has
exact weights in the step with two values). h: the linear term is weighted as if the kernel were
constant (B_1(h) = h of UniPC, and SA-Solver).
"""


_LARGEST = 16.0  # the largest sum of absolute weights in the last step
_NEAR = 0.01  # fraction of the step: knots nearer to each other add no information


def step_weights(
    form: Form,
    sde: SDE,
    t: Knot,
    s: Knot,
    nodes: Sequence[tuple[int, Knot]],
    *,
    coordinate: Coordinate,
    rule: str,
    tau: float,
) -> tuple[float, ...]:
    """The weight of each node's prediction in a step from t to s.

    Args:
        form: the form, which names the prediction.
        sde: the process, for the coordinate t.
        t, s: ends of the step; s may be the clean end.
        nodes: knots with known predictions, as (index in the grid, knot); t is the first.
        coordinate: the variable of the polynomial.
        rule: a key of `PUBLISHED`.
        tau: noise scale.
    """
    total = form.total(t, s, tau)
    count = len(nodes)
    if count == 1:
        return (total,)
    if s.is_clean:
        return _to_clean(form, t, s, [knot for _, knot in nodes])
    if coordinate == "index":
        at = np.array([float(index) for index, _ in nodes])
        start, end = at[0], at[0] + 1.0
    else:
        along = axis(coordinate)
        at = np.array([float(along.read(knot)) for _, knot in nodes])
        start, end = at[0], float(along.read(s))
    treated = PUBLISHED[rule].get(count, "exact")
    if treated == "mean":
        u, du = GAUSS
        return _floats(total * (lagrange(start + u * (end - start), at) @ du))
    if treated == "h":
        h = (1 + tau**2) * (t.lam - s.lam) if isinstance(form, X0Form) else s.lam - t.lam
        linear = 0.5 * total * float(h / math.expm1(h)) * (end - start) / (at[1] - at[0])
        return float(total - linear), float(linear)
    rho, measure = _quadrature(form, t, s, tau)
    # Plain floats: a trajectory may be traced with tensors that hold no numbers.
    c = np.array([float(along.at(sde, float(value))) for value in np.log(rho)])
    weights = lagrange(c, at) @ measure
    if treated == "halved":
        gaps = at[:, None] - at + np.eye(count)
        weights -= 0.5 * ((c - start) ** 2 @ measure) / gaps.prod(1)  # a divided difference
    return _floats(weights)


def apart(nodes: Sequence[tuple[int, Knot]], t: Knot, s: Knot) -> list[tuple[int, Knot]]:
    """The nodes, without those closer in lambda than 1 % of the step to an earlier node.

    Two such nodes have large weights of opposite sign. These magnify round-off, and even more the
    difference between the two states: one is predicted, the other corrected.
    """
    least = _NEAR * abs(float(s.lam - t.lam)) if not s.is_clean else 0.0
    kept: list[tuple[int, Knot]] = []
    for place, knot in nodes:
        if all(abs(float(knot.lam - other.lam)) >= least for _, other in kept):
            kept.append((place, knot))
    return kept


def lagrange(x: Array, nodes: Array) -> Array:
    """Lagrange's basis polynomials of the nodes at x (Q,), shape (len(nodes), Q)."""
    same = np.eye(len(nodes), dtype=bool)
    gaps = nodes[:, None] - nodes
    ratios = (x - nodes[:, None])[None] / np.where(same, 1.0, gaps)[..., None]
    product: Array = np.where(same[..., None], 1.0, ratios).prod(1)
    return product


def _to_clean(form: Form, t: Knot, s: Knot, nodes: Sequence[Knot]) -> tuple[float, ...]:
    """Weights of a step to sigma = 0: an odd polynomial in the angle (eps, v) or an even one (x0).

    For data with a density, y(rho) and x0(rho) are even functions along the flow; eps and v are
    odd. Half of the coefficients are known to be 0, so p values determine as much as 2p would
    without this. If knots are so close that the weights would magnify round-off, fewer values are
    used.
    """
    total = form.total(t, s, 0.0)
    along = AngleAxis(form.sigma_data)
    at = np.array([float(along.read(knot)) for knot in nodes])
    angle, measure = np.zeros(1), np.array([total])  # the kernel of x0 is concentrated at the end
    if not isinstance(form, X0Form):
        rho, measure = _quadrature(form, t, s, 0.0)
        angle = np.arctan(rho / form.sigma_data)
    for count in range(len(at), 1, -1):
        basis = lagrange(angle**2, at[:count] ** 2)
        if not isinstance(form, X0Form):
            basis *= angle / at[:count, None]
        weights = basis @ measure
        if np.abs(weights).sum() <= _LARGEST:
            return _floats(weights)
    return (total,)


def _quadrature(form: Form, t: Knot, s: Knot, tau: float) -> tuple[Array, Array]:
    """Quadrature nodes rho in the step, and their weights: the kernel times the length."""
    u, du = GAUSS
    if t.is_zero_snr or s.is_clean:
        angle = float(t.angle) + u * float(s.angle - t.angle)
        rho, length = np.tan(angle), du * float(s.angle - t.angle)
    else:
        h = float(s.lam - t.lam)
        rho = np.exp(-(float(t.lam) + u * h))
        length = -du * h * rho / (1 + rho * rho)
    return rho, form.kernel(rho, s, tau) * length


def _floats(weights: Array) -> tuple[float, ...]:
    return tuple(weights.tolist())
