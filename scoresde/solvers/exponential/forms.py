r"""The three ways to split the reverse process into a part solved exactly and a prediction.

With y = x/alpha, rho = sigma/alpha, the half log-SNR lam = -log rho, the angle a = atan(rho) and
r = sqrt(alpha^2 + sigma^2), the reverse SDE of noise share tau (0: the probability flow) is

    dy = (1 + tau^2) eps drho + tau sqrt(d rho^2) dw

and writing eps by way of x0 = y - rho eps or v = (eps - rho x0) cos(a) moves part of the right-hand
side into a linear factor that is integrated exactly. Over a step from t to s each form reads

    x_s = decay x_t + integral of kernel(a) u(a) da + spread z

| u | decay | kernel | spread |
| --- | --- | --- | --- |
| eps | alpha_s / alpha_t | (1 + tau^2) alpha_s / cos^2 a | alpha_s tau sqrt(rho_t^2 - rho_s^2) |
| x0 | sigma_s/sigma_t q^(tau^2) | -(1 + tau^2) alpha_s rho_s^(1 + tau^2) cos^(tau^2) a / sin^(2 + tau^2) a | sigma_s sqrt(1 - q^(2 tau^2)), q = rho_s / rho_t |
| v | r_s/r_t c^(tau^2) | (1 + tau^2) r_s (cos a / cos a_s)^(tau^2) | r_s sqrt(1 - c^(2 tau^2)), c = cos a_t / cos a_s |

eps: Zhang & Chen, "Fast Sampling of Diffusion Models with Exponential Integrator" (DEIS), 2023,
proposition 3. x0: Lu et al., "DPM-Solver++", 2022, proposition 4.1; with tau, Xue et al.,
"SA-Solver", 2023, proposition 4.2. The v form is the same argument in the angle.
"""  # noqa: E501 - a table

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ...axis import LAMBDA, AngleAxis, Axis
from ...errors import unknown_name
from ...prediction import Prediction
from ...sde.knot import Knot
from .quadrature import GAUSS, Array


class Form(ABC):
    """One row of the table above; knots have float fields."""

    stiffness: int
    """L of w' = L w + u on the form's own axis."""

    sigma_data: float = 1.0
    """Scale d of the angle atan(rho / d), for the step to sigma = 0."""

    @property
    def axis(self) -> Axis:
        """The variable of that equation: lambda, or an angle."""
        return LAMBDA

    @abstractmethod
    def scale(self, s: Knot) -> float:
        """What turns w back into x, with the sign of u in w'."""

    @abstractmethod
    def read(self, prediction: Prediction) -> Tensor:
        """The variable u of a prediction, shape (B, *)."""

    @abstractmethod
    def decay(self, t: Knot, s: Knot, tau: float) -> float:
        """The factor on x_t."""

    @abstractmethod
    def total(self, t: Knot, s: Knot, tau: float) -> float:
        """The kernel's integral over the step: the weight of a constant prediction."""

    @abstractmethod
    def kernel(self, rho: Array, s: Knot, tau: float) -> Array:
        """The kernel over the angle, at atan(rho)."""

    @abstractmethod
    def spread(self, t: Knot, s: Knot, tau: float) -> float:
        """Standard deviation of the noise that the step adds."""


