"""Predictor-corrector sampling."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ..errors import ConfigError
from ..grid import Grid
from ..model import Predictor
from ..noise import NoiseStream
from ..sde.knot import Knot
from .corrector import Corrector
from .langevin import Langevin
from .reverse_diffusion import ReverseDiffusion
from .solver import Carry, Solver


@dataclass(frozen=True)
class PredictorCorrector(Solver):
    """Predictor-corrector sampling: a corrector at t, then a step of any solver from t to s.

    Song et al. 2021, algorithm 1 and section 4.2, in the order of their code: the corrector comes
    first, so the network is not evaluated at the end of the grid. The order, the history and the
    step to sigma = 0 are those of the predictor. A step costs the predictor's evaluations plus the
    corrector's.

    Attributes:
        predictor: any solver.
        corrector: any `Corrector`, such as `Langevin()` or `AnnealedLangevin()`.
    """

    predictor: Solver = field(default_factory=ReverseDiffusion)
    corrector: Corrector = field(default_factory=Langevin)

    stochastic = True

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver):
            raise ConfigError(
                f"the predictor must be a solver, got {self.predictor!r}; write "
                "PredictorCorrector(ReverseDiffusion(), Langevin())"
            )
        if isinstance(self.corrector, type) or not isinstance(self.corrector, Corrector):
            raise ConfigError(
                f"the corrector must be a Corrector, got {self.corrector!r}; write Langevin()"
            )

    @property
    def order(self) -> float:
        """The order of the predictor."""
        return self.predictor.order

    @property
    def starts_at_zero_snr(self) -> bool:
        """As for the predictor. A corrector works there with any network that predicts there."""
        return self.predictor.starts_at_zero_snr

    @property
    def compiles(self) -> bool:
        """As for the predictor: correctors have no data-dependent branch."""
        return self.predictor.compiles

    def init(self, model: Predictor, grid: Grid) -> Carry:
        """The first `carry` of the predictor."""
        return self.predictor.init(model, grid)

    def step(
        self, model: Predictor, x: Tensor, t: Knot, s: Knot, carry: Carry, noise: NoiseStream
    ) -> tuple[Tensor, Carry]:
        """See `Solver.step`."""
        x = self.corrector(model, x, t, noise)
        return self.predictor.step(model, x, t, s, carry, noise)

    def evals(self, grid: Grid) -> int | None:
        """The predictor's evaluations plus the corrector's at every step."""
        own = self.predictor.evals(grid)
        return None if own is None else own + self.corrector.evals_per_call * grid.steps
