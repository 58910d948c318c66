r"""Exact log-densities by integrating the probability flow.

With y = x/alpha and tau = log rho, dy/dtau = rho eps, and along the flow (Chen et al., "Neural
Ordinary Differential Equations", 2018, theorem 1; Song et al. 2021, eq. 39)

    log p_y(y_0) = log p_y(y_1) + integral of tr(d(rho eps)/dy) dtau.

The change from x to y contains the linear part of the drift, which thus has no numerical error.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._internal.checked import Checked, crash
from .._internal.checks import check_lockstep, check_model, check_tensor
from .._internal.counted import Counted, format_nfe, mean_nfe
from ..errors import (
    ConfigError,
    DtypeError,
    NonFiniteError,
    ScoreSDEWarning,
    ShapeError,
    TimeRangeError,
    ZeroSNRError,
)
from ..model import Predictor
from ..ode import Backend
from ..sampling.run import NonFiniteWarning
from ..scalar import widest
from ..sde import SDE
from ..sde.knot import Knot
from ..wrapper import begin
from .density_flow import DensityFlow, closed_form
from .divergence import Divergence
from .end import EndLike, end_of, prior_for, settled
from .fixed_grid import FixedGrid
from .frame import Frame
from .inputs import check_divergence, check_frame, check_method
from .method import BlackBox, Method
from .per_sample import suited
from .prior import prior_log_prob
from .probes import ProbeStream
from .streams import per_sample

_EXPLAINED = 8
"""Number of failed samples that are run again to find the reason."""


class PrecisionWarning(ScoreSDEWarning):
    """A likelihood in float32, on a device without float64: about 6 digits."""


class TimeRangeWarning(ScoreSDEWarning):
    """A likelihood is computed at a time below those on which the network was trained."""


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """log p_{t_min}(x) of a batch, with its errors and cost.

    Attributes:
        nats: log-density in nats, shape (B,), float64; NaN for samples in `failures`.
        z: the latent, the state at t_max on the flow through x, shape (B, *), float64.
        stderr: standard error of `nats` from the trace estimator, shape (B,): 0 for the exact
            divergence, NaN for a single probe, which gives no spread.
        error: estimate of the integration's own error, in nats, shape (B,); NaN if the method
            gives none.
        nfe: network evaluations of each sample, shape (B,), int64, on the CPU.
        divergences: number of these evaluations that also computed the divergence, which costs
            more than a forward pass, shape (B,), int64, on the CPU.
        t_min: the time of this density.
        t_max: the time at which the flow met the prior.
        failures: reason of each failure, by index in the batch.
    """

    nats: Tensor
    z: Tensor
    stderr: Tensor
    error: Tensor
    nfe: Tensor
    divergences: Tensor
    t_min: float
    t_max: float
    failures: dict[int, str] = field(default_factory=dict)

    @property
    def mean_nfe(self) -> float:
        """Mean of `nfe` over the samples."""
        return mean_nfe(self.nfe)

    def __repr__(self) -> str:
        good = self.nats[torch.isfinite(self.nats)].detach()
        spread = f" +- {float(good.std()) / len(good) ** 0.5:.2g}" if len(good) > 1 else ""
        mean = f"mean {float(good.mean()):.6g}{spread} nats" if len(good) else "no value"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return (
            f"LogLikelihood({mean} of {len(self.nats)} samples at t = {self.t_min:g}, "
            f"{format_nfe(self.nfe)}{failed})"
        )


def log_likelihood(
    model: Predictor,
    x: Tensor,
    *,
    t_min: float | None = None,
    method: Method | Backend | str | None = None,
    divergence: Divergence | None = None,
    prior: Any = None,
    end: EndLike = None,
    frame: Frame | None = None,
    seeds: int | Sequence[int] = 0,
    grad: bool = False,
) -> LogLikelihood:
    """Log-density log p_{t_min}(x) of the probability flow; x is the state at t_min.

    With guidance it is the density of the guided flow.

    Args:
        model: the model; conditions of each sample follow their samples.
        x: states, shape (B, *), on the scale on which the network was trained: usually images in
            (-1, 1), not 0 .. 255. A wrong scale cannot be detected here. The integration uses
            float64; the network keeps its own dtype. On a device without float64, such as MPS, the
            integration uses float32, and a `PrecisionWarning` says so.
        t_min: the time of x; the process's own by default. Sampling usually uses 1e-3 and
            likelihoods of data 1e-5, if the network was trained for such times. Below the process's
            t_min, a `TimeRangeWarning` says so.
        method: the integrator; `PerSample()` by default, for networks in up to 64 dimensions with
            a twentieth of their floor as tolerance (usually 1e-3). Others are `FixedGrid(...)`,
            `TwoPhase(...)`, the `Backend`s of `scoresde.ode`, and names of these, such as
            "PerSample(tol=1e-4)".
        divergence: `Exact()` by default up to 64 dimensions, `Hutchinson()` beyond.
        prior: density at the end, see `scoresde.likelihood.prior`; N(0, sigma^2 I) by default, or,
            if the model has a noise range, the Gaussian with the mean and variance of its data.
        end: noise level rho = sigma / alpha at which the flow meets the prior, or "process" for
            t_max with N(0, sigma^2 I). By default the highest level that is trusted
            (`model.with_range(found)`), or t_max if the model has no range or a prior is given.
        frame: variables of the integration, see `scoresde.likelihood.frame`; by default they
            whiten data of mean 0 and variance 1. `estimate_frame(data)` is better for real data.
        seeds: seeds of the probes, one for each sample; a number s means s, s + 1, ...
        grad: keep the graph, for gradients with respect to x and the network's parameters.

    Returns:
        Log-densities with their standard errors. A sample that fails is NaN and has a reason.

    Warns:
        NonFiniteWarning: if samples failed.
        TimeRangeWarning: if t_min lies below the process's own.

    Raises:
        ZeroSNRError: if alpha = 0 at the end.
        TimeRangeError: for a t_min outside the process, or without noise.
        GraphError: for a network that cuts its graph (no_grad, detach, numpy inside), whose
            divergence would be taken as 0. Under `torch.inference_mode()` nothing changes.
        ConfigError: for grad=True under `torch.inference_mode()`.
        DtypeError, ShapeError: for x of a wrong dtype or shape.
    """
    if grad and torch.is_inference_mode_enabled():
        raise ConfigError(
            "grad=True keeps a graph, which torch.inference_mode() forbids; leave the block, or "
            "write `with torch.inference_mode(False):` around the call"
        )
    rule = None if method is None else check_method(method)
    if isinstance(rule, Backend):
        rule = BlackBox(rule)
    end = settled(end, prior)
    fixed = rule.backend.evals_per_solve if isinstance(rule, BlackBox) else None
    if fixed is None and not isinstance(rule, FixedGrid):
        check_lockstep(model, "PerSample" if rule is None else type(rule).__name__, grad)
    if isinstance(x, Tensor) and widest(x.device) != torch.float64:
        warnings.warn(
            f"{x.device.type} has no float64: the likelihood is integrated in float32 and has "
            "about 6 digits; write x.cpu() and model.cpu() for all of them",
            PrecisionWarning,
            stacklevel=2,
        )
    settings: dict[str, Any] = {
        "t_min": t_min, "divergence": divergence, "frame": frame, "end": end,
    }  # fmt: skip
    flow, counted, x = density_flow(model, x, seeds=seeds, grad=grad, **settings)
    rule = suited(model, x.shape[1:].numel()) if rule is None else rule
    with torch.set_grad_enabled(grad):
        path = rule.run(flow, flow.start(x))
        z = flow.finish(path.z)
        nats = _density(flow, prior_for(model, end, prior), z, path.log_det)
    failures = dict(path.failures)
    for place in (~torch.isfinite(nats)).nonzero().flatten().tolist():
        failures.setdefault(place, "the density at the noisy end is not finite")
    if failures:
        own = per_sample(seeds, len(x))
        _name_the_times(failures, rule, model, x, own, settings)
        first = min(failures)
        warnings.warn(
            f"{len(failures)} of {len(x)} likelihoods failed and are NaN; sample {first}: "
            f"{failures[first]}; see `failures` for the others",
            NonFiniteWarning,
            stacklevel=2,
        )
    nfe = counted.nfe(len(x))
    return LogLikelihood(
        nats=nats,
        z=z.detach(),
        stderr=path.variance.sqrt(),
        error=path.error,
        nfe=nfe,
        divergences=nfe if path.traced is None else path.traced,
        t_min=float(flow.low.t),
        t_max=float(flow.high.t),
        failures=failures,
    )


def density_flow(
    model: Predictor,
    x: Tensor,
    *,
    t_min: float | None = None,
    divergence: Divergence | None = None,
    frame: Frame | None = None,
    end: EndLike = None,
    seeds: int | Sequence[int] = 0,
    grad: bool = False,
) -> tuple[DensityFlow, Counted, Tensor]:
    """The ODE that a method integrates, a counter of evaluations, and x in float64."""
    check_model(model)
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise DtypeError(f"x must be floating point, got {x.dtype}; use bits_per_dim for integers")
    check_tensor(x, "x")
    low, high = likelihood_ends(model.sde, t_min, end_of(model, end))
    if x.ndim < 2:
        raise ShapeError(f"x must have shape (B, *event), got {tuple(x.shape)}; write x[None]")
    divergence = check_divergence(divergence, x.shape[1:].numel())
    frame = check_frame(frame)
    x = x.to(widest(x.device))
    with torch.set_grad_enabled(grad):
        model = begin(model)
    counted = Counted(model)
    flow = DensityFlow(
        model=counted,
        divergence=divergence,
        frame=frame,
        low=low,
        high=high,
        stream=ProbeStream(divergence, per_sample(seeds, len(x)), x),
        closed=closed_form(model),
        grad=grad,
    )
    return flow, counted, x


def likelihood_ends(sde: SDE, t_min: float | None, high: Knot | None = None) -> tuple[Knot, Knot]:
    """The knots between which a likelihood is integrated, checked; `high` is t_max by default."""
    low = sde.at(sde.t_min if t_min is None else t_min)
    high = sde.at(sde.t_max) if high is None else high
    if high.is_zero_snr:
        raise ZeroSNRError(
            f"a likelihood needs alpha > 0, but alpha = 0 at t_max = {sde.t_max:g}; give the model "
            "a process that ends earlier, best at the largest time of the network's training: "
            f"dataclasses.replace(sde, t_max={0.999 * sde.t_max:g}); or end it where the network "
            "is trusted: model.with_range(noise_range(model, data))"
        )
    if low.is_clean:
        raise TimeRangeError(
            f"there is no noise at t = {float(low.t):g}, and the network cannot be evaluated "
            "there; write a t_min > 0, such as 1e-5"
        )
    if not low.lam > high.lam:
        raise TimeRangeError(
            f"t_min = {float(low.t):g} must lie below the end, t_max = {float(high.t):g}"
        )
    if float(low.t) < sde.t_min:
        warnings.warn(
            f"t_min = {float(low.t):g} lies below {sde.t_min:g}, the smallest time of the "
            f"process; if the network was trained at smaller times, write "
            f"{type(sde).__name__}(t_min={float(low.t):g})",
            TimeRangeWarning,
            stacklevel=4,
        )
    return low, high


def _name_the_times(
    failures: dict[int, str],
    rule: Method,
    model: Predictor,
    x: Tensor,
    seeds: Sequence[int],
    settings: dict[str, Any],
) -> None:
    """Find what was not finite and at which t: run failed samples again alone, with checks."""
    for place in sorted(failures)[:_EXPLAINED]:
        if "not finite" not in failures[place] or not bool(torch.isfinite(x[place]).all()):
            continue
        index = torch.tensor([place], device=x.device)
        try:
            checked = Checked(model.rows(index))
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", TimeRangeWarning)  # given before
                flow, _, one = density_flow(checked, x[index], seeds=[seeds[place]], **settings)
                rule.run(flow, flow.start(one))
        except NonFiniteError as error:
            failures[place] = str(error)
        except Exception as error:  # a network can raise anything; the warning is still given
            failures[place] += f"; a second run to find the place failed: {crash(error)}"


def _density(flow: DensityFlow, prior: Any, z: Tensor, log_det: Tensor) -> Tensor:
    """log p(x) at the clean end from the latent and the integrated traces, shape (B,)."""
    size = z[0].numel() if len(z) else 0
    first, last = (flow.frame.half_log_det(tau, size) for tau in flow.ends)
    stretch = size * (float(flow.high.log_alpha) - float(flow.low.log_alpha))
    end = prior_log_prob(prior, flow.model.sde, flow.high, z)
    return end + log_det + (last - first + stretch)
