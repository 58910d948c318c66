r"""The divergence of a vector field, that is the trace of its Jacobian, for log-densities.

One forward pass gives the field. Backward passes through its graph give the trace:

| | cost besides the forward pass | error |
| --- | --- | --- |
| `Exact()` | D vector-Jacobian products | none |
| `Hutchinson(probes=P)` | P products | v^T J v is unbiased for E[v v^T] = I |

Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1990; for flows,
Grathwohl et al., "FFJORD", 2019, section 3.1. Rademacher probes have the smallest variance among
those with independent entries: only the off-diagonal part of J + J^T enters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._internal.graph import check_graph, with_graph
from ..errors import ConfigError
from ..noise import normal

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Divergence(ABC):
    """A rule that computes or estimates the trace of the Jacobian, as a frozen value."""

    exact = False

    @property
    def columns(self) -> int:
        """Number of traces for each sample."""
        return 1

    def draw(self, shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
        """Probes of one sample, shape (P, *event), in like's dtype."""
        raise NotImplementedError  # an exact rule needs no probes

    @abstractmethod
    def traces(self, value: Tensor, x: Tensor, probes: Tensor | None, *, grad: bool) -> Tensor:
        """Estimates of tr(d value / d x), shape (B, columns).

        Args:
            value: the field at x, shape (B, *), with a graph that ends in x.
            x: shape (B, *); sample k of value depends only on sample k of x.
            probes: from `draw`.
            grad: keep the graphs of the result and of value.
        """


@dataclass(frozen=True)
class Exact(Divergence):
    """The exact trace, from all rows of the Jacobian.

    If the model has a closed-form divergence, a method `divergence(x, knot)` as in
    `scoresde.exact`, that is used instead.

    Attributes:
        chunk: number of rows in one vectorised backward pass; memory grows with it.
    """

    chunk: int = 16

    exact = True

    def __post_init__(self) -> None:
        if self.chunk < 1:
            raise ConfigError(f"chunk must be 1 or more, got {self.chunk!r}")

    def traces(self, value: Tensor, x: Tensor, probes: Tensor | None, *, grad: bool) -> Tensor:
        """See `Divergence`."""
        size = x[0].numel() if len(x) else 0
        total = value.new_zeros(len(x))
        for first in range(0, size, self.chunk):
            places = torch.arange(first, min(first + self.chunk, size), device=x.device)
            total = total + self._rows(value, x, places, grad)
        return total[:, None]

    def _rows(self, value: Tensor, x: Tensor, places: Tensor, grad: bool) -> Tensor:
        """Sum of the Jacobian's diagonal entries at these places, shape (B,)."""
        basis = value.new_zeros(len(places), len(x), value[0].numel())
        basis[torch.arange(len(places)), :, places] = 1.0
        basis = basis.reshape(len(places), *value.shape)
        if len(places) > 1:
            try:
                (rows,) = torch.autograd.grad(
                    value, x, basis, retain_graph=True, create_graph=grad, is_grads_batched=True
                )
                return (rows * basis).flatten(2).sum((0, 2))
            except RuntimeError as error:  # an operation without a batching rule
                if "vmap" not in str(error) and "batching" not in str(error).lower():
                    raise
        return sum((_product(value, x, row, grad) for row in basis), start=value.new_zeros(len(x)))


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Hutchinson's estimate of the trace, v^T J v with random v.

    Attributes:
        probes: number of probes of each sample; two or more give a standard error. With two fixed
            probes, this standard error has one degree of freedom. In few dimensions, two vectors of
            signs are also often equal by chance. In both cases use 8 or more, or `Exact()`. Fresh
            probes are pooled over the nodes.
        distribution: "rademacher" or "gaussian".
        fresh: draw new probes during the integration, so that their errors average out. Methods of
            other libraries need a deterministic field and always keep the first probes.
        control: factor of the control variate, in frames with a Gaussian: the estimate is
            v^T J v - control (v^T A v - tr A), with A the Jacobian of the flow of Gaussian data.
            `chosen_control` finds the best factor for a model.
        forward: compute J v by forward mode instead of v^T J by a backward pass. On a U-Net it
            takes about twice the time, but no memory for a graph.
    """

    probes: int = 2
    distribution: str = "rademacher"
    fresh: bool = True
    control: float = 0.0
    forward: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.probes, int) or self.probes < 1:
            raise ConfigError(f"probes must be a whole number, 1 or more, got {self.probes!r}")
        if self.distribution not in ("rademacher", "gaussian"):
            raise ConfigError(
                f"distribution must be 'rademacher' or 'gaussian', got {self.distribution!r}"
            )

    @property
    def columns(self) -> int:
        """One trace for each probe."""
        return self.probes

    def draw(self, shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
        """See `Divergence`."""
        if self.distribution == "gaussian":
            return normal(shape, generator, like.dtype, like.device)
        signs = torch.randint(0, 2, tuple(shape), generator=generator, device=like.device)
        return (2 * signs - 1).to(like.dtype)

    def traces(self, value: Tensor, x: Tensor, probes: Tensor | None, *, grad: bool) -> Tensor:
        """See `Divergence`."""
        if probes is None:
            raise ConfigError("Hutchinson's estimator needs probes; call draw first")
        columns = [
            _product(value, x, probe, grad, keep=k < len(probes) - 1)
            for k, probe in enumerate(probes)
        ]
        return torch.stack(columns, 1)


def value_and_traces(
    fn: Function, x: Tensor, divergence: Divergence, probes: Tensor | None, *, grad: bool
) -> tuple[Tensor, Tensor]:
    """fn(x), shape (B, *), and traces of its Jacobian, shape (B, columns), by one forward pass.

    Args:
        fn: the field; each sample of its value depends only on the same sample of x.
        x: shape (B, *).
        divergence: the rule.
        probes: from `divergence.draw`.
        grad: keep the graph of both results.

    Raises:
        GraphError: where a field has no graph that leads to x.
    """
    grad = grad and torch.is_grad_enabled()  # False in the forward pass of the adjoint method
    if isinstance(divergence, Hutchinson) and divergence.forward:
        return with_graph(lambda: _forward(fn, x, probes), reverse=grad)

    def both() -> tuple[Tensor, Tensor]:
        inputs = x if grad and x.requires_grad else x.detach().clone().requires_grad_()
        value = fn(inputs)
        check_graph(value, inputs, "the model")
        return value, divergence.traces(value, inputs, probes, grad=grad)

    value, traces = with_graph(both)
    return (value, traces) if grad else (value.detach(), traces.detach())


def _forward(fn: Function, x: Tensor, probes: Tensor | None) -> tuple[Tensor, Tensor]:
    """`value_and_traces` by forward mode: one evaluation has the tangents of all probes."""
    assert probes is not None  # for the type checker
    x, probes = (part.clone() if part.is_inference() else part for part in (x, probes))

    def checked(u: Tensor) -> Tensor:
        value = fn(u)
        check_graph(value, u, "the model")
        return value

    def along(v: Tensor) -> tuple[Tensor, Tensor]:
        value, slope = torch.func.jvp(checked, (x,), (v,))[:2]
        return value, (slope * v).flatten(1).sum(1)

    values, columns = torch.func.vmap(along)(probes)
    return values[0], columns.T


def _product(value: Tensor, x: Tensor, v: Tensor, grad: bool, keep: bool = True) -> Tensor:
    """v^T J v, shape (B,)."""
    (row,) = torch.autograd.grad(value, x, v, retain_graph=keep or grad, create_graph=grad)
    return (row * v).flatten(1).sum(1)
