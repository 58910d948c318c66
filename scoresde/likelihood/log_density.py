r"""Exact log-densities by integrating the probability flow.

With y = x/alpha and tau = log rho, dy/dtau = rho eps, and along the flow (Chen et al., "Neural
Ordinary Differential Equations", 2018, theorem 1; Song et al. 2021, eq. 39)

    log p_y(y_0) = log p_y(y_1) + integral of tr(d(rho eps)/dy) dtau.

The linear part of the drift has no numerical error: it is in the change from x to y.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .._internal.checked import Checked, crash
from .._internal.checks import check_model, check_tensor
from .._internal.counted import Counted, format_nfe, mean_nfe
from ..errors import (
    ConfigError,
    DtypeError,
    NonFiniteError,
    ShapeError,
    TimeRangeError,
    ZeroSNRError,
)
from ..model import Predictor
from ..ode import Backend
from ..sampling.run import NonFiniteWarning
from ..sde import SDE
from ..sde.knot import Knot
from ..wrapper import begin
from .density_flow import DensityFlow, closed_form
from .divergence import Divergence
from .end import EndLike, end_of, prior_for, settled
from .frame import Frame
from .inputs import check_divergence, check_frame, check_method
from .method import BlackBox, Method
from .per_sample import suited
from .prior import prior_log_prob
from .probes import ProbeStream
from .streams import per_sample

_EXPLAINED = 8
"""Failed samples that are run again to find out why."""


class TimeRangeWarning(UserWarning):
    """A likelihood asked for below the times that the network was trained on."""


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """log p_{t_min}(x) for a batch.

    Attributes:
        nats: shape (B,), float64; NaN for samples in `failures`.
        z: the latent, x carried to `t_max`, shape (B, *), float64.
        stderr: standard error of `nats` from the trace estimator, shape (B,): 0 for the exact
            divergence, NaN where a single probe says nothing about its own spread.
        error: estimate of the integration's own error, in nats, shape (B,); NaN where the method
            has none.
        nfe: network evaluations of each sample, shape (B,), int64, on the CPU.
        divergences: those of the evaluations with which the divergence was taken too, which cost
            more than a plain forward, shape (B,), int64, on the CPU.
        t_min: the time at which x has this density.
        t_max: the time at which the flow met the prior.
        failures: reasons, by place in the batch.
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
    """log p_{t_min}(x), where x itself is the state at t_min.

    Under guidance this is the density of the guided flow.

    Args:
        model: what predicts; per-sample conditions follow their samples.
        x: shape (B, *), on the scale that the network was trained on: images in (-1, 1), as a
            rule, and not 0 .. 255, which nothing here can tell from data that are so wide.
            Integrated in float64 whatever its dtype (the network keeps its own).
        t_min: where x lives; the process's own by default. Sampling wants 1e-3, likelihoods of
            data 1e-5, if the network was trained that far: below the process's t_min a
            `TimeRangeWarning` says so.
        method: what integrates; `PerSample()` by default, for networks in up to 64 dimensions with
            a twentieth of their floor as tolerance, 1e-3 as a rule. Also `FixedGrid(...)`,
            `TwoPhase(...)`, the `Backend`s of `scoresde.ode`, and names of these, such as
            "PerSample(tol=1e-4)".
        divergence: `Exact()` by default up to 64 dimensions, `Hutchinson()` beyond.
        prior: density at the end, see `scoresde.likelihood.prior`; N(0, sigma^2 I) by default, or,
            where the model has a noise range, the Gaussian with the mean and variance of its data.
        end: noise level rho = sigma / alpha at which the flow meets the prior, or "process" for
            t_max with N(0, sigma^2 I). By default the highest level that is trusted
            (`model.with_range(found)`), or t_max where the model has no range or a prior is given.
        frame: variables of the integration, see `scoresde.likelihood.frame`; whitening for one
            variance, 1, by default. `estimate_frame(data)` serves data better.
        seeds: of the probes, one a sample; a number s stands for s, s + 1, ...
        grad: keep the graph, for gradients with respect to x and the network's parameters.

    Returns:
        Nats with their standard error. A sample that fails is NaN, with its reason.

    Raises:
        ZeroSNRError: if alpha = 0 at the end.
        TimeRangeError: for a t_min outside the process, or without noise.
        DtypeError, ShapeError: for x that cannot be right.
        GraphError: for a network that cuts its graph (no_grad, detach, numpy inside), whose
            divergence would be taken as 0. Under `torch.inference_mode()` nothing changes.
        ConfigError: for grad=True under `torch.inference_mode()`.
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
            f"{failures[first]}; `failures` has the others",
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
    """What `log_likelihood` hands to its method: the ODE, the counter, and x in float64."""
    check_model(model)
    if isinstance(x, Tensor) and not x.is_floating_point():
        raise DtypeError(f"x must be floating point, got {x.dtype}; use bits_per_dim for integers")
    check_tensor(x, "x")
    low, high = likelihood_ends(model.sde, t_min, end_of(model, end))
    if x.ndim < 2:
        raise ShapeError(f"x must have shape (B, *event), got {tuple(x.shape)}; write x[None]")
    divergence = check_divergence(divergence, x.shape[1:].numel())
    frame = check_frame(frame)
    x = x.to(torch.float64)
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
            f"a process that stops before, dataclasses.replace(sde, t_max={0.999 * sde.t_max:g}), "
            "best at the largest time that its network was trained on; or end it where the network "
            "is trusted, model.with_range(noise_range(model, data))"
        )
    if low.is_clean:
        raise TimeRangeError(
            f"there is no noise at t = {float(low.t):g}, and the network is never asked there; "
            "write a t_min > 0, such as 1e-5"
        )
    if not low.lam > high.lam:
        raise TimeRangeError(
            f"t_min = {float(low.t):g} must lie below the end, t_max = {float(high.t):g}"
        )
    if float(low.t) < sde.t_min:
        warnings.warn(
            f"t_min = {float(low.t):g} lies below {sde.t_min:g}, from where on the process says "
            f"that networks are trained; write {type(sde).__name__}(t_min={float(low.t):g}) if "
            "this one was trained further",
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
    """Say what was not finite and at which t: samples are run again alone, with checks on."""
    for place in sorted(failures)[:_EXPLAINED]:
        if "not finite" not in failures[place] or not bool(torch.isfinite(x[place]).all()):
            continue
        index = torch.tensor([place], device=x.device)
        try:
            checked = Checked(model.rows(index))
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore", TimeRangeWarning)  # told before
                flow, _, one = density_flow(checked, x[index], seeds=[seeds[place]], **settings)
                rule.run(flow, flow.start(one))
        except NonFiniteError as error:
            failures[place] = str(error)
        except Exception as error:  # whatever a network raises; it must not replace the warning
            failures[place] += f"; run again to find out where, {crash(error)}"


def _density(flow: DensityFlow, prior: Any, z: Tensor, log_det: Tensor) -> Tensor:
    """log p(x) at the clean end from the latent and the integrated traces, shape (B,)."""
    size = z[0].numel() if len(z) else 0
    first, last = (flow.frame.half_log_det(tau, size) for tau in flow.ends)
    stretch = size * (float(flow.high.log_alpha) - float(flow.low.log_alpha))
    end = prior_log_prob(prior, flow.model.sde, flow.high, z)
    return end + log_det + (last - first + stretch)
