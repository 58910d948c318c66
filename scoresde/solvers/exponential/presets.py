"""Presets: the published solvers that are members of the exponential families.

Every function returns an `ExponentialMultistep` or an `ExponentialRK`, whose fields define the
method. `tests/test_peers.py` compares them with independent implementations. To add one, write a
function here and add its name to `__all__` and to `scoresde/solvers/__init__.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature
from itertools import product
from typing import Any, TypeVar

from ...errors import ConfigError
from .multistep import ExponentialMultistep
from .single_step import ExponentialRK

__all__ = [
    "DEIS",
    "DPM2",
    "IPNDM",
    "LMS",
    "PNDM",
    "RES2",
    "DPMSolver",
    "DPMSolverMultistep",
    "DPMSolverPP",
    "ExponentialAB",
    "SASolver",
    "UniPC",
]

Preset = Callable[..., ExponentialMultistep | ExponentialRK]
_P = TypeVar("_P", bound=Preset)
_RECOGNISED: dict[Preset, dict[str, tuple[Any, ...]]] = {}


def _recognised(**choices: tuple[Any, ...]) -> Callable[[_P], _P]:
    """Decorator: a solver equal to this preset with one of these arguments is shown by its name.

    If several presets give the same solver, the first one in this file is used.
    """

    def mark(make: _P) -> _P:
        _RECOGNISED[make] = choices
        return make

    return mark


@_recognised(order=(1, 2, 3), tau=(0.0, 1.0))
def DPMSolverPP(order: int = 2, *, tau: float = 0.0) -> ExponentialMultistep:  # noqa: N802
    """DPM-Solver++(2M) or (3M), and with tau = 1 their SDE forms.

    Lu et al., "DPM-Solver++", 2022, algorithm 2 and appendix; the SDE form of (3M) is that of
    k-diffusion. x0, polynomial in lambda, published weights. The weights of (3M) halve the
    quadratic term, so it converges with order 2; `ExponentialAB(3, "x0")` has order 3.

    Args:
        order: number of values, 1 to 3.
        tau: noise scale; 0 for the ODE, 1 for the SDE.
    """
    _within("DPMSolverPP", order, 3)
    weights = "dpm++3m sde" if order == 3 and tau > 0 else "dpm++"
    return ExponentialMultistep(order, "x0", "lambda", weights, tau=tau)


@_recognised(order=(1, 2, 3), tau=(0.0, 1.0))
def DPMSolverMultistep(order: int = 2, *, tau: float = 0.0) -> ExponentialMultistep:  # noqa: N802
    """The multistep DPM-Solver in eps, of orders 1 to 3.

    In diffusers: algorithm_type "dpmsolver" and, with tau = 1, "sde-dpmsolver".
    """
    _within("DPMSolverMultistep", order, 3)
    return ExponentialMultistep(order, "eps", "lambda", "dpm++", tau=tau)


@_recognised(order=(1, 2, 3, 4), coordinate=("t", "rho", "lambda"))
def DEIS(order: int = 4, coordinate: str = "t") -> ExponentialMultistep:  # noqa: N802
    """DEIS: tAB with coordinate "t", rhoAB with "rho", diffusers' log-rho form with "lambda".

    Zhang & Chen, "Fast Sampling of Diffusion Models with Exponential Integrator", 2023, eq. 14 and
    section 4; tAB-k of the paper has order k + 1 here. eps, exact weights.
    """
    return ExponentialMultistep(order, "eps", coordinate)


def LMS(order: int = 4) -> ExponentialMultistep:  # noqa: N802
    """Linear multistep (Adams-Bashforth for any grid) in rho, as in k-diffusion; DEIS rhoAB."""
    return ExponentialMultistep(order, "eps", "rho")


@_recognised(order=(1, 2, 3, 4))
def IPNDM(order: int = 4) -> ExponentialMultistep:  # noqa: N802
    """Improved PNDM: Adams-Bashforth weights of a uniform grid, on any grid.

    Zhang & Chen 2023, section 4 and appendix H.2. Order 2 on smooth grids, 1 on others. The
    weights are exact on grids uniform in rho.
    """
    return ExponentialMultistep(order, "eps", "index", "mean")


@_recognised()
def PNDM() -> ExponentialMultistep:  # noqa: N802
    """Pseudo numerical methods: three pseudo Runge-Kutta steps, then `IPNDM` of order 4.

    Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds", 2022, algorithm 2
    (F-PNDM). Four evaluations in each of the first three steps.
    """
    return ExponentialMultistep(4, "eps", "index", "mean", start="pseudo4")


@_recognised(order=(1, 2, 3, 4, 5, 6), prediction=("v", "x0", "eps"))
def ExponentialAB(order: int = 3, prediction: str = "v") -> ExponentialMultistep:  # noqa: N802
    """Exponential Adams-Bashforth with exact weights: x0 and eps in lambda, v in the angle.

    Hochbruck & Ostermann, "Exponential integrators", 2010, section 2.5.

    With few steps, do not use v in the angle on a grid uniform in log-SNR. In the angle its steps
    grow from the noisy end by a factor e^h each, with h the step in lambda (2.9 for ten steps of
    `VPSDE`): a polynomial through short steps is extrapolated over a long one, and a higher order
    gains almost nothing. A grid uniform in the polynomial's own coordinate avoids this:
    `focused(sde, n, Focus())` with `ExponentialMultistep(order, "v", Focus())`, as in
    `recommended`.
    """
    return ExponentialMultistep(order, prediction, "angle" if prediction == "v" else "lambda")


@_recognised(order=(1, 2, 3, 4), weights=("bh2", "bh1"), prediction=("x0", "eps"))
def UniPC(  # noqa: N802
    order: int = 3, weights: str = "bh2", prediction: str = "x0"
) -> ExponentialMultistep:
    """UniPC-p: predictor UniP-p and corrector UniC-p; order p + 1 if the weights are exact.

    Zhao et al., "UniPC", 2023, algorithms 1 and 2.

    Args:
        order: p.
        weights: "bh1" or "bh2", which differ only in steps with two values, or "exact".
        prediction: "x0" or "eps".
    """
    return ExponentialMultistep(order, prediction, "lambda", weights, corrector=order)


@_recognised(predictor=(1, 2, 3), corrector=(0, 2, 3, 4))
def SASolver(  # noqa: N802
    predictor: int = 3,
    corrector: int = 4,
    *,
    tau: float = 1.0,
    tau_min: float = 0.05,
    tau_max: float = 50.0,
) -> ExponentialMultistep:
    """SA-Solver: stochastic Adams predictor and corrector in x0 and lambda.

    Xue et al., "SA-Solver", 2023, algorithm 1. Weights are exact with three values or more, and
    those of the authors' code with two.

    Args:
        predictor: number of values in the predictor.
        corrector: number of values in the corrector, including the new one; 0 for none.
        tau: noise scale for rho from tau_min to tau_max; outside it is 0.
        tau_min, tau_max: the range of rho; the defaults are the paper's choice for EDM.
    """
    return ExponentialMultistep(
        predictor, "x0", "lambda", "bh1", corrector=max(corrector - 1, 0),
        tau=tau, tau_min=tau_min, tau_max=tau_max,
    )  # fmt: skip


@_recognised(order=(1, 2, 3), prediction=("eps", "x0"))
def DPMSolver(order: int = 3, prediction: str = "eps") -> ExponentialRK:  # noqa: N802
    """Single-step DPM-Solver-1, 2 or 3; with prediction "x0", DPM-Solver++(2S) and (3S).

    Lu et al., "DPM-Solver", 2022, algorithms 4 and 5; "DPM-Solver++", 2022, algorithm 1.
    """
    _within("DPMSolver", order, 3)
    return ExponentialRK(f"dpm{order}", prediction)


@_recognised()
def DPM2() -> ExponentialRK:  # noqa: N802
    """DPM2 of k-diffusion: the midpoint method in rho, with the middle at the geometric mean."""
    return ExponentialRK("midpoint2", "eps")


@_recognised(prediction=("x0", "eps"))
def RES2(prediction: str = "x0") -> ExponentialRK:  # noqa: N802
    """The refined exponential solver of order 2: exact phi_2 weights, order conditions met.

    Zhang et al., "Improved Order Analysis and Design of Exponential Integrator for Diffusion
    Models Sampling", 2023, section 3.
    """
    return ExponentialRK("etd2", prediction)


@functools.cache
def published() -> dict[ExponentialMultistep | ExponentialRK, str]:
    """All presets with their code, `{UniPC(2): "UniPC(order=2)", ...}`."""
    found: dict[ExponentialMultistep | ExponentialRK, str] = {}
    for make, choices in _RECOGNISED.items():
        defaults = {name: p.default for name, p in signature(make).parameters.items()}
        for values in product(*choices.values()):
            given = dict(zip(choices, values, strict=True))
            shown = [f"{key}={value!r}" for key, value in given.items() if value != defaults[key]]
            spec = f"{make.__name__}({', '.join(shown)})" if shown else make.__name__
            found.setdefault(make(**given), spec)
    return found


def _within(name: str, order: int, highest: int) -> None:
    if order not in range(1, highest + 1):
        raise ConfigError(
            f"{name} is published for orders 1 to {highest}, got {order!r}; "
            "write ExponentialAB(order, ...) for others"
        )
