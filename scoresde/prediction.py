r"""Predictions: a network's output, read as eps, x0, score or v.

The noise eps and the clean data x0 are affine functions of the state x and the raw output,
whatever the network predicts. With r^2 = alpha^2 + sigma^2, rho = sigma/alpha and d = sigma_data:

| predicts | eps | x0 |
| --- | --- | --- |
| eps | raw | (x - sigma raw) / alpha |
| x0 | (x - alpha raw) / sigma | raw |
| score | -sigma raw | (x + sigma^2 raw) / alpha |
| v | (sigma x + alpha r raw) / r^2 | (alpha x - sigma r raw) / r^2 |
| flow | (alpha raw - alpha' x) / d | (sigma' x - sigma raw) / d, d = alpha sigma' - sigma alpha' |
| F (EDM) | (rho x/alpha - d q raw) / q^2 | (d^2 x/alpha + rho d q raw) / q^2, q^2 = rho^2 + d^2 |

Sources: score and eps, Song et al. 2021; v, Salimans & Ho, "Progressive Distillation for Fast
Sampling of Diffusion Models", 2022, appendix D (here divided by r, so that for every process v is
the derivative of x/r with respect to the angle); flow, Lipman et al. 2023; F, Karras et al. 2022,
section 5 and table 1.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from ._internal.plain_data import from_plain, to_plain
from .errors import ConfigError, ShapeError, ZeroSNRError, unknown_name
from .scalar import Scalar, affine, hypot, scale
from .sde import SDE
from .sde.knot import Knot


class Coefficients(NamedTuple):
    """Coefficients of eps = eps_x x + eps_raw raw and x0 = x0_x x + x0_raw raw."""

    eps_x: Scalar
    eps_raw: Scalar
    x0_x: Scalar
    x0_raw: Scalar


@dataclass(frozen=True)
class Parametrization(ABC):
    """The meaning of a network's raw output: one row of the table of this module.

    Attributes:
        view: the name of the view of `Prediction` that equals the raw output, if there is one.
        bounds_x0: whether x0 has an error as small as that of the raw output at every noise level.
            It has not for eps and the score: there the error of x0 is rho times that of eps.
    """

    view: ClassVar[str] = ""
    bounds_x0: ClassVar[bool] = True

    @abstractmethod
    def coefficients(self, knot: Knot) -> Coefficients:
        """The affine maps from (x, raw) to eps and x0 at a knot."""

    @abstractmethod
    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """The raw output of a perfect network, shape (B, *)."""

    def input_scale(self, knot: Knot) -> Scalar:
        """The factor by which the state is multiplied to give the network's input."""
        return 1.0


def _need_signal(knot: Knot, what: str) -> None:
    if knot.is_zero_snr:
        raise ZeroSNRError(
            f"a network that predicts {what} does not determine the data at t = {knot.t:g}, where "
            "alpha = 0; start the grid at a smaller t, the largest one with alpha > 0 that the "
            "network was trained on, or use a network that predicts x0, v or a flow velocity"
        )


class PredictsEps(Parametrization):
    """The parametrization of a network that predicts the noise eps."""

    view = "eps"
    bounds_x0 = False

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`."""
        _need_signal(knot, "eps")
        return Coefficients(0.0, 1.0, 1.0 / knot.alpha, -knot.rho)

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """Eps."""
        return eps


class PredictsX0(Parametrization):
    """The parametrization of a network that predicts the clean data x0."""

    view = "x0"

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`."""
        return Coefficients(1.0 / knot.sigma, -knot.alpha / knot.sigma, 0.0, 1.0)

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """x0."""
        return x0


class PredictsScore(Parametrization):
    """The parametrization of a network that predicts the score, the gradient of log p_t(x)."""

    view = "score"
    bounds_x0 = False

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`."""
        _need_signal(knot, "the score")
        return Coefficients(0.0, -knot.sigma, 1.0 / knot.alpha, knot.sigma * knot.rho)

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """-eps / sigma."""
        return scale(-1.0 / knot.sigma, eps)


