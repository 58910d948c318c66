r"""Time grids: the times at which a sampler stops between noise and data.

Most functions here take `(sde, n)` and return a `Grid` of n steps, including the last step to
sigma = 0; with `clean=False` the last knot is at t_min instead. Knots are computed once, in
float64, before the loop.

If alpha = 0 at t_max, log-SNR is -inf there. Grids spaced by noise level then start at rho = 160,
the start of EDM (sigma_max / sigma_data, Karras et al. 2022), and t_max replaces the first knot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .axis import LAMBDA, LOG_RHO, RHO, TIME, Axis, Focus, LevelAxis
from .errors import ConfigError, TimeRangeError
from .sde import SDE, DiscreteVPSDE
from .sde.knot import CLEAN, Knot

RHO_CAP = 160.0
_RESOLUTION = 1e-6  # in log rho: two nearer knots count as the same knot, given twice


@dataclass(frozen=True)
class Grid:
    """A time grid: descending times of a process, as float knots.

    Attributes:
        sde: the process.
        knots: the knots, noisiest first, one more than there are steps.

    Raises:
        TimeRangeError: if noise levels do not fall, or differ by less than 1e-6 in
            log(sigma/alpha).
    """

    sde: SDE
    knots: tuple[Knot, ...]

    def __post_init__(self) -> None:
        if len(self.knots) < 2:
            raise ConfigError(f"a grid needs at least 2 knots, got {len(self.knots)}")
        levels = [float(LOG_RHO.read(knot)) for knot in self.knots]
        times = [float(knot.t) for knot in self.knots if not knot.is_clean]
        if any(not b < a for a, b in pairwise(levels)):
            raise TimeRangeError(
                "a sampling grid runs from noise to data: its noise levels must fall strictly, "
                f"got times {_short(times)}; write sorted(times, reverse=True) without repeats"
            )
        for k, (a, b) in enumerate(pairwise(levels)):
            if a - b < _RESOLUTION:
                # Multistep rules divide differences of predictions by distances between knots.
                raise TimeRangeError(
                    f"knots {k} and {k + 1} of the grid, t = {float(self.knots[k].t):.9g} and "
                    f"{float(self.knots[k + 1].t):.9g}, differ by {a - b:.2g} in log(sigma/alpha), "
                    f"less than {_RESOLUTION:g}: solvers would magnify round-off; remove one"
                )

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.knots) - 1

    @property
    def ends_clean(self) -> bool:
        """Whether the last step goes to sigma = 0."""
        return self.knots[-1].is_clean

    def without_clean(self) -> Grid:
        """The grid without its step to sigma = 0.

        Raises:
            ConfigError: if the grid has no other step.
        """
        return Grid(self.sde, self.knots[:-1]) if self.ends_clean else self

    def to_dict(self) -> dict[str, Any]:
        """The grid as JSON-able data."""
        times = [float(knot.t) for knot in self.knots if not knot.is_clean]
        return {"sde": self.sde.to_dict(), "times": times, "clean": self.ends_clean}


def from_times(sde: SDE, times: Sequence[float], *, clean: bool = True) -> Grid:
    """A grid through your own descending times; sigma = 0 is added as its end if `clean`.

    Raises:
        TimeRangeError: for times that ascend, repeat, or lie outside [t_min, t_max].
    """
    values = [float(t) for t in times]
    slack = 1e-12 * sde.t_max
    outside = [t for t in values if not sde.t_min - slack <= t <= sde.t_max + slack]
    if outside:
        hint = "; remove the 0, the clean end is added for you" if outside == [0.0] else ""
        raise TimeRangeError(
            f"times {_short(outside)} lie outside {type(sde).__name__}'s range "
            f"[{sde.t_min:g}, {sde.t_max:g}]{hint}; for a network trained on a wider range, write "
            f"{type(sde).__name__}(t_min=..., t_max=...)"
        )
    knots = [sde.at(min(max(t, sde.t_min), sde.t_max)) for t in values]
    return Grid(sde, tuple([*knots, CLEAN] if clean else knots))


def from_lambdas(sde: SDE, lams: Sequence[float], *, clean: bool = True) -> Grid:
    """A grid through ascending half log-SNRs log(alpha/sigma); sigma = 0 is added if `clean`."""
    knots = [sde.at_lambda(float(lam)) for lam in lams]
    return Grid(sde, tuple([*knots, CLEAN] if clean else knots))


def uniform_t(
    sde: SDE,
    n: int,
    *,
    t_min: float | None = None,
    t_max: float | None = None,
    clean: bool = True,
) -> Grid:
    """A grid of n steps, evenly spaced in t (Song et al. 2021)."""
    return power(sde, n, 1.0, t_min=t_min, t_max=t_max, clean=clean)


def power(
    sde: SDE,
    n: int,
    exponent: float = 2.0,
    *,
    t_min: float | None = None,
    t_max: float | None = None,
    clean: bool = True,
) -> Grid:
    """A grid of n steps, evenly spaced in t^(1/exponent).

    Exponent 2 is the "quadratic" grid of DDIM (2021, D.2).
    """
    return _even(sde, n, TIME, exponent, t_min, t_max, clean)


def uniform_lambda(
    sde: SDE,
    n: int,
    *,
    t_min: float | None = None,
    t_max: float | None = None,
    clean: bool = True,
) -> Grid:
    """A grid of n steps, evenly spaced in half log-SNR ("DPM-Solver", Lu et al. 2022, sec. 3.4)."""
    return _even(sde, n, LAMBDA, 1.0, t_min, t_max, clean)


def karras(
    sde: SDE,
    n: int,
    exponent: float = 7.0,
    *,
    t_min: float | None = None,
    t_max: float | None = None,
    clean: bool = True,
) -> Grid:
    """A grid of n steps, evenly spaced in rho^(1/exponent) (Karras et al. 2022, eq. 5)."""
    return _even(sde, n, RHO, exponent, t_min, t_max, clean)


def focused(
    sde: SDE,
    n: int,
    focus: Focus | None = None,
    *,
    t_min: float | None = None,
    t_max: float | None = None,
    clean: bool = True,
) -> Grid:
    """A grid of n steps, evenly spaced in a `Focus`: dense in a range of noise levels.

    Steps become longer smoothly outside that range. A multistep solver with `coordinate=focus`
    has its polynomials in the same variable.
    """
    return _even(sde, n, focus or Focus(), 1.0, t_min, t_max, clean)


def trailing(sde: SDE, n: int, *, clean: bool = True) -> Grid:
    """A grid of n steps of N/n indices each, from the last index of the table downwards.

    The name is that of Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed",
    2024, table 2. Indices are real numbers, so steps are equal even if n does not divide N.
    """
    size = _table_size(sde, n)
    return _close(sde, [sde.at(size - 1 - k * size / n) for k in range(n)], clean)


def leading(sde: SDE, n: int, *, clean: bool = True) -> Grid:
    """A grid of n steps of N/n indices each, from index 0 upwards (Ho et al., Song et al.)."""
    size = _table_size(sde, n)
    return _close(sde, [sde.at((n - 1 - k) * size / n) for k in range(n)], clean)


# -- helpers -----------------------------------------------------------------------------------


def _range(sde: SDE, t_min: float | None, t_max: float | None) -> tuple[float, float]:
    if not isinstance(sde, SDE):
        raise ConfigError(
            f"the first argument must be a process, got {sde!r}; write uniform_lambda(VPSDE(), 10)"
        )
    low = sde.t_min if t_min is None else float(t_min)
    high = sde.t_max if t_max is None else float(t_max)
    if not sde.t_min <= low < high <= sde.t_max:
        raise TimeRangeError(
            f"need {sde.t_min:g} <= t_min < t_max <= {sde.t_max:g} for {type(sde).__name__}, got "
            f"t_min={low:g}, t_max={high:g}; for a network trained on a wider range, write "
            f"{type(sde).__name__}(t_min=..., t_max=...)"
        )
    return low, high


def _count(n: int, clean: bool) -> int:
    """The number of knots with sigma > 0 for n steps."""
    if not isinstance(n, int | np.integer) or n < 1:
        raise ConfigError(f"a grid needs a whole number of steps, 1 or more, got {n!r}")
    return int(n) if clean else int(n) + 1


def _even(
    sde: SDE,
    n: int,
    along: Axis,
    exponent: float,
    t_min: float | None,
    t_max: float | None,
    clean: bool,
) -> Grid:
    """A grid with knots evenly spaced in value^(1/exponent) on an axis; both ends are exact."""
    low, high = _range(sde, t_min, t_max)
    start, end = sde.at(high), sde.at(low)
    if end.is_clean and isinstance(along, LevelAxis):
        raise TimeRangeError(
            f"{type(sde).__name__} has no noise at t = {low:g}, so a grid spaced by noise level "
            "cannot end there; write a t_min > 0"
        )
    count = _count(n, clean)
    capped = start.is_zero_snr and not along.at_zero_snr
    first = float(along.at(sde, math.log(RHO_CAP)) if capped else along.read(start))
    values = np.linspace(first ** (1 / exponent), float(along.read(end)) ** (1 / exponent), count)
    inner = [along.knot(sde, float(value) ** exponent) for value in values[1:-1]]
    return _close(sde, [start, *inner, *[end] * (count > 1)], clean)


def _close(sde: SDE, knots: list[Knot], clean: bool) -> Grid:
    return Grid(sde, tuple([*knots, CLEAN] if clean else knots))


def _table_size(sde: SDE, n: int) -> int:
    if not isinstance(sde, DiscreteVPSDE):
        raise ConfigError(
            f"trailing and leading grids are for a DiscreteVPSDE, not {type(sde).__name__}; "
            "write uniform_t(sde, n)"
        )
    size = len(sde.log_alphas)
    if _count(n, True) > size:
        raise ConfigError(
            f"{n} steps are more than the table's {size} entries; write at most {size}"
        )
    return size


def _short(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"
