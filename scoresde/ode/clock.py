r"""Variables in which the probability-flow ODE is integrated.

With rho = sigma/alpha, r = sqrt(alpha^2 + sigma^2) and angle = atan2(sigma, alpha):

| clock | variable tau | state u | du/dtau |
| --- | --- | --- | --- |
| "t" | t | x | f x - g^2/2 score |
| "lambda" | log rho = -lambda | x / alpha | rho eps |
| "rho" | rho | x / alpha | eps |
| "angle" | angle | x / r | v |

The first is Song et al. 2021, eq. 13; the others follow from it by the change of variables. In all
but the first the linear part of the drift is gone. Only the angle is regular where alpha = 0.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

from torch import Tensor

from ..errors import ZeroSNRError, unknown_name
from ..prediction import Prediction
from ..scalar import Scalar, log
from ..sde import SDE
from ..sde.knot import Knot


class Clock(ABC):
    """One row of the table: a value without fields."""

    at_zero_snr = False
    """Whether the variable and the state exist where alpha = 0."""

    @abstractmethod
    def read(self, knot: Knot) -> float:
        """tau at a knot of floats."""

    @abstractmethod
    def time(self, sde: SDE, tau: Scalar) -> Scalar:
        """t at tau."""

    @abstractmethod
    def scale(self, knot: Knot) -> Scalar:
        """x / u."""

    @abstractmethod
    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        """du/dtau, shape (B, *)."""


class _Time(Clock):
    at_zero_snr = True

    def read(self, knot: Knot) -> float:
        return float(knot.t)

    def time(self, sde: SDE, tau: Scalar) -> Scalar:
        return tau

    def scale(self, knot: Knot) -> Scalar:
        return 1.0

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        # x is alpha x0 + sigma eps and the score -eps / sigma: one combination of the two.
        knot = prediction.knot
        if knot.is_zero_snr:
            raise ZeroSNRError(
                f"the drift is infinite at t = {knot.t:g}, where alpha = 0; write "
                "solver=ProbabilityFlow(clock='angle')"
            )
        f, g2 = sde.f(knot.t), sde.g2(knot.t)
        return prediction.mix(f * knot.alpha, f * knot.sigma + 0.5 * g2 / knot.sigma)


class _LogRho(Clock):
    def read(self, knot: Knot) -> float:
        return -float(knot.lam)

    def time(self, sde: SDE, tau: Scalar) -> Scalar:
        return sde.t_at_lambda(-tau)

    def scale(self, knot: Knot) -> Scalar:
        return knot.alpha

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.mix(0.0, prediction.knot.rho)


class _Rho(_LogRho):
    def read(self, knot: Knot) -> float:
        return float(knot.rho)

    def time(self, sde: SDE, tau: Scalar) -> Scalar:
        return sde.t_at_lambda(-log(tau))

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.eps


class _Angle(Clock):
    at_zero_snr = True

    def read(self, knot: Knot) -> float:
        return float(knot.angle)

    def time(self, sde: SDE, tau: Scalar) -> Scalar:
        # tan(pi/2) is finite in floating point; such angles are the noisy end to round-off.
        rho = tau.tan() if isinstance(tau, Tensor) else math.tan(tau)
        return sde.t_at_lambda(-log(rho))

    def scale(self, knot: Knot) -> Scalar:
        return knot.radius

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.v


LOG_RHO = _LogRho()

_BY_NAME: dict[str, Clock] = {"t": _Time(), "lambda": LOG_RHO, "rho": _Rho(), "angle": _Angle()}


def clock(name: str) -> Clock:
    """The row of the table with this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _BY_NAME:
        raise unknown_name("clock", name, _BY_NAME)
    return _BY_NAME[name]
