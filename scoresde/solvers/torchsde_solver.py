"""The reverse SDE by torchsde's solvers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError, SolverError, require, unknown_name
from ..grid import Grid
from ..model import Predictor, parameters_of
from ..noise import NoiseStream
from ..scalar import scale
from ..sde.knot import Knot
from .adaptive import check_max_evals
from .bridge import seed_from
from .last_step import to_clean
from .solver import Carry, Solver

_METHODS = {  # name: (weak order, Ito or Stratonovich: the same thing here, but torchsde asks)
    "euler": (1, "ito"),
    "milstein": (1, "ito"),
    "srk": (2, "ito"),
    "euler_heun": (1, "stratonovich"),
    "heun": (2, "stratonovich"),
    "midpoint": (2, "stratonovich"),
}


@dataclass(frozen=True)
class TorchSDE(Solver):
    r"""dy = -(1 + tau^2) rho eps dlam + tau sqrt(2) rho dw for y = x/alpha, by torchsde.

    Li et al., "Scalable Gradients for Stochastic Differential Equations", 2020, whose package this
    needs (extra "torchsde"). The clock is the half log-SNR lam, which grows towards the data. The
    noise is additive: Milstein's method is Euler's, and Ito's and Stratonovich's readings agree.

    The Brownian path is torchsde's, one a sample, from seeds that are made of the stream's noise: a
    sample depends on its own seed alone. Weak order as `order` says; evaluations are torchsde's
    affair (`evals` is None): one a substep for "euler", two for "heun", nine for "srk". The step to
    sigma = 0 follows `last_step`.

    Attributes:
        method: "euler", "milstein", "srk", "euler_heun", "heun" or "midpoint".
        tau: share of noise; 1 is the reverse SDE.
        substeps: torchsde's steps, all equal, in one step of the grid.
        adaptive: let torchsde choose its steps, `substeps` being the first guess. Since it chooses
            one step for all samples that it is given, it is given one at a time.
        rtol, atol: tolerances of adaptive steps.
        max_evals: evaluations per sample and step of the grid, after which it is given up and
            becomes NaN, where steps are adaptive.
        adjoint: gradients by the adjoint SDE, without the graph of the whole run; the model must be
            a module, and `sample(..., grad=True)` keeps what is needed.
    """

    method: str = "srk"
    tau: float = 1.0
    substeps: int = 1
    adaptive: bool = False
    rtol: float = 1e-3
    atol: float = 1e-3
    adjoint: bool = False
    max_evals: int = 10_000

    stochastic = True

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise unknown_name("method of torchsde", self.method, _METHODS)
        if not self.tau > 0 or not isinstance(self.substeps, int) or self.substeps < 1:
            raise ConfigError(
                "need tau > 0 and a whole number of substeps, 1 or more, got "
                f"tau={self.tau!r}, substeps={self.substeps!r}"
            )
        check_max_evals(self.max_evals)
        if not (self.rtol >= 0 and self.atol >= 0 and self.rtol + self.atol > 0):
            raise ConfigError(
                f"tolerances must be 0 or more and not both 0, got rtol={self.rtol!r}, "
                f"atol={self.atol!r}; write for example rtol=1e-3, atol=1e-3"
            )

    @property
    def order(self) -> int:
        """Weak order of the method for additive noise."""
        return _METHODS[self.method][0]

    def evals(self, grid: Grid) -> None:
        """It depends on the method's inner workings."""
        return None

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        if s.is_clean:
            return to_clean(model, model(x, t)), None
        if x.shape[0] == 0:
            return x, None  # torchsde takes no empty batch
        z = noise.normal()
        if not self.adaptive:
            return self._solve(model, x, t, s, z), None
        rows, solved = [], 0
        for i in torch.arange(len(x), device=x.device)[:, None]:
            try:
                rows.append(self._solve(model.rows(i), x[i], t, s, z[i]))
                solved += 1
            except SolverError as error:
                reason = error
                rows.append(torch.full_like(x[i], math.nan))
        if not solved:
            raise reason
        return torch.cat(rows), None

    def _solve(self, model: Predictor, x: Tensor, t: Knot, s: Knot, z: Tensor) -> Tensor:
        torchsde = require("torchsde", "torchsde")
        y = scale(1.0 / t.alpha, x).reshape(x.shape[0], x.shape[1:].numel())
        start, stop = float(t.lam), float(s.lam)
        settings: dict[str, Any] = {
            "bm": _Paths(torchsde, start, stop, y, z, self.method),
            "dt": (stop - start) / self.substeps * (1 + 1e-9),
        }
        if self.adaptive:
            settings |= {"adaptive": True, "rtol": self.rtol, "atol": self.atol}
        cap = self.max_evals if self.adaptive else None
        reverse = _Reverse(model, x.shape, self.tau, t, s, _METHODS[self.method][1], cap)
        times = torch.tensor([start, stop], dtype=torch.float64, device=y.device)
        if self.adjoint:
            settings["adjoint_params"] = tuple(p for p in _parameters(model) if p.requires_grad)
            solve = torchsde.sdeint_adjoint
        else:
            solve = torchsde.sdeint
        y = solve(reverse, y, times, method=self.method, **settings)[-1]
        return scale(s.alpha, y.reshape(x.shape))


