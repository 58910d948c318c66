r"""Tableaus of explicit exponential Runge-Kutta methods, in terms of the phi functions.

A step of length h for w' = L w + N(w), with z = L h and stages at c_i h, is

    w_i = e^(c_i z) w + h sum_j a_ij(z) N_j,        w_+ = e^z w + h sum_j b_j(z) N_j.

If L = 0, phi_k = 1/k! and the tableaus become ordinary Runge-Kutta methods.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...errors import unknown_name

Rows = list[list[float]]


def phi(k: int, z: float) -> float:
    """phi_k(z) = integral over (0, 1) of e^((1 - u) z) u^(k-1) / (k-1)! du, to full precision."""
    if abs(z) < 1:  # phi_k(z) = sum of z^n / (n + k)!
        return math.fsum(z**n / math.factorial(n + k) for n in range(20))
    value = math.expm1(z) / z
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / z
    return value


@dataclass(frozen=True)
class Tableau:
    """The coefficients of one Runge-Kutta method.

    Attributes:
        order: order of convergence.
        nodes: c_2, c_3, ..., as fractions of the step.
        rows: a function of z and (0, c_2, ...) that returns the rows a_2, a_3, ..., and b last.
        coordinate: the variable in which nodes are fractions: None for the form's axis, or "t".
    """

    order: int
    nodes: tuple[float, ...]
    rows: Callable[[float, Sequence[float]], Rows]
    coordinate: str | None = None


def _dpm2(z: float, c: Sequence[float]) -> Rows:
    p = phi(1, z)
    return [[c[1] * phi(1, c[1] * z)], [p * (1 - 0.5 / c[1]), p * 0.5 / c[1]]]


def _midpoint2(z: float, c: Sequence[float]) -> Rows:
    return [[c[1] * phi(1, c[1] * z)], [0.0, phi(1, z)]]


def _etd2(z: float, c: Sequence[float]) -> Rows:
    p = phi(2, z) / c[1]
    return [[c[1] * phi(1, c[1] * z)], [phi(1, z) - p, p]]


def _dpm3(z: float, c: Sequence[float]) -> Rows:
    p, q = phi(2, z) / c[2], c[2] ** 2 / c[1] * phi(2, c[2] * z)
    return [
        [c[1] * phi(1, c[1] * z)],
        [c[2] * phi(1, c[2] * z) - q, q],
        [phi(1, z) - p, 0.0, p],
    ]


def _krogstad4(z: float, c: Sequence[float]) -> Rows:
    half, middle = 0.5 * phi(1, z / 2), phi(2, z / 2)
    p1, p2, p3 = (phi(k, z) for k in (1, 2, 3))
    return [
        [half],
        [half - middle, middle],
        [p1 - 2 * p2, 0.0, 2 * p2],
        [p1 - 3 * p2 + 4 * p3, 2 * p2 - 4 * p3, 2 * p2 - 4 * p3, 4 * p3 - p2],
    ]


def _hochbruck4(z: float, c: Sequence[float]) -> Rows:
    half, middle = 0.5 * phi(1, z / 2), phi(2, z / 2)
    p1, p2, p3 = (phi(k, z) for k in (1, 2, 3))
    a52 = 0.5 * middle - p3 + 0.25 * p2 - 0.5 * phi(3, z / 2)
    a54 = 0.25 * middle - a52
    return [
        [half],
        [half - middle, middle],
        [p1 - 2 * p2, p2, p2],
        [half - 2 * a52 - a54, a52, a52, a54],
        [p1 - 3 * p2 + 4 * p3, 0.0, 0.0, 4 * p3 - p2, 4 * p2 - 8 * p3],
    ]


def _pseudo4(z: float, c: Sequence[float]) -> Rows:
    p, q = phi(1, z), c[1] * phi(1, c[1] * z)
    return [[q], [0.0, q], [0.0, 0.0, p], [p / 6, p / 3, p / 3, p / 6]]


TABLEAUS: dict[str, Tableau] = {
    "dpm1": Tableau(1, (), lambda z, c: [[phi(1, z)]]),
    "dpm2": Tableau(2, (0.5,), _dpm2),
    "dpm3": Tableau(3, (1 / 3, 2 / 3), _dpm3),
    "etd2": Tableau(2, (0.5,), _etd2),
    "midpoint2": Tableau(2, (0.5,), _midpoint2),
    "krogstad4": Tableau(4, (0.5, 0.5, 1.0), _krogstad4),
    "hochbruck4": Tableau(4, (0.5, 0.5, 1.0, 0.5), _hochbruck4),
    "pseudo4": Tableau(2, (0.5, 0.5, 1.0), _pseudo4, "t"),
}
"""dpm1 to dpm3: Lu et al., "DPM-Solver", 2022, eq. 3.7 and algorithms 4 and 5 (dpm2 scales its
slope by phi_1). etd2: the second-order conditions with their exact phi_2, as RES (Zhang et al.,
"Improved Order Analysis and Design of Exponential Integrator for Diffusion Models Sampling",
2023, section 3). midpoint2: with u = eps the second-order method of Karras et al. 2022, eq. 8, with
the middle taken in log rho (DPM2 of k-diffusion). krogstad4: Krogstad, "Generalized integrating
factor methods for stiff PDEs", 2005, eq. 51. hochbruck4: Hochbruck & Ostermann, "Explicit
exponential Runge-Kutta methods for semilinear parabolic problems", 2005, eq. 5.19. pseudo4: Liu et
al., "Pseudo Numerical Methods for Diffusion Models on Manifolds" (PNDM), 2022, eq. 11 (its stages
are those of the classical method, its weights phi_1-scaled, hence order 2).
"""


def tableau(name: str) -> Tableau:
    """The tableau with this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in TABLEAUS:
        raise unknown_name("Runge-Kutta method", name, TABLEAUS)
    return TABLEAUS[name]
