r"""The step to sigma = 0 of a stochastic solver.

Extrapolating along the path that led here would amplify that path's noise without bound as steps
get short; the denoised x0 alone is first order, and leaves data of variance C with the deviation
sqrt(C) (1 - rho^2 / 2C). So eps is followed a little way up the probability flow instead, to
1.25 rho and 1.5 rho, and a polynomial through its three values is integrated down to 0. It is odd
in rho, as eps is along the flow of data that have a density, like the last step of
`ExponentialMultistep`:

    y_1.25 = y + rho 9/32 eps                             y = x/alpha
    y_1.5 = y + rho (5/9 eps_1.25 - 5/72 eps)
    y_0 = y - rho (373/270 eps - 1472/1485 eps_1.25 + 118/495 eps_1.5)

The deviation of data narrow enough to have rho^2 = C/4 is kept to 6e-4. Where the data are a point
as seen from rho, 0.4 of the noise is left; `final="denoise"` takes x0.
"""

from __future__ import annotations

from torch import Tensor

from ..grid import Grid
from ..model import Predictor
from ..prediction import Prediction
from ..scalar import affine, log
from ..sde import SDE
from ..sde.knot import Knot

_FIRST, _SECOND = 1.25, 1.5


def to_clean(model: Predictor, prediction: Prediction) -> Tensor:
    """The state at sigma = 0, shape (B, *), from the prediction at the last knot.

    Two further evaluations; none where the process ends below 1.5 rho, as in a single step from
    t_max, where it is the denoised x0.
    """
    t = prediction.knot
    if not _can_climb(model.sde, t):
        return prediction.x0
    first, second = (model.sde.at_lambda(-log(up * t.rho)) for up in (_FIRST, _SECOND))
    rho = t.rho
    eps_1 = model(prediction.mix(first.alpha, first.alpha * rho * (1 + 9 / 32)), first).eps
    above = prediction.mix(second.alpha, second.alpha * rho * (1 - 5 / 72))
    eps_2 = model(affine(1.0, above, second.alpha * rho * 5 / 9, eps_1), second).eps
    out = affine(1.0, prediction.mix(1.0, (1 - 373 / 270) * rho), 1472 / 1485 * rho, eps_1)
    return affine(1.0, out, -118 / 495 * rho, eps_2)


def further_evals(grid: Grid) -> int:
    """Evaluations of `to_clean` at a grid's end beyond the usual one of the step."""
    return 2 * _can_climb(grid.sde, grid.knots[-2]) if grid.ends_clean else 0


def count_evals(grid: Grid, per_step: int) -> int:
    """Evaluations over a grid: `per_step` a step, and those of `to_clean`."""
    return per_step * (grid.steps - grid.ends_clean) + grid.ends_clean + further_evals(grid)


def _can_climb(sde: SDE, t: Knot) -> bool:
    return bool(_SECOND * t.rho < sde.at(sde.t_max).rho)
