r"""The step to sigma = 0 of a stochastic solver.

Two simpler steps are not good enough. Extrapolation from the last states would amplify the noise
of their path, without bound as steps get short. The denoised x0 is only first order: for data of
variance C it gives the standard deviation sqrt(C) (1 - rho^2 / 2C).

So this step first follows the probability flow to more noise, to 1.25 rho and 1.5 rho. Then it
integrates the polynomial through the three values of eps down to 0. The polynomial is odd in rho,
as eps is along the flow of data with a density (compare the last step of `ExponentialMultistep`):

    y_1.25 = y + rho 9/32 eps                             y = x/alpha
    y_1.5 = y + rho (5/9 eps_1.25 - 5/72 eps)
    y_0 = y - rho (373/270 eps - 1472/1485 eps_1.25 + 118/495 eps_1.5)

For data with C = 4 rho^2 the standard deviation is right to 6e-4. For data at a single point, 0.4
of the noise is left; `final="denoise"` returns x0 instead.
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

    Takes two further evaluations. If rho at t_max is below 1.5 rho, as in a single step from
    t_max, it takes none and returns the denoised x0.
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
    """Evaluations that `to_clean` adds to the one of the last step: 2 or 0."""
    return 2 * _can_climb(grid.sde, grid.knots[-2]) if grid.ends_clean else 0


def count_evals(grid: Grid, per_step: int) -> int:
    """Evaluations over a grid: `per_step` for each step, plus those of `to_clean`."""
    return per_step * (grid.steps - grid.ends_clean) + grid.ends_clean + further_evals(grid)


def _can_climb(sde: SDE, t: Knot) -> bool:
    return bool(_SECOND * t.rho < sde.at(sde.t_max).rho)
