"""What the Gaussian at the noisy end of a likelihood costs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..model import Predictor, noise_range_of
from ..noise import generator, normal
from ..scalar import affine
from .end import PROCESS, EndLike, end_of, prior_for
from .fixed_grid import FixedGrid
from .frame import Frame
from .log_density import TimeRangeWarning, likelihood_ends, log_likelihood
from .prior import MomentMatched, prior_log_prob

_NODES = 9  # over a factor of two in rho, where the flow is nearly linear


def prior_gap(
    model: Predictor, frame: Frame | None, prior: object, end: EndLike, size: int
) -> float:
    """What the library's own prior costs against the data's Gaussian, in nats.

    NaN where another prior is used, or the frame does not know the moments of the data.
    """
    if frame is None or prior is not None:
        return math.nan
    used = prior_for(model, end, None)
    if used is None:
        return frame.prior_gap(end_of(model, end), size)
    assert isinstance(used, MomentMatched)  # for the type checker
    assert isinstance(used.covariance, float)
    return frame.prior_gap(end_of(model, end), size, used.mean, used.covariance)


def end_gap(
    model: Predictor,
    x: Tensor,
    *,
    t_min: float | None,
    divergence: Any,
    end: EndLike,
    seeds: Sequence[int],
) -> float:
    """Estimate of what ending at a trusted level costs, in nats; NaN where the end is not one.

    At half the level of the end, the model's density of noised data is compared with that of the
    Gaussian: log p_model - log p_Gaussian, whose mean over the data is the KL divergence from one
    to the other. At the end itself the KL divergence is less, by 2^6 or more, for it falls as
    rho^-6 with the third moments of the data and faster with higher ones. What the network errs
    from half the level on is in the estimate too, and does not become less. The standard error of
    the mean is added to its size.

    Args:
        model: what predicts.
        x: a few states at t_min, shape (B, *).
        t_min, divergence, end: as in `log_likelihood`.
        seeds: of the probes, one a sample.
    """
    if noise_range_of(model) is None or end == PROCESS:
        return math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TimeRangeWarning)
        low, high = likelihood_ends(model.sde, t_min, end_of(model, end))
    rho = 0.5 * float(high.rho)
    if rho <= float(low.rho):
        return math.nan
    half = end_of(model, rho)
    noise = normal(x.shape, generator("end gap", device=x.device), x.dtype)
    # x is at t_min already; the rest of the noise is added.
    share = float(half.alpha) / float(low.alpha)
    more = math.sqrt(max(float(half.sigma) ** 2 - (share * float(low.sigma)) ** 2, 0.0))
    state = affine(share, x, more, noise)
    found = log_likelihood(
        model, state, t_min=float(half.t), method=FixedGrid(_NODES), divergence=divergence,
        end=float(high.rho), seeds=seeds,
    )  # fmt: skip
    gaussian = prior_log_prob(
        prior_for(model, end, None), model.sde, half, state.to(found.nats.dtype)
    )
    gaps = (found.nats - gaussian).detach()
    chance = float(gaps.std()) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return abs(float(gaps.mean())) + chance
