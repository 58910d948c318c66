r"""Three ways to split the reverse process: a linear part solved exactly, and a prediction.

With y = x/alpha, rho = sigma/alpha, the half log-SNR lam = -log rho, the angle a = atan(rho) and
r = sqrt(alpha^2 + sigma^2), the reverse SDE with noise scale tau (0: the probability flow) is

    dy = (1 + tau^2) eps drho + tau sqrt(d rho^2) dw

Replace eps by x0 = y - rho eps or by v = (eps - rho x0) cos(a): then part of the right-hand side
becomes a linear term, which is integrated exactly. Over a step from t to s each form is

    x_s = decay x_t + integral of kernel(a) u(a) da + spread z

| u | decay | kernel | spread |
| --- | --- | --- | --- |
| eps | alpha_s / alpha_t | (1 + tau^2) alpha_s / cos^2 a | alpha_s tau sqrt(rho_t^2 - rho_s^2) |
| x0 | sigma_s/sigma_t q^(tau^2) | -(1 + tau^2) alpha_s rho_s^(1 + tau^2) cos^(tau^2) a / sin^(2 + tau^2) a | sigma_s sqrt(1 - q^(2 tau^2)), q = rho_s / rho_t |
| v | r_s/r_t c^(tau^2) | (1 + tau^2) r_s (cos a / cos a_s)^(tau^2) | r_s sqrt(1 - c^(2 tau^2)), c = cos a_t / cos a_s |

eps: Zhang & Chen, "Fast Sampling of Diffusion Models with Exponential Integrator" (DEIS), 2023,
proposition 3. x0: Lu et al., "DPM-Solver++", 2022, proposition 4.1; with tau, Xue et al.,
"SA-Solver", 2023, proposition 4.2. The v form follows in the same way, in the angle.
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
    """A form of the reverse process: one row of the table of this module, for float knots."""

    stiffness: int
    """L of the equation w' = L w + u along `axis`."""

    sigma_data: float = 1.0
    """Scale d of the angle atan(rho / d), for the step to sigma = 0."""

    @property
    def axis(self) -> Axis:
        """The variable of the equation w' = L w + u: lambda, or an angle."""
        return LAMBDA

    @abstractmethod
    def scale(self, s: Knot) -> float:
        """The factor from w to x, times the sign of u in w'."""

    @abstractmethod
    def read(self, prediction: Prediction) -> Tensor:
        """The variable u of a prediction, shape (B, *)."""

    @abstractmethod
    def decay(self, t: Knot, s: Knot, tau: float) -> float:
        """The factor on x_t."""

    @abstractmethod
    def total(self, t: Knot, s: Knot, tau: float) -> float:
        """The integral of the kernel over the step: the weight of a constant prediction."""

    @abstractmethod
    def kernel(self, rho: Array, s: Knot, tau: float) -> Array:
        """The kernel with respect to the angle a, at a = atan(rho)."""

    @abstractmethod
    def spread(self, t: Knot, s: Knot, tau: float) -> float:
        """Standard deviation of the noise that the step adds."""


class EpsForm(Form):
    """The form in eps: the linear part keeps x/alpha; w = x/sigma, w' = w - eps in lambda."""

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
    """The form in x0: the linear part keeps x/sigma (times a power of rho if tau > 0).

    w = x/alpha, w' = -w + x0 in lambda.
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
    """The form in v: the linear part keeps x/r (times a power of cos a if tau > 0).

    w = x/r, w' = v in the angle, with r^2 = (alpha d)^2 + sigma^2 and a = atan(rho / d). v is zero
    for data N(0, d^2), and equals EDM's F up to its sign. As d grows the form tends to that in eps,
    as d tends to 0 to that in x0.

    Attributes:
        sigma_data: d.
    """

    sigma_data: float = 1.0
    stiffness = 0

    @property
    def axis(self) -> Axis:
        """The angle atan(rho / d)."""
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
        """The kernel with respect to the form's own angle atan(rho / d)."""
        d = self.sigma_data
        turn: Array = (np.hypot(d, float(s.rho)) / np.hypot(d, rho)) ** (tau**2)
        return (1 + tau**2) * self.scale(s) * turn

    def _cosines(self, t: Knot, s: Knot) -> float:
        d = self.sigma_data
        return 0.0 if t.is_zero_snr else math.hypot(d, s.rho) / math.hypot(d, t.rho)


FORMS: dict[str, Form] = {"eps": EpsForm(), "x0": X0Form(), "v": VForm()}


def form(name: str, sigma_data: float = 1.0) -> Form:
    """The form with this name; only "v" uses `sigma_data`.

    Raises:
        ConfigError: for an unknown name.
    """
    if name not in FORMS:
        raise unknown_name("prediction variable", name, FORMS)
    return VForm(sigma_data) if name == "v" else FORMS[name]
