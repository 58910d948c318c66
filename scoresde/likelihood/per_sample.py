r"""Adaptive integration with separate step sizes for all samples.

Dormand & Prince, "A family of embedded Runge-Kutta formulae", 1980 (table 2, order 5 with an
embedded 4). Each sample accepts or rejects its own steps, and samples that are done leave the batch
(`_internal.step_control`). So the result of a sample does not depend on the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._internal.step_control import StepControl, Walk, wide
from ..errors import ConfigError
from ..model import Predictor, floor_of
from .density_flow import DensityFlow
from .method import Method, Path, variance_of_mean

_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_A = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_B = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0)
_E = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

SMALL = 64
"""Dimensions up to which the tolerance follows the floor of a network."""

_CAUTION = 5.0
"""Safety factor of the error estimate, which is this times the root of the sum of squares of local
errors. The local error of a step is the one that step control used. An error of the state changes
the log-density by its product with the score, independently of later steps. So local errors add up
with effectively random signs. The factor covers errors that an embedded formula does not see."""


@dataclass(frozen=True)
class PerSample(Method):
    """Dormand-Prince 5(4) with per-sample steps in log rho.

    Attributes:
        tol: largest local error of a step: root mean square over the coordinates of the state
            (relative to 1 + the state's RMS), and nats per dimension of the log-density. With fresh
            probes, the error estimate of the trace is random and is not used; the state decides,
            and its effect on the log-density.
        max_evals: largest number of evaluations; a sample that needs more fails.
        max_step: longest step in log rho. The modes of a mixture separate within about one unit;
            the few stages of a longer step can miss that.
    """

    tol: float = 1e-4
    max_evals: int = 2000
    max_step: float = 1.5

    def __post_init__(self) -> None:
        if not (self.tol > 0 and self.max_evals > 6 and self.max_step > 0):
            raise ConfigError(
                f"PerSample needs tol > 0, max_evals > 6 and max_step > 0, got tol={self.tol!r}, "
                f"max_evals={self.max_evals!r}, max_step={self.max_step!r}"
            )

    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """See `Method`."""
        return Run(self, flow, z).finish()


def suited(model: Predictor, size: int) -> PerSample:
    """The default for a model and events of so many numbers.

    A network errs in eps by its floor, and not smoothly: a small tolerance makes steps follow its
    own error. An error e of eps moves the state by about e for each unit of log rho. A tolerance of
    a twentieth of that costs nothing that the network has. In many dimensions, where the error of
    the log-density is what counts and adds up over them, the tolerance stays.

    Where a network is rough along log rho, the error estimate holds for the mean over samples; of
    single ones a quarter err by more than three times theirs (measured on two moons).
    """
    least, most = PerSample.tol, 1e-3
    if size > SMALL:
        return PerSample()
    return PerSample(tol=min(max(floor_of(model) / 20, least), most))


class Step(NamedTuple):
    """An accepted step of some samples.

    Attributes:
        places: indices of the samples, shape (b,).
        tau, h: start and length of the step, shape (b,).
        inside: states at the fractions of `Run`, each of shape (b, *).
    """

    places: Tensor
    tau: Tensor
    h: Tensor
    inside: list[Tensor]


class Run:
    """The integration of one batch; its tensors have a row for each active sample.

    Args:
        rule: tolerances.
        flow: the ODE.
        z: states at the clean end, shape (B, *).
        fractions: fractions of each accepted step at which states are stored, in `steps`.
    """

    def __init__(
        self, rule: PerSample, flow: DensityFlow, z: Tensor, fractions: tuple[float, ...] = ()
    ) -> None:
        self.rule, batch = rule, len(z)
        self.fractions, self.steps = fractions, list[Step]()
        fresh = getattr(flow.divergence, "fresh", False)
        self.flow = flow if fresh else flow.fixed()
        self.fresh, self.exact = fresh, flow.divergence.exact
        columns = flow.divergence.columns
        nan = z.new_full((batch,), math.nan)
        self.out = Path(
            torch.full_like(z, math.nan), nan, nan.clone(), nan.clone(),
            traced=torch.zeros(batch, dtype=torch.long),
        )  # fmt: skip
        self.size = z[0].numel() if batch else 1
        control = StepControl(0.9, 0.2, rule.max_evals, 1e-12, rule.max_step, hold=True)
        first, last = flow.ends
        self.walk = Walk(control, batch, first, last, 0.02 * (last - first), z)
        self.z = z
        self.traces = z.new_zeros(batch, columns)
        self.spread = z.new_zeros(batch)
        self.square = z.new_zeros(batch)  # of the local errors

    def finish(self) -> Path:
        """Integrate until every sample is at the noisy end or has failed."""
        whole = torch.isfinite(self.z.flatten(1)).all(1)
        self._leave(~whole, "not finite at the start")
        if len(self.walk):
            self.probes = self._draw()
            self.k1, self.t1 = self._evaluate(self.walk.at, self.z, self.probes)
        while len(self.walk):
            self._step()
        return self.out

    def _draw(self) -> Tensor | None:
        return self.flow.stream.draw() if self.fresh else self.flow.probes

    def _evaluate(self, tau: Tensor, z: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
        self.walk.used = self.walk.used + 1
        assert self.out.traced is not None  # for the type checker
        self.out.traced[self.walk.index.cpu()] += 1
        return self.flow.velocity_and_traces(tau, z, probes)

    def _step(self) -> None:
        tau, (h, end) = self.walk.at, self.walk.attempt()
        length = wide(h, self.z)
        ks, ts = [self.k1], [self.t1]
        for c, row in zip(_C[1:], _A[1:], strict=True):
            at = self.z + length * _combine(row, ks)
            if c == _C[1]:  # the log-density does not use this stage
                self.walk.used = self.walk.used + 1
                k, t = self.flow.velocity(tau + c * h, at), torch.zeros_like(self.t1)
            else:
                k, t = self._evaluate(tau + c * h, at, self.probes)
            ks.append(k)
            ts.append(t)
        z = self.z + length * _combine(_B[:6], ks)
        # The last stage is the first of the next step, so it uses the probes of both steps.
        following, both = self.probes, self.probes
        columns = self.t1.shape[1]
        if self.fresh and self.probes is not None:
            following = self._draw()
            assert following is not None  # for the type checker
            both = torch.cat([self.probes, following])
        k7, t7 = self._evaluate(end, z, both)
        ks.append(k7)
        ts.append(t7[:, :columns])
        gain = h[:, None] * _combine(_B, ts)
        off = length * _combine(_E, ks)
        wrong = off.flatten(1).square().mean(1).sqrt()
        drift = (self.flow.frame.score(k7, z, end) * off).flatten(1).sum(1)
        slip = drift.abs()  # absolute values, so that errors do not cancel by chance
        if not self.fresh:
            slip = slip + (h * _combine(_E, ts).mean(1)).abs()
        scale = 1.0 + z.flatten(1).square().mean(1).sqrt()
        ratio = wrong / (self.rule.tol * scale)
        ratio = torch.maximum(ratio, slip / (self.rule.tol * self.size)).detach()
        good = self.walk.judge(ratio, h, end)
        pick = wide(good, z)
        if self.fractions and bool(good.any()):
            rows = good.nonzero().flatten()
            inside = [(self.z + length * _combine(_dense(c), ks))[rows] for c in self.fractions]
            self.steps.append(Step(self.walk.index[rows], tau[rows], h[rows], inside))
        self.z = torch.where(pick, z, self.z)
        self.k1 = torch.where(pick, k7, self.k1)
        self.t1 = torch.where(good[:, None], t7[:, -columns:], self.t1)
        self.traces = torch.where(good[:, None], self.traces + gain, self.traces)
        local = ratio * self.rule.tol * self.size  # the error that step control used, in nats
        self.square = torch.where(good, self.square + local.square(), self.square)
        if self.fresh and following is not None and self.probes is not None:
            self.probes = torch.where(good.reshape(1, *pick.shape), following, self.probes)
            spread = variance_of_mean(gain, exact=False)
            self.spread = torch.where(good, self.spread + spread, self.spread)
        self._sort_out()

    def _sort_out(self) -> None:
        """Remove samples that are done or have failed from the batch."""
        walk, verdict = self.walk, self.walk.verdict(6)
        if not bool(verdict.leave.any()):
            return
        done, late = verdict.done, verdict.late
        out, index = self.out, walk.index[done]
        variance = self.spread if self.fresh else variance_of_mean(self.traces, exact=self.exact)
        out.z = out.z.index_copy(0, index, self.z[done])
        out.log_det = out.log_det.index_copy(0, index, self.traces[done].mean(1))
        out.variance = out.variance.index_copy(0, index, variance[done])
        out.error = out.error.index_copy(0, index, _CAUTION * self.square[done].sqrt())
        at = walk.at.tolist()
        for k in (late | verdict.stuck).nonzero().flatten().tolist():
            way = (at[k] - walk.start) / (walk.stop - walk.start)
            why = (
                f"not done after {self.rule.max_evals} evaluations"
                if bool(late[k])
                else "not finite, however small the step"
            )
            hint = "; write PerSample(...) with a larger tol or max_evals" if bool(late[k]) else ""
            out.failures[int(walk.index[k])] = (
                f"{why}, at log rho = {at[k]:.6g}, {way:.0%} of the way{hint}"
            )
        self._keep(~verdict.leave)

    def _leave(self, gone: Tensor, reason: str) -> None:
        if bool(gone.any()):
            self.out.failures |= {int(i): reason for i in self.walk.index[gone]}
            self._keep(~gone)

    def _keep(self, rows: Tensor) -> None:
        places = self.walk.keep(rows)
        self.flow = self.flow.rows(places)
        for name in _ROWS:
            if hasattr(self, name):
                setattr(self, name, getattr(self, name)[places])
        probes = getattr(self, "probes", None)
        if probes is not None:
            self.probes = probes[:, places]


def _dense(c: float) -> tuple[float, ...]:
    """Weights of the slopes for the state at a fraction c of the step, of order 4.

    It is the continuous extension by Shampine (Hairer, Norsett & Wanner 1993, II.6).
    """
    a, b = c * c * (3 - 2 * c), (c * (c - 1)) ** 2
    ends = (c * (c - 1) ** 2, 0.0, 0.0, 0.0, 0.0, 0.0, c * c * (c - 1))
    return tuple(
        a * weight + end + b * (p - q * c)
        for weight, end, (p, q) in zip(_B, ends, _DENSE, strict=True)
    )


_DENSE = (
    (-12793612615 / 11282082432, -157015080 / 11282082432),
    (0.0, 0.0),
    (88272555100 / 32700410799, 1570150800 / 32700410799),
    (-11083301675 / 1880347072, -785075400 / 1880347072),
    (759212249535 / 199316789632, 114463993320 / 199316789632),
    (-1648467425 / 822651844, -389220480 / 822651844),
    (74144470 / 29380423, 8293050 / 29380423),
)

_ROWS = ("z", "traces", "spread", "square", "k1", "t1")


def _combine(weights: tuple[float, ...], terms: list[Tensor]) -> Tensor:
    total = torch.zeros_like(terms[0])
    for weight, term in zip(weights, terms, strict=True):
        if weight != 0.0:
            total = torch.add(total, term, alpha=weight)
    return total
