r"""What a network says, and what a solver reads.

Whatever a network predicts, its raw output and the state x determine the noise eps and the clean
data x0 affinely. With r^2 = alpha^2 + sigma^2, rho = sigma/alpha and d = sigma_data:

| predicts | eps | x0 |
| --- | --- | --- |
| eps | raw | (x - sigma raw) / alpha |
| x0 | (x - alpha raw) / sigma | raw |
| score | -sigma raw | (x + sigma^2 raw) / alpha |
| v | (sigma x + alpha r raw) / r^2 | (alpha x - sigma r raw) / r^2 |
| flow | (alpha raw - alpha' x) / d | (sigma' x - sigma raw) / d, d = alpha sigma' - sigma alpha' |
| F (EDM) | (rho x/alpha - d q raw) / q^2 | (d^2 x/alpha + rho d q raw) / q^2, q^2 = rho^2 + d^2 |

Sources: score and eps, Song et al. 2021; v, Salimans & Ho, "Progressive Distillation for Fast
Sampling of Diffusion Models", 2022, appendix D (divided by r, so that v is dx/dangle for any
process); flow, Lipman et al. 2023; F, Karras et al. 2022, section 5 and table 1.
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
    """eps = eps_x x + eps_raw raw and x0 = x0_x x + x0_raw raw."""

    eps_x: Scalar
    eps_raw: Scalar
    x0_x: Scalar
    x0_raw: Scalar


@dataclass(frozen=True)
class Parametrization(ABC):
    """What the raw output of a network means: one row of the table above.

    Attributes:
        view: the view of a `Prediction` that the raw output itself is, if it is one.
        bounds_x0: whether an error of the raw output stays as small in x0 at any noise level. It
            does not for eps and the score: there the error of x0 is rho times that of eps.
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
        """What the state is multiplied by before the network sees it."""
        return 1.0


def _need_signal(knot: Knot, what: str) -> None:
    if knot.is_zero_snr:
        raise ZeroSNRError(
            f"a network that predicts {what} says nothing about the data at t = {knot.t:g}, where "
            "alpha = 0; start the grid below, at the largest t_max with alpha > 0 that the network "
            "was trained on, or use a network that predicts x0, v or a flow velocity"
        )


class PredictsEps(Parametrization):
    """The noise."""

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
    """The clean data."""

    view = "x0"

    def coefficients(self, knot: Knot) -> Coefficients:
        """See `Parametrization`."""
        return Coefficients(1.0 / knot.sigma, -knot.alpha / knot.sigma, 0.0, 1.0)

    def target(self, x0: Tensor, eps: Tensor, knot: Knot) -> Tensor:
        """x0."""
        return x0


class PredictsScore(Parametrization):
    """The score, the gradient of log p_t(x)."""

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
    """v = (alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2)."""

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
    """The velocity alpha' x0 + sigma' eps of the path, in the process's own time.

    For `FlowSDE()` it is eps - x0, for `EDMSDE` eps, for `TrigonometricSDE` pi v / 2.

    Attributes:
        sde: the process; None for that of the model, and eps - x0 without one.
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
    """EDM's F, whose input and target have unit variance for data of deviation sigma_data."""

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
"""Names of other codebases, to be pointed out rather than taken."""


def parametrization(name: str | Parametrization, sde: SDE | None = None) -> Parametrization:
    """The row of the table with this name ("eps", "x0", "score", "v", "flow", "F").

    Args:
        name: the name, or a parametrization, which may be your own.
        sde: the process of the model, which a flow velocity depends on.

    Raises:
        ConfigError: for an unknown name, and for the velocity of another process.
    """
    found = name if isinstance(name, Parametrization) else _BY_NAME.get(name)
    if found is None:
        if meant := _ELSEWHERE.get(str(name)):
            raise ConfigError(f"{name!r} is called {meant!r} here; write predicts={meant!r}")
        raise unknown_name("parametrization", name, _BY_NAME)
    if isinstance(found, PredictsFlow) and sde is not None:
        if found.sde not in (None, sde):
            raise ConfigError(
                f"a velocity of {found.sde!r} means nothing to a model of {sde!r}; write "
                "predicts='flow' for that of the model's own process"
            )
        return PredictsFlow(sde)
    return found


