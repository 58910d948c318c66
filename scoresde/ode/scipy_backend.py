"""ODE solvers of scipy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, SolverError, require, unknown_name
from .backend import Backend, Field, Flat, Parts

_ORDERS = {"RK45": 5, "RK23": 3, "DOP853": 8, "Radau": 5, "BDF": 5, "LSODA": 12}


@dataclass(frozen=True)
class SciPy(Backend):
    """A method of `scipy.integrate.solve_ivp`, on the CPU and without gradients.

    It runs step by step, so only the latest state is stored.

    Attributes:
        method: "RK45", "RK23", "DOP853", "Radau", "BDF" or "LSODA".
        options: further arguments of the method's class, such as `{"max_step": 0.5}`.

    Raises:
        ConfigError: for an unknown method; for a solve that needs gradients.
    """

    method: str = "RK45"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in _ORDERS:
            raise unknown_name("scipy method", self.method, _ORDERS)

    @property
    def order(self) -> float:
        """Order of the method; the largest one if the method changes its order."""
        return _ORDERS[self.method]

    def integrate(self, field: Field, parts: Parts, start: float, end: float) -> Parts:
        """See `Backend`."""
        if torch.is_grad_enabled() and any(p.requires_grad for p in parts):
            raise ConfigError("scipy's solvers have no gradients; write TorchDiffEq() instead")
        solver_class = getattr(require("scipy.integrate", "dev"), self.method)
        flat = Flat(field, parts, self, check=True)
        u = flat.pack(parts)

        def rhs(tau: float, state: np.ndarray) -> np.ndarray:
            out = flat(float(tau), torch.tensor(state, dtype=torch.float64, device=u.device))
            return np.asarray(out.numpy(force=True))

        rtol, atol = (_numpy(flat.tolerance(tol, u)) for tol in (self.rtol, self.atol))
        solver = solver_class(
            rhs, start, u.numpy(force=True), end, rtol=rtol, atol=atol, **self.options
        )
        while solver.status == "running":
            message = solver.step()
        if solver.status == "failed":
            raise SolverError(
                f"scipy's {self.method} stopped at {solver.t:.6g}: {message}; write a larger rtol "
                "and atol, or use another method"
            )
        return flat.unpack(torch.tensor(solver.y, dtype=torch.float64, device=u.device))


def _numpy(tol: float | Tensor) -> float | np.ndarray:
    return tol.numpy(force=True) if isinstance(tol, Tensor) else tol
