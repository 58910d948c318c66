"""The noisy end of a likelihood: the end of the process, or the highest level that is trusted.

A network of eps or the score knows nothing of x0 above rho = deviation / error (see
`scoresde.trusted`), and integrating its flow there adds only its error. As rho grows, the flow of
any data tends to that of a Gaussian with their mean and variance, whose density is known. So where
a model has a noise range, the flow is integrated to its upper end and meets that Gaussian there.
"""

from __future__ import annotations

import math
from typing import Any

from ..errors import ConfigError, TimeRangeError
from ..model import Predictor, noise_range_of
from ..sde import SDE
from ..sde.knot import Knot
from .prior import MomentMatched

PROCESS = "process"
"""The end of the process, t_max, whatever range a model has."""

EndLike = float | str | None


def end_of(model: Predictor, end: EndLike = None) -> Knot:
    """The knot at which a likelihood ends.

    Args:
        model: what predicts.
        end: rho = sigma / alpha; "process" for t_max; None for the highest level that is trusted
            where the model has a noise range, t_max otherwise.

    Raises:
        ConfigError: for what is neither.
        TimeRangeError: for a level that the process does not reach.
    """
    sde = model.sde
    last = sde.at(sde.t_max)
    top = math.inf if last.is_zero_snr else float(last.rho)
    if end is None:
        found = noise_range_of(model)
        return last if found is None or found.high >= top else _at(sde, found.high)
    if end == PROCESS:
        return last
    if isinstance(end, bool) or not isinstance(end, int | float) or not 0 < end < math.inf:
        raise ConfigError(
            f"end={end!r} must be a noise level rho = sigma / alpha above 0, or 'process'"
        )
    if end > top * (1 + 1e-9):
        raise TimeRangeError(f"end={end:g} is not reached: the process ends at rho = {top:.3g}")
    knot = _at(sde, float(end))
    if float(knot.rho) > end * (1 + 1e-6):
        raise TimeRangeError(
            f"end={end:g} is not reached: the process begins at rho = {float(knot.rho):.3g}"
        )
    return knot


def prior_for(model: Predictor, end: EndLike, prior: Any) -> Any:
    """The prior at the end: the one given, or the data's Gaussian where the model knows it.

    None, for N(0, sigma^2 I), where it does not, and at the end of the process if asked for.
    """
    found = noise_range_of(model)
    if prior is not None or found is None or end == PROCESS:
        return prior
    return MomentMatched(found.mean, found.variance)


def settled(end: EndLike, prior: Any) -> EndLike:
    """`end`, or t_max where it is None and a prior is given, which is a density there."""
    return PROCESS if end is None and prior is not None else end


def _at(sde: SDE, rho: float) -> Knot:
    return sde.at(min(float(sde.t_at_lambda(-math.log(rho))), sde.t_max))