def to_dict(predicts: Parametrization) -> Any:
    """A parametrization as JSON-able data: its name, or that of its class with its fields.

    Raises:
        ConfigError: for one of your own that is not a frozen dataclass of plain values.
    """
    if isinstance(predicts, PredictsFlow):  # of the process that is written beside it
        return "flow"
    for name, known in _BY_NAME.items():
        if predicts == known:
            return name
    return to_plain(predicts)


def from_dict(data: Any, *, known: Sequence[type] = ()) -> str | Parametrization:
    """What `to_dict` wrote; a name is given back as it is.

    Args:
        data: the name, or name and fields.
        known: classes of your own that it may be of.

    Raises:
        ConfigError: for a name that is neither the library's nor known.
    """
    if isinstance(data, str):
        return data
    classes = [type(value) for value in _BY_NAME.values()]
    made: Parametrization = from_plain("parametrization", data, [*classes, *known])
    return made


def _check_times(times: Tensor, x: Tensor) -> None:
    # A bare (B,) would broadcast along the last axis, without an error where that is B long too.
    if times.ndim > 0 and times.shape != (x.shape[0], *[1] * (x.ndim - 1)):
        raise ShapeError(
            f"a knot of shape {tuple(times.shape)} does not fit a state of shape "
            f"{tuple(x.shape)}; write sde.at(t, like=x) for times of shape (B,)"
        )


class Prediction:
    """One answer of a model at a state x, read as eps, x0, score or v for free.

    Attributes:
        x: the state, shape (B, *).
        knot: the time.
        raw: the network's output, shape (B, *).
        predicts: what `raw` means, a `Parametrization` or the name of one, such as "eps".
        cost: network evaluations per sample that it took (2 under guidance).
        share: for networks that learned the variance of a step back, shape (B, *): where its log
            lies between that of the posterior (0) and that of the forward transition (1); else
            None.

    Raises:
        ShapeError: for a knot of tensors that is neither of shape () nor (B, 1, ...).
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
            predicts.coefficients(knot)  # raises where a network knows nothing there

    def mix(self, x0: Scalar, eps: Scalar) -> Tensor:
        """`x0` times the clean data plus `eps` times the noise, in one fused expression.

        Every view and every one-step update is such a combination; taken together, its
        coefficients are summed in float64 before they meet a tensor.
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
        """Gradient of log p_t(x), -eps / sigma, shape (B, *)."""
        if self.predicts.view == "score":
            return self.raw
        return self.mix(0.0, -1.0 / self.knot.sigma)

    @property
    def v(self) -> Tensor:
        """(alpha eps - sigma x0) / sqrt(alpha^2 + sigma^2), shape (B, *)."""
        if self.predicts.view == "v":
            return self.raw
        r = self.knot.radius
        return self.mix(-self.knot.sigma / r, self.knot.alpha / r)

    def at(self, s: Knot) -> Tensor:
        """alpha_s x0 + sigma_s eps: the state at s if this prediction held all the way."""
        return self.mix(s.alpha, s.sigma)

    def with_eps(self, eps: Tensor, cost: int | None = None) -> Prediction:
        """The prediction at the same state and time whose noise is `eps`, shape (B, *).

        All other views follow from it, whatever the network predicts; `predicts` is "eps" then.

        Args:
            eps: the noise.
            cost: network evaluations per sample; this prediction's own by default.

        Raises:
            ShapeError: for another shape than that of the state.
            ZeroSNRError: where alpha = 0, and the noise says nothing about the data.
        """
        return self._with(EPS, eps, cost)

    def with_x0(self, x0: Tensor, cost: int | None = None) -> Prediction:
        """The prediction whose clean data are `x0`, shape (B, *); see `with_eps`.

        Where sigma is small, eps = (x - alpha x0) / sigma has few digits.
        """
        return self._with(X0, x0, cost)

    def with_score(self, score: Tensor, cost: int | None = None) -> Prediction:
        """The prediction whose score is `score`, shape (B, *); see `with_eps`."""
        return self._with(_BY_NAME["score"], score, cost)

    def with_v(self, v: Tensor, cost: int | None = None) -> Prediction:
        """The prediction whose v is `v`, shape (B, *); see `with_eps`. It exists at alpha = 0."""
        return self._with(_BY_NAME["v"], v, cost)

    def replace(self, raw: Tensor, cost: int | None = None) -> Prediction:
        """The same state, time and meaning with another raw output, shape (B, *).

        `raw` is what the network predicts, which `predicts` says; to set the noise of any
        prediction, write `with_eps`, and `with_x0` for the clean data.
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
