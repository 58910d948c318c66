"""A model as a `torch.distributions.Distribution`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .._internal.checks import as_flow, check_dtype, check_model, check_shape, check_tensor
from ..errors import NonFiniteError, ShapeError
from ..grid import uniform_lambda
from ..model import Predictor, parameters_of
from ..ode import Backend, TorchDiffEq
from ..sampling.run import NonFiniteWarning, sample
from ..solvers.probability_flow import ProbabilityFlow
from . import Divergence, Exact, Frame, Method, log_likelihood
from .end import end_of


class ScoreDistribution(Distribution):
    """The density of a model's probability flow at the process's t_min, as a torch distribution.

    If the model has a noise range, both use its highest level as the noisy end (see `end` of
    `log_likelihood`).

    `sample` and `log_prob` follow the same flow, so `sample` draws from the density that `log_prob`
    computes. The distribution has its own seeds: successive calls of `sample` differ, and two
    distributions with the same seed give the same draws.

    Args:
        model: the model.
        event_shape: shape of one sample, without the batch.
        solver: solver of `sample`; the probability flow by dopri5 at 1e-5 by default.
        method, divergence, frame: settings of `log_prob`, see `log_likelihood`. The divergence is
            exact by default, so that the log-density has no random error.
        seed: first seed of the samples.
        dtype: dtype of the samples.
        validate_args: whether to check the shape of values.

    Raises:
        ConfigError: for a solver that cannot run in both directions of time.
        ShapeError: for an event_shape that is not a list of whole numbers.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 - torch's protocol
    has_rsample = False

    def __init__(
        self,
        model: Predictor,
        event_shape: Sequence[int],
        *,
        solver: ProbabilityFlow | str | None = None,
        method: Method | Backend | None = None,
        divergence: Divergence | None = None,
        frame: Frame | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        validate_args: bool | None = None,
    ) -> None:
        check_model(model)
        check_dtype(dtype)
        self.model, self.dtype = model, dtype
        self.solver = as_flow(solver or ProbabilityFlow(TorchDiffEq(rtol=1e-5, atol=1e-5)))
        self.settings: dict[str, Any] = {
            "method": method,
            "divergence": divergence or Exact(),
            "frame": frame,
        }
        self._next = seed
        super().__init__(
            torch.Size(),
            torch.Size(check_shape(event_shape, "that of an event, such as (2,),")),
            validate_args=validate_args,
        )

    @property
    def support(self) -> constraints.Constraint:
        """The set of all real arrays of the event's shape."""
        return constraints.independent(  # type: ignore[no-untyped-call]
            constraints.real, len(self.event_shape)
        )

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw samples, shape (*sample_shape, *event_shape)."""
        shape = torch.Size(sample_shape)
        count = shape.numel()
        seeds = range(self._next, self._next + count)
        self._next += count
        high = float(end_of(self.model).t)
        grid = uniform_lambda(self.model.sde, 1, t_max=high, clean=False)
        drawn = sample(
            self.model,
            self.solver,
            grid,
            shape=(count, *self.event_shape),
            seeds=seeds,
            dtype=self.dtype,
        )
        return drawn.x.reshape(*shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value) in nats, shape (*sample_shape,).

        As in all distributions of PyTorch, gradients flow to the value and the model's parameters.
        Call it under `torch.no_grad()` to save the memory of the graph.

        Raises:
            ShapeError: for a value whose last dimensions are not the event's shape.
            NonFiniteError: if the integration failed for some values, with the reason.
        """
        check_tensor(value, "the value")
        lead = value.ndim - len(self.event_shape)
        if lead < 0 or value.shape[lead:] != self.event_shape:
            raise ShapeError(
                f"expected values of shape (*, {', '.join(map(str, self.event_shape))}), got "
                f"{tuple(value.shape)}"
            )
        flat = value.reshape(-1, *self.event_shape)
        learns = value.requires_grad or any(p.requires_grad for p in parameters_of(self.model))
        grad = torch.is_grad_enabled() and learns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NonFiniteWarning)  # it is an error here
            found = log_likelihood(self.model, flat, grad=grad, **self.settings)
        if found.failures:
            place, reason = next(iter(found.failures.items()))
            raise NonFiniteError(
                f"{len(found.failures)} of {len(flat)} values have no log-density; value {place}: "
                f"{reason}"
            )
        return found.nats.reshape(value.shape[:lead])
