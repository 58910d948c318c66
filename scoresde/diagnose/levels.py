"""At which noise levels a network can be trusted.

A perfect x0 errs by what the noise hides, which is at most the error of the best linear guess. What
a network errs beyond that is its own error. It is trusted where its own error is below that of the
guess, so that error^2 <= 2 guess^2.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .._internal.checks import check_batch, check_model
from ..errors import ConfigError, ScoreSDEWarning
from ..model import Predictor, device_of, event_shape_of
from ..noise import generator, normal
from ..sampling.run import sample
from ..scalar import affine
from ..sde import SDE
from ..sde.knot import Knot
from ..trusted import Level, NoiseRange

_HIGHEST = 1e5  # rho up to which levels are looked at
_LOWEST = 1e-3  # and from which, where the process goes further
_FEW = 4.0  # deviations of the data below which noised data are no Gaussian


class NoiseRangeWarning(ScoreSDEWarning):
    """A range that ends where the data are still seen."""


@torch.no_grad()
def noise_range(
    model: Predictor,
    data: Tensor | None = None,
    *,
    shape: Sequence[int] | None = None,
    data_std: float | None = None,
    levels: int = 24,
    seed: int = 0,
) -> NoiseRange:
    """Where a model's x0 can be trusted, and the moments of the data.

    With data, at each of `levels` noise levels the data are noised and the model's x0 is compared
    with them. The guess is the best linear one for data of this mean and one deviation d per
    coordinate, which errs by d rho / sqrt(d^2 + rho^2): at high noise, the mean of the data.

    Without data, the model is asked about pure noise. At high noise a perfect model answers with
    the mean of the data, and what its answers scatter beyond d^2 / rho is its own error. The mean
    is that of its answers at the highest trusted level, and d is measured on samples, which are
    drawn from there, unless it is given.

    Args:
        model: what predicts; conditions bound to it are one row for each of the data.
        data: held-out data in the range that the network was trained on, shape (N, *); 64 suffice.
        shape: (B, *) of the noise, where there are no data: as many draws as evaluations a level.
        data_std: standard deviation of the data, per coordinate, where there are no data.
        levels: number of noise levels, evenly spaced in log rho.
        seed: of the noise.

    Returns:
        The range; `model.with_range(found)` is the model that uses it.

    Raises:
        ConfigError: for neither or both of data and a shape, or a model that is trusted nowhere.
    """
    check_model(model)
    if (data is None) == (shape is None):
        raise ConfigError("give either data of shape (N, *), or shape=(B, ...) for pure noise")
    rhos = _levels(model.sde, levels)
    if data is None:
        assert shape is not None  # for the type checker
        return _from_noise(model, tuple(shape), data_std, rhos, seed)
    if data_std is not None:
        raise ConfigError("data_std is measured on the data; leave it out")
    check_batch(data, "the data")
    if len(data) < 2:
        raise ConfigError(f"a range needs 2 data or more, got {len(data)}; 64 suffice")
    return _from_data(model, data, rhos, seed)


def _from_data(model: Predictor, data: Tensor, rhos: list[float], seed: int) -> NoiseRange:
    x0 = data.to(device_of(model))
    mean = x0.mean(0)
    variance = float((x0 - mean).double().square().sum() / ((len(x0) - 1) * mean.numel()))
    if not 0 < variance < math.inf:
        raise ConfigError(
            f"the data must be finite and must differ from one another, got variance {variance:.3g}"
        )
    eps = _draw(x0.shape, x0.dtype, x0.device, seed)
    found = []
    for rho in rhos:
        knot = _at(model.sde, rho)
        prediction = model(affine(knot.alpha, x0, knot.sigma, eps), knot)
        error = _rms(prediction.x0 - x0)
        found.append(Level(rho, error, math.sqrt(variance) * rho / math.hypot(rho, variance**0.5)))
    low, high = _trusted(found)
    if high < _FEW * math.sqrt(variance):
        warnings.warn(
            f"the model is trusted only up to rho = {high:.3g}, where data of deviation "
            f"{math.sqrt(variance):.3g} are still seen; a start there is no Gaussian. Most often "
            "the wrapping is wrong: run scoresde.diagnose.check_model(model, data)",
            NoiseRangeWarning,
            stacklevel=3,
        )
    return NoiseRange(low, high, mean, variance, tuple(found))


def _from_noise(
    model: Predictor, shape: tuple[int, ...], std: float | None, rhos: list[float], seed: int
) -> NoiseRange:
    event = event_shape_of(model)
    if event is not None and tuple(shape[1:]) != event:
        raise ConfigError(f"the model's samples have shape {event}, got shape={shape}")
    eps = _draw(shape, torch.float32, device_of(model), seed)
    answers = []
    for rho in rhos:
        knot = _at(model.sde, rho)
        answers.append(model(knot.sigma * eps, knot).x0.double())
    scatter = [float(answer.var(0).mean().sqrt()) for answer in answers]
    if std is None:
        # Where the scatter is the network's own error it is a floor times rho. Samples start at
        # the lowest of these levels.
        floors = [spread / rho for spread, rho in zip(scatter, rhos, strict=True)]
        best = min(range(len(rhos)), key=floors.__getitem__)
        least = floors[best]
        while best > 0 and floors[best - 1] < 1.5 * least:
            best -= 1
        start = sample(model, nfe=20, shape=shape, seeds=seed, start=rhos[best]).x.double()
        std = float((start - start.mean(0)).square().mean().sqrt())
    if not 0 < std < math.inf:
        raise ConfigError(f"data_std must be positive, got {std!r}")
    found = []
    for rho, spread in zip(rhos, scatter, strict=True):
        guess = std * rho / math.hypot(rho, std)
        perfect = guess * std / math.hypot(rho, std)  # scatter of the linear guess, on pure noise
        found.append(Level(rho, math.sqrt(max(spread**2 - perfect**2, 0.0) + guess**2), guess))
    # Pure noise is like noised data only where the noise is large.
    judged = [level for level in found if level.rho > 2 * std]
    if not judged:
        raise ConfigError(
            f"pure noise says nothing at rho up to {rhos[-1]:.3g}, where data of deviation "
            f"{std:.3g} are still seen; give data"
        )
    _, high = _trusted(judged)
    place = max(k for k, rho in enumerate(rhos) if rho <= max(high, judged[0].rho))
    return NoiseRange(rhos[0], high, answers[place].mean(0), std * std, tuple(found))


# -- helpers -----------------------------------------------------------------------------------


def _levels(sde: SDE, count: int) -> list[float]:
    if count < 2:
        raise ConfigError(f"a range needs 2 levels or more, got {count}")
    low = max(float(sde.at(sde.t_min).rho), _LOWEST)
    end = sde.at(sde.t_max)
    high = _HIGHEST if end.is_zero_snr else min(float(end.rho), _HIGHEST)
    return [float(rho) for rho in np.geomspace(low, high, count)]


def _at(sde: SDE, rho: float) -> Knot:
    return sde.at_lambda(-math.log(rho))


def _draw(shape: Sequence[int], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    return normal(shape, generator("noise_range", seed, device=device), dtype)


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


def _trusted(levels: list[Level]) -> tuple[float, float]:
    """The lowest and highest trusted rho round the level where the model does best.

    The upper end lies between two levels, where log(own error / guess) crosses 0.
    """
    own = [math.sqrt(max(level.error**2 - level.guess**2, 0.0)) for level in levels]
    ratios = [mine / level.guess for mine, level in zip(own, levels, strict=True)]
    best = min(range(len(levels)), key=lambda k: levels[k].error / levels[k].guess)
    if not ratios[best] <= 1:
        raise ConfigError(
            "the model is trusted nowhere: its x0 is worse than the mean of the data at every "
            "level. Likely mistakes: another time convention, another `predicts`, another process, "
            "data in another range than it was trained on, or a network in training mode; see "
            "docs/wrapping_your_network.md"
        )
    low = high = best
    while low > 0 and ratios[low - 1] <= 1:
        low -= 1
    while high + 1 < len(levels) and ratios[high + 1] <= 1:
        high += 1
    top = levels[high].rho
    if high + 1 < len(levels) and math.isfinite(ratios[high + 1]):
        below, above = math.log(max(ratios[high], 1e-3)), math.log(ratios[high + 1])
        share = -below / (above - below)
        top *= (levels[high + 1].rho / top) ** share
    return levels[low].rho, top
