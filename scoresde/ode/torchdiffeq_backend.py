"""The solvers of torchdiffeq (Chen, github.com/rtqichen/torchdiffeq)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, SolverError, require, unknown_name
from .backend import Backend, Field, Flat, Parts
from .scipy_backend import SciPy

_ADAPTIVE = {"dopri8": 8, "dopri5": 5, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 2}
_EXPLICIT = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}  # one call an order
_ADAMS = {"explicit_adams": 4, "implicit_adams": 4, "fixed_adams": 4}
_IMPLICIT = {
    "implicit_euler": 1, "implicit_midpoint": 2, "trapezoid": 2, "sdirk2": 2, "trbdf2": 2,
    "radauIIA3": 3, "gl4": 4, "radauIIA5": 5, "gl6": 6,
}  # fmt: skip
_SCIPY = {"scipy_solver": 5}
_ORDERS = _ADAPTIVE | _EXPLICIT | _ADAMS | _IMPLICIT | _SCIPY


@dataclass(frozen=True)
class TorchDiffEq(Backend):
    """A method of torchdiffeq, with gradients by backpropagation or by the adjoint method.

    Adjoint: Chen et al., "Neural Ordinary Differential Equations", 2018, algorithm 1.

    Adaptive methods stop exactly at the end of the interval, and their first step is a hundredth
    of it. (By default torchdiffeq steps beyond the end, and evaluates anywhere to choose its first
    step.) Fixed-step methods take `steps` equal steps.

    Attributes:
        method: any method of the installed torchdiffeq.
        steps: number of steps per solve, for fixed-step methods.
        options: further options of torchdiffeq, such as `{"max_order": 6}` for Adams methods
            (4 by default) or `{"solver": "RK45"}` for "scipy_solver", which runs as `SciPy`.
        adjoint: compute gradients with a second solve backwards. The memory does not grow with the
            number of steps, but it takes twice the evaluations, and the gradients have the error
            of the tolerance. They reach the state and the parameters of the model's modules.

    Raises:
        ConfigError: for an unknown method, a fixed-step method without `steps`, or an adaptive one
            with `steps`.
    """

    method: str = "dopri5"
    steps: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    adjoint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in _ORDERS:
            raise unknown_name("torchdiffeq method", self.method, _ORDERS)
        fixed = self.method not in _ADAPTIVE | _SCIPY
        if fixed and (not isinstance(self.steps, int) or self.steps < 1):
            raise ConfigError(
                f"{self.method} takes steps of fixed size and needs a number of steps, got "
                f"steps={self.steps!r}; write TorchDiffEq(method={self.method!r}, steps=20)"
            )
        if not fixed and self.steps is not None:
            raise ConfigError(f"{self.method} chooses its own steps; remove steps={self.steps!r}")
        if self.adjoint and self.method in _SCIPY:
            raise ConfigError("scipy's solvers have no adjoint; write method='dopri5'")

    @property
    def order(self) -> float:
        """Order of the method; for Adams methods the order of their start."""
        return _ORDERS[self.method]

    @property
    def evals_per_solve(self) -> int | None:
        """See `Backend`; None for adaptive and implicit methods."""
        if self.steps is None:
            return None
        if self.method in _EXPLICIT:
            return self.steps * _EXPLICIT[self.method]
        if self.method == "explicit_adams" and "max_order" not in self.options:
            return self.steps + 3 * min(self.steps, 2)  # two Runge-Kutta steps to start with
        return None

    def integrate(self, field: Field, parts: Parts, start: float, end: float) -> Parts:
        """See `Backend`."""
        if self.method in _SCIPY:
            return self._scipy().integrate(field, parts, start, end)
        solve = self._solve(field, start, end)
        flat = Flat(field, parts, self, check=self.steps is None)
        u = flat.pack(parts)
        times = u.new_tensor([start, end])
        rtol, atol = flat.tolerance(self.rtol, u), flat.tolerance(self.atol, u)

        def rhs(tau: Tensor, state: Tensor) -> Tensor:
            return flat(float(tau.detach()), state)

        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Functional iteration did not converge")
                out = solve(
                    rhs, u, times, rtol=rtol, atol=atol, method=self.method,
                    options=self._options(start, end),
                )  # fmt: skip
        except AssertionError as error:
            raise SolverError(
                f"torchdiffeq's {self.method} failed between {start:.6g} and {end:.6g}: "
                f"{str(error)[:80]}; write a larger rtol and atol, or use another method"
            ) from error
        except UserWarning as error:
            raise SolverError(
                f"the corrector of {self.method} did not converge; write more than {self.steps} "
                "steps"
            ) from error
        except ValueError as error:
            if "Invalid method" not in str(error):
                raise
            raise ConfigError(f"the installed torchdiffeq has no {self.method}: {error}") from error
        return flat.unpack(out[-1])

    def _solve(self, field: Field, start: float, end: float) -> Callable[..., Tensor]:
        torchdiffeq = require("torchdiffeq", "dev")
        if not self.adjoint:
            plain: Callable[..., Tensor] = torchdiffeq.odeint
            return plain
        return partial(
            torchdiffeq.odeint_adjoint,
            adjoint_params=getattr(field, "parameters", tuple)(),
            adjoint_rtol=self.rtol,
            adjoint_atol=self.atol,
            adjoint_options=self._options(end, start),
        )

    def _scipy(self) -> SciPy:
        # torchdiffeq's own wrapper passes times in float32 and ignores scipy's error status.
        options = {"solver": "LSODA", **self.options}
        return SciPy(self.rtol, self.atol, self.max_evals, options.pop("solver"), options)

    def _options(self, start: float, end: float) -> dict[str, Any]:
        if self.steps is None:
            first = {"first_step": 0.01 * abs(end - start), **self.options}
            ends = torch.tensor([end], dtype=torch.float64)
            return {**first, "step_t": ends}
        count = self.steps

        def even(_: Any, __: Tensor, t: Tensor) -> Tensor:
            grid = torch.linspace(float(t[0]), float(t[-1]), count + 1, dtype=t.dtype)
            grid[0], grid[-1] = t[0], t[-1]
            return grid.to(t.device)

        orders = {"max_order": 4} if self.method in _ADAMS else {}
        return {**orders, **self.options, "grid_constructor": even}
