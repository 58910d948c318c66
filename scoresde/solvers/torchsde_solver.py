"""The reverse SDE, solved by the torchsde package."""

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

# name: (weak order, kind of integral: both kinds agree here, but torchsde needs the name)
_METHODS = {
    "euler": (1, "ito"),
    "milstein": (1, "ito"),
    "srk": (2, "ito"),
    "euler_heun": (1, "stratonovich"),
    "heun": (2, "stratonovich"),
    "midpoint": (2, "stratonovich"),
}


@dataclass(frozen=True)
class TorchSDE(Solver):
    r"""The reverse SDE, solved by torchsde in the half log-SNR lam, for y = x/alpha.

        dy = -(1 + tau^2) rho eps dlam + tau sqrt(2) rho dw

    Li et al., "Scalable Gradients for Stochastic Differential Equations", 2020. Needs their package
    (extra "torchsde"). lam grows towards the data. The noise is additive, so Milstein's method
    equals Euler's, and the Ito and Stratonovich integrals agree.

    Each sample has a Brownian path of its own, which torchsde makes from a seed. The seed comes
    from the sample's noise stream, so a sample depends only on its own seed. `order` is the weak
    order. `evals` is None, since torchsde decides: "euler" takes one evaluation per substep,
    "heun" two, "srk" nine. So it takes a grid, not a budget; without one, `sample` makes 40 steps
    uniform in half log-SNR. The step to sigma = 0 is that of `last_step`.

    Attributes:
        method: "euler", "milstein", "srk", "euler_heun", "heun" or "midpoint".
        tau: noise scale, above 0; 1 is the reverse SDE.
        substeps: number of equal torchsde steps in one step of the grid.
        adaptive: let torchsde choose its steps; `substeps` gives the first one. torchsde uses one
            step size for a whole batch, so each sample is solved alone.
        rtol, atol: tolerances of adaptive steps.
        max_evals: the most evaluations per sample and step of the grid, with adaptive steps. A
            sample that needs more becomes NaN.
        adjoint: compute gradients with the adjoint SDE, which stores no graph of the whole run.
            The model must have parameters; call `sample(..., grad=True)`.
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

    @property
    def default_steps(self) -> int:
        """Steps of the grid that `sample` makes where none is given. 40 are short enough for every
        method and process of the library; adaptive ones find their own.
        """
        return 2 if self.adaptive else 40

    def evals(self, grid: Grid) -> None:
        """None: torchsde decides how often it evaluates the model."""
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
    """The SDE that torchsde solves: drift f and diffusion g of the flattened state."""

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

        torchsde first calls it to learn the shape, then again at the same point to start. The
        second call returns the stored result, so that it costs no evaluation.
        """
        at = float(lam)
        if self.last is not None and self.last[0] == at and self.last[1] is y:
            return self.last[2]
        self.calls += 1
        if self.cap is not None and self.calls > self.cap:
            raise SolverError(
                f"not done after {self.cap} evaluations: half log-SNR {at:.6g} of "
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
        """The knot at lam, clamped to the step: outside it the network may not be trained."""
        t, s = self.ends
        if lam <= t.lam:
            return t
        return s if lam >= s.lam else self.model.sde.at_lambda(lam)


class _Paths:
    """A Brownian path for a batch, made of one torchsde path per sample."""

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
        """The increment from ta to tb, shape (B, D), or a tuple of it and the requested areas."""
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