class PredictsV(Parametrization):
    """The parametrization of a network that predicts v.

    v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2).
    """

    view = "v"

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`."""
        alpha, sigma = knot.alpha, knot.sigma
        r = hypot(alpha, sigma)
        return Coefficients(sigma / r / r, alpha / r, alpha / r / r, -sigma / r)

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """v."""
        alpha, sigma = knot.alpha, knot.sigma
        r = hypot(alpha, sigma)
        return affine(alpha / r, eps, -sigma / r, x0)


@dataclass(frozen=True)
class PredictsFlow(Parametrization):
    """The parametrization of a network that predicts the flow velocity alpha' x0 + sigma' eps.

    The derivatives are with respect to the process's own time: the velocity is eps - x0 for
    `FlowSDE()`, eps for `EDMSDE` and pi v / 2 for `TrigonometricSDE`.

    Attributes:
        sde: the process; None for the model's own, and for eps - x0 without a model.
    """

    sde: SDE | None = None

    def _rates(self, knot: Knot) -> tuple[Scalar, Scalar]:
        slopes = (-1.0, 1.0) if self.sde is None else self.sde.rates(knot.t)
        if any(isinstance(slope, float) and not math.isfinite(slope) for slope in slopes):
            _need_signal(knot, f"the velocity of {type(self.sde).__name__}")
        return slopes

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`: the inverse of the two equations for x and the velocity."""
        alpha, sigma = knot.alpha, knot.sigma
        a, s = self._rates(knot)
        det = alpha * s - sigma * a
        return Coefficients(-a / det, alpha / det, s / det, -sigma / det)

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """alpha' x0 + sigma' eps."""
        a, s = self._rates(knot)
        return affine(a, x0, s, eps)


@dataclass(frozen=True)
class PredictsF(Parametrization):
    """The parametrization of a network that predicts EDM's F.

    The network's input and target have unit variance for data of standard deviation sigma_data.
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        if not self.sigma_data > 0:
            raise ConfigError(f"sigma_data must be positive, got {self.sigma_data!r}")

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`."""
        _need_signal(knot, "EDM's F")
        rho, d, alpha = knot.rho, self.sigma_data, knot.alpha
        q = hypot(rho, d)
        return Coefficients(rho / q / q / alpha, -d / q, d * d / q / q / alpha, rho * d / q)

    def input_scale(self, knot: Knot) -> Scalar:
        """1 / (alpha sqrt(rho^2 + sigma_data^2))."""
        return 1.0 / (knot.alpha * hypot(knot.rho, self.sigma_data))

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """(x0 - c_skip x/alpha) / c_out, with x/alpha = x0 + rho eps."""
        rho, d = knot.rho, self.sigma_data
        q = hypot(rho, d)
        return affine(rho / (d * q), x0, -d / q, eps)


EPS = PredictsEps()
X0 = PredictsX0()

_BY_NAME: dict[str, Parametrization] = {
    "eps": EPS,
    "x0": X0,
    "score": PredictsScore(),
    "v": PredictsV(),
    "flow": PredictsFlow(),
    "F": PredictsF(),
}


_ELSEWHERE = {
    "noise": "eps",
    "epsilon": "eps",
    "sample": "x0",
    "denoised": "x0",
    "v_prediction": "v",
    "velocity": "flow",
    "edm": "F",
}
"""Names in other codebases: an error says what each is called here."""


def parametrization(name: str | Parametrization, sde: SDE | None = None) -> Parametrization:
    """The row of the table with this name ("eps", "x0", "score", "v", "flow", "F").

    Args:
        name: the name, or a parametrization, which may be your own.
        sde: the process of the model; a flow velocity depends on it.

    Raises:
        ConfigError: for an unknown name, or a flow velocity of another process.
    """
    found = name if isinstance(name, Parametrization) else _BY_NAME.get(name)
    if found is None:
        if meant := _ELSEWHERE.get(str(name)):
            raise ConfigError(f"{name!r} is called {meant!r} here; write predicts={meant!r}")
        raise unknown_name("parametrization", name, _BY_NAME)
    if isinstance(found, PredictsFlow) and sde is not None:
        if found.sde not in (None, sde):
            raise ConfigError(
                f"the velocity belongs to the process {found.sde!r}, the model to {sde!r}; write "
                "predicts='flow' for the velocity of the model's own process"
            )
        return PredictsFlow(sde)
    return found


def to_dict(predicts: Parametrization) -> Any:
    """A parametrization as JSON-able data: its name, or the name of its class and its fields.

    Raises:
        ConfigError: for your own parametrization, if it is not a frozen dataclass of plain values.
    """
    if isinstance(predicts, PredictsFlow):  # its process is stored with the model
        return "flow"
    for name, known in _BY_NAME.items():
        if predicts == known:
            return name
    return to_plain(predicts)


def from_dict(data: Any, *, known: Sequence[type] = ()) -> str | Parametrization:
    """The parametrization that `to_dict` wrote. If that is a name, the name is returned.

    Args:
        data: the name, or the name of a class and its fields.
        known: your own classes that the data may name.

    Raises:
        ConfigError: for a name that is neither the library's nor that of a class in `known`.
    """
    if isinstance(data, str):
        return data
    classes = [type(value) for value in _BY_NAME.values()]
    made: Parametrization = from_plain("parametrization", data, [*classes, *known])
    return made


def _check_times(times: Tensor, x: Tensor) -> None:
    # A shape (B,) would broadcast along the last axis, and raise no error if that has length B.
    if times.ndim > 0 and times.shape != (x.shape[0], *[1] * (x.ndim - 1)):
        raise ShapeError(
            f"a knot of shape {tuple(times.shape)} does not fit a state of shape "
            f"{tuple(x.shape)}; write sde.at(t, like=x) for times of shape (B,)"
        )


class Prediction:
    """A model's prediction at a state x, readable as eps, x0, score or v.

    Each view is computed from the one raw output, without a further network evaluation.

    Attributes:
        x: the state, shape (B, *).
        knot: the time.
        raw: the network's output, shape (B, *).
        predicts: the meaning of `raw`: a `Parametrization` or the name of one, such as "eps".
        cost: network evaluations per sample of this prediction (2 under guidance).
        share: for networks that also predict the variance of a reverse step, shape (B, *), else
            None. The log of the variance lies between that of the posterior (share 0) and that of
            the forward transition (share 1).

    Raises:
        ShapeError: for a knot of tensors whose shape is neither () nor (B, 1, ...).
    """

    __slots__ = ("cost", "knot", "predicts", "raw", "share", "x")

    def __init__(
        self,
        x: Tensor,
        knot: Knot,
        raw: Tensor,
        predicts: Parametrization | str,
        cost: int = 1,
        share: Tensor | None = None,
    ) -> None:
        predicts = parametrization(predicts)
        if isinstance(knot.log_sigma, Tensor):
            _check_times(knot.log_sigma, x)
        self.x, self.knot, self.raw, self.predicts, self.cost = x, knot, raw, predicts, cost
        self.share = share
        if knot.is_zero_snr:
            predicts.coefficients(knot)  # raises if the raw output does not determine x0 there

    def mix(self, x0: Scalar, eps: Scalar) -> Tensor:
        """The combination `x0` times the clean data plus `eps` times the noise, shape (B, *).

        Every view and every one-step update is such a combination. Its coefficients are combined
        in float64 first, then applied to `x` and `raw` in one expression.
        """
        c = self.predicts.coefficients(self.knot)
        return affine(
            x0 * c.x0_x + eps * c.eps_x, self.x, x0 * c.x0_raw + eps * c.eps_raw, self.raw
        )

    @property
    def eps(self) -> Tensor:
        """Predicted noise, shape (B, *)."""
        return self.raw if self.predicts.view == "eps" else self.mix(0.0, 1.0)

    @property
    def x0(self) -> Tensor:
        """Predicted clean data, shape (B, *)."""
        return self.raw if self.predicts.view == "x0" else self.mix(1.0, 0.0)

    @property
    def score(self) -> Tensor:
        """Predicted score -eps / sigma, the gradient of log p_t(x), shape (B, *)."""
        if self.predicts.view == "score":
            return self.raw
        return self.mix(0.0, -1.0 / self.knot.sigma)

    @property
    def v(self) -> Tensor:
        """Predicted v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2), shape (B, *)."""
        if self.predicts.view == "v":
            return self.raw
        r = self.knot.radius
        return self.mix(-self.knot.sigma / r, self.knot.alpha / r)

    def at(self, s: Knot) -> Tensor:
        """The state alpha_s x0 + sigma_s eps at s, if this prediction stays constant up to s."""
        return self.mix(s.alpha, s.sigma)

    def with_eps(self, eps: Tensor, cost: int | None = None) -> Prediction:
        """The prediction at the same state and time whose noise is `eps`, shape (B, *).

        All other views follow from it, whatever the network predicts. Its `predicts` is "eps".

        Args:
            eps: the noise.
            cost: network evaluations per sample; by default those of this prediction.

        Raises:
            ShapeError: if the shape is not that of the state.
            ZeroSNRError: if alpha = 0, where the noise does not determine the data.
        """
        return self._with(EPS, eps, cost)

    def with_x0(self, x0: Tensor, cost: int | None = None) -> Prediction:
        """The prediction whose clean data are `x0`, shape (B, *); see `with_eps`.

        If sigma is small, eps = (x - alpha x0) / sigma has few correct digits.
        """
        return self._with(X0, x0, cost)

    def with_score(self, score: Tensor, cost: int | None = None) -> Prediction:
        """The prediction whose score is `score`, shape (B, *); see `with_eps`."""
        return self._with(_BY_NAME["score"], score, cost)

    def with_v(self, v: Tensor, cost: int | None = None) -> Prediction:
        """The prediction whose v is `v`, shape (B, *); see `with_eps`. Works at alpha = 0 too."""
        return self._with(_BY_NAME["v"], v, cost)

    def replace(self, raw: Tensor, cost: int | None = None) -> Prediction:
        """The prediction with another raw output, shape (B, *), of the same meaning `predicts`.

        To set the noise, whatever the network predicts, use `with_eps`; to set the clean data, use
        `with_x0`.
        """
        return self._with(self.predicts, raw, cost)

    def _with(self, predicts: Parametrization, raw: Tensor, cost: int | None) -> Prediction:
        if raw.shape != self.x.shape:
            raise ShapeError(
                f"a prediction for a state of shape {tuple(self.x.shape)} got a value of shape "
                f"{tuple(raw.shape)}; write value.expand_as(prediction.x) if that is meant"
            )
        cost = self.cost if cost is None else cost
        return Prediction(self.x, self.knot, raw.to(self.x.dtype), predicts, cost, self.share)
