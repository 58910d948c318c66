r"""Variables in which the probability-flow ODE is integrated.

With rho = sigma/alpha, r = sqrt(alpha^2 + sigma^2), and the axes of `scoresde.axis`:

| clock | axis tau | state u | du/dtau |
| --- | --- | --- | --- |
| "t" | t | x | f x - g^2/2 score |
| "lambda" | half log-SNR | x / alpha | -rho eps |
| "log_rho" | log rho | x / alpha | rho eps |
| "rho" | rho | x / alpha | eps |
| "angle" | atan(rho) | x / r | v |

The first is Song et al. 2021, eq. 13; the others follow from it by the change of variables. All
except the first have no linear drift. Only the angle is regular at alpha = 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from ..axis import ANGLE, LAMBDA, LOG_RHO, RHO, TIME, Axis
from ..errors import ZeroSNRError, unknown_name
from ..prediction import Prediction
from ..scalar import Scalar
from ..sde import SDE
from ..sde.knot import Knot


class Clock(ABC):
    """One row of the table of this module."""

    axis: ClassVar[Axis]
    """The variable tau."""

    def scale(self, knot: Knot) -> Scalar:
        """The factor x / u at a knot."""
        return knot.alpha

    @abstractmethod
    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        """The derivative du/dtau, shape (B, *)."""


class _Time(Clock):
    axis = TIME

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


class _Lambda(Clock):
    axis = LAMBDA

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.mix(0.0, -prediction.knot.rho)


class _LogRho(Clock):
    axis = LOG_RHO

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.mix(0.0, prediction.knot.rho)


class _Rho(Clock):
    axis = RHO

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.eps


class _Angle(Clock):
    axis = ANGLE

    def scale(self, knot: Knot) -> Scalar:
        return knot.radius

    def velocity(self, prediction: Prediction, sde: SDE) -> Tensor:
        return prediction.v


_BY_NAME: dict[str, Clock] = {
    "t": _Time(),
    "lambda": _Lambda(),
    "log_rho": _LogRho(),
    "rho": _Rho(),
    "angle": _Angle(),
}


def clock(name: str) -> Clock:
    """The row of the table with this name.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in _BY_NAME:
        raise unknown_name("clock", name, _BY_NAME)
    return _BY_NAME[name]