class _Reverse(nn.Module):
    """What torchsde calls: f and g over the flat state."""

    noise_type = "diagonal"

    def __init__(
        self, model: Predictor, shape: torch.Size, tau: float, t: Knot, s: Knot, sde_type: str,
        cap: int | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.cap, self.calls = cap, 0
        self.model, self.shape, self.tau = model, shape, tau
        self.ends, self.sde_type = (t, s), sde_type
        self.last: tuple[float, Tensor, Tensor] | None = None

    def f(self, lam: Tensor, y: Tensor) -> Tensor:
        """The drift.

        Before it starts torchsde asks for shapes at the very point where it then begins: the same
        question twice is answered once.
        """
        at = float(lam)
        if self.last is not None and self.last[0] == at and self.last[1] is y:
            return self.last[2]
        self.calls += 1
        if self.cap is not None and self.calls > self.cap:
            raise SolverError(
                f"not done after {self.cap} evaluations, at half log-SNR {at:.6g} of "
                f"{float(self.ends[1].lam):.6g}; write a larger rtol, atol or max_evals"
            )
        knot = self._knot(at)
        eps = self.model(scale(knot.alpha, y.reshape(self.shape)), knot).eps
        drift = eps.reshape(y.shape) * (-(1 + self.tau**2) * float(knot.rho))
        self.last = (at, y, drift)
        return drift

    def g(self, lam: Tensor, y: Tensor) -> Tensor:
        """The diffusion, the same for every coordinate."""
        return torch.full_like(y, self.tau * math.sqrt(2.0) * math.exp(-float(lam)))

    def _knot(self, lam: float) -> Knot:
        """Rounding must not carry a time outside the step, where the network may know nothing."""
        t, s = self.ends
        if lam <= t.lam:
            return t
        return s if lam >= s.lam else self.model.sde.at_lambda(lam)


class _Paths:
    """One of torchsde's Brownian paths a sample, as the one path of a batch that it asks for."""

    def __init__(
        self, torchsde: Any, start: float, stop: float, y: Tensor, z: Tensor, method: str
    ) -> None:
        self.shape, self.dtype, self.device = y.shape, y.dtype, y.device
        self.levy_area_approximation = "space-time" if method == "srk" else "none"
        self.paths = [
            torchsde.BrownianInterval(
                start,
                stop,
                size=(1, y.shape[1]),
                dtype=y.dtype,
                device=y.device,
                entropy=seed_from(row),
                levy_area_approximation=self.levy_area_approximation,
            )
            for row in z
        ]

    def __call__(self, ta: Any, tb: Any = None, **areas: bool) -> Any:
        """The increment from ta to tb, shape (B, D), or a tuple of it and the areas asked for."""
        drawn = [path(ta, tb, **areas) for path in self.paths]
        if isinstance(drawn[0], Tensor):
            return torch.cat(drawn)
        return tuple(None if row[0] is None else torch.cat(row) for row in zip(*drawn, strict=True))


def _parameters(model: Predictor) -> tuple[Tensor, ...]:
    found = parameters_of(model)
    if not found:
        raise ConfigError(
            f"adjoint=True needs a model with parameters, not {type(model).__name__}; "
            "write adjoint=False"
        )
    return found