class EpsForm(Form):
    """The linear part is x/alpha = const; w = x/sigma with w' = w - eps in lambda."""

    stiffness = 1

    def scale(self, s: Knot) -> float:
        """See `Form`."""
        return -float(s.sigma)

    def read(self, prediction: Prediction) -> Tensor:
        """Eps."""
        return prediction.eps

    def decay(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        return math.exp(s.log_alpha - t.log_alpha)

    def total(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        return float((1 + tau**2) * s.alpha * t.rho * math.expm1(t.lam - s.lam))

    def kernel(self, rho: Array, s: Knot, tau: float) -> Array:
        """See `Form`."""
        return (1 + tau**2) * float(s.alpha) * (1 + rho * rho)

    def spread(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        return float(tau * s.alpha * t.rho * math.sqrt(-math.expm1(2 * (t.lam - s.lam))))


class X0Form(Form):
    """The linear part is x/sigma = const (times a power of rho where there is noise);
    w = x/alpha with w' = -w + x0 in lambda.
    """

    stiffness = -1

    def scale(self, s: Knot) -> float:
        """See `Form`."""
        return float(s.alpha)

    def read(self, prediction: Prediction) -> Tensor:
        """x0."""
        return prediction.x0

    def decay(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        if s.is_clean or t.is_zero_snr:
            return 0.0 if s.is_clean or tau > 0 else float(s.sigma / t.sigma)
        return math.exp(s.log_sigma - t.log_sigma + tau**2 * (t.lam - s.lam))

    def total(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        return float(-s.alpha * math.expm1((1 + tau**2) * (t.lam - s.lam)))

    def kernel(self, rho: Array, s: Knot, tau: float) -> Array:
        """See `Form`."""
        # (rho_s / rho)^(1 + tau^2) / (sin a cos a), without overflow at either end of rho.
        ratio = (float(s.rho) / rho) ** (1 + tau**2)
        return -(1 + tau**2) * float(s.alpha) * ratio * (rho + 1 / rho)

    def spread(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        return float(s.sigma * math.sqrt(-math.expm1(2 * tau**2 * (t.lam - s.lam))))


@dataclass(frozen=True)
class VForm(Form):
    """The linear part is x/r = const (times a power of cos a where there is noise); w = x/r with
    w' = v in the angle. In general r^2 = (alpha d)^2 + sigma^2 and a = atan(rho / d): then v
    vanishes for data of N(0, d^2), it is EDM's F but for its sign, and tends to eps and to x0 as d
    grows and falls.

    Attributes:
        sigma_data: d.
    """

    sigma_data: float = 1.0
    stiffness = 0

    @property
    def axis(self) -> Axis:
        """atan(rho / d)."""
        return AngleAxis(self.sigma_data)

    def scale(self, s: Knot) -> float:
        """See `Form`."""
        return math.hypot(self.sigma_data * float(s.alpha), float(s.sigma))

    def read(self, prediction: Prediction) -> Tensor:
        """v = (alpha d eps - sigma x0 / d) / r."""
        if self.sigma_data == 1.0:
            return prediction.v
        d, knot = self.sigma_data, prediction.knot
        r = self.scale(knot)
        return prediction.mix(-float(knot.sigma) / (d * r), d * float(knot.alpha) / r)

    def decay(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        turn = self._cosines(t, s) ** (tau**2) if tau else 1.0
        return self.scale(s) / self.scale(t) * turn

    def total(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        start, end = (float(self.axis.read(knot)) for knot in (t, s))
        if tau == 0:
            return self.scale(s) * (end - start)
        nodes, weights = GAUSS
        rho = self.sigma_data * np.tan(start + nodes * (end - start))
        return float((self._turned(rho, s, tau) @ weights) * (end - start))

    def kernel(self, rho: Array, s: Knot, tau: float) -> Array:
        """See `Form`."""
        d = self.sigma_data
        return self._turned(rho, s, tau) * (d * (1 + rho * rho) / (d * d + rho * rho))

    def spread(self, t: Knot, s: Knot, tau: float) -> float:
        """See `Form`."""
        return self.scale(s) * math.sqrt(1 - self._cosines(t, s) ** (2 * tau**2)) if tau else 0.0

    def _turned(self, rho: Array, s: Knot, tau: float) -> Array:
        """The kernel over the form's own angle."""
        d = self.sigma_data
        turn: Array = (np.hypot(d, float(s.rho)) / np.hypot(d, rho)) ** (tau**2)
        return (1 + tau**2) * self.scale(s) * turn

    def _cosines(self, t: Knot, s: Knot) -> float:
        d = self.sigma_data
        return 0.0 if t.is_zero_snr else math.hypot(d, s.rho) / math.hypot(d, t.rho)


FORMS: dict[str, Form] = {"eps": EpsForm(), "x0": X0Form(), "v": VForm()}


def form(name: str, sigma_data: float = 1.0) -> Form:
    """The form with this name; `sigma_data` is that of v.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in FORMS:
        raise unknown_name("prediction variable", name, FORMS)
    return VForm(sigma_data) if name == "v" else FORMS[name]
