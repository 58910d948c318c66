"""Checks of what `log_likelihood` is given, and its defaults: each once, before anything runs."""

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
"""Dimensions up to which the exact divergence is the default: probes are few numbers there."""


@functools.cache
def methods() -> specs.Table:
    """What integrates a likelihood, by name: the library's methods and backends."""
    from .. import likelihood  # of which this module is a part

    return {**specs.members(likelihood, Method), **specs.members(ode, Backend)}


def check_method(method: Any, *, own: bool = False) -> Method | Backend:
    """The method, or that of a name such as "PerSample(tol=1e-4)"; ConfigError for neither.

    Args:
        method: the method.
        own: whether its name may be one of a user's module or file, which is then imported.
    """
    if isinstance(method, str):
        try:
            method = specs.build("method", method, methods(), own=own)
        except ConfigError as error:
            if specs.is_named(method, methods()) or ":" in method:
                raise
            hint = f"TorchDiffEq(method={method!r})"
            raise ConfigError(f"{error}; torchdiffeq's are written as method={hint}") from None
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
    """The divergence, or the default for events of this size, or ConfigError."""
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
    """The frame, or the default one, or ConfigError saying what to write."""
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
