"""Checks and defaults of the arguments of `log_likelihood`."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import Tensor

from .. import ode
from .._internal import specs
from ..errors import ConfigError
from ..ode import Backend
from ..solvers.probability_flow import ProbabilityFlow
from .divergence import Divergence, Exact, Hutchinson
from .frame import Frame, Whitened
from .method import Method

SMALL = 64
"""The exact divergence is the default up to this dimension, where probes are too noisy."""


@functools.cache
def methods() -> specs.Table:
    """The library's methods and backends that integrate likelihoods, by name."""
    from .. import likelihood  # imported here, since that package imports this module

    return {**specs.members(likelihood, Method), **specs.members(ode, Backend)}


def check_method(method: Any, *, own: bool = False) -> Method | Backend:
    """The method itself, or the method of a name such as "PerSample(tol=1e-4)".

    Args:
        method: a method, or its name.
        own: whether the name may be of a user's module or file, which is then imported.

    Raises:
        ConfigError: for anything else.
    """
    if isinstance(method, str):
        try:
            method = specs.build("method", method, methods(), own=own)
        except ConfigError as error:
            if specs.is_named(method, methods()) or ":" in method:
                raise
            hint = f"TorchDiffEq(method={method!r})"
            raise ConfigError(f"{error}; for one of torchdiffeq, write method={hint}") from None
    if isinstance(method, Method | Backend):
        return method
    if inspect.isclass(method) and issubclass(method, Method | Backend):
        hint = f"{method.__name__}()"
    elif isinstance(method, ProbabilityFlow):
        hint = f"{method.backend!r}, the solver's backend"
    else:
        hint = "PerSample(), FixedGrid(...) or TorchDiffEq(...)"
    raise ConfigError(
        f"the method must be a Method or Backend, got {_name(method)}; write method={hint}"
    )


def check_divergence(divergence: Any, size: int) -> Divergence:
    """The divergence, or the default for `size` dimensions; ConfigError for another type."""
    if isinstance(divergence, Divergence):
        return divergence
    if divergence is None:
        return Exact() if size <= SMALL else Hutchinson()
    if inspect.isclass(divergence) and issubclass(divergence, Divergence):
        hint = f"{divergence.__name__}()"
    elif isinstance(divergence, int) and not isinstance(divergence, bool):
        hint = f"Hutchinson(probes={divergence})"
    else:
        exact = isinstance(divergence, str) and divergence.lower() == "exact"
        hint = "Exact()" if exact else "Exact() or Hutchinson(probes=2)"
    raise ConfigError(
        f"the divergence must be a Divergence, got {_name(divergence)}; write divergence={hint}"
    )


def check_frame(frame: Any) -> Frame:
    """The frame, or the default one; ConfigError for another type."""
    if isinstance(frame, Frame):
        return frame
    if frame is None:
        return Whitened(0.0, 1.0, assumed=True)
    hint = "estimate_frame(data)" if isinstance(frame, Tensor) else "Whitened(mean, covariance)"
    if inspect.isclass(frame) and issubclass(frame, Frame):
        hint = "NoFrame()" if frame is not Whitened else hint
    raise ConfigError(f"the frame must be a Frame, got {_name(frame)}; write frame={hint}")


def _name(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    return f"the class {value.__name__}" if inspect.isclass(value) else type(value).__name__
