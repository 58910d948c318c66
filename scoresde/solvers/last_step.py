r"""The step to sigma = 0 of a stochastic solver.

Extrapolating along the path that led here would amplify that path's noise without bound as steps
get short, and the denoised x0 alone is first order: it costs a deviation of rho^2 / C relative to
data of variance C. So the slope of eps is measured along the probability flow, up from t:

    up: y_u = y + (rho_u - rho) eps(y, rho),  rho_u = 1.25 rho
    y_0 = y - rho eps(y, rho) + rho^2/2 (eps(y_u, rho_u) - eps(y, rho)) / (rho_u - rho)

Where the data are a point as seen from rho, eps is constant and this is x0, exactly.
"""

from __future__ import annotations

from torch import Tensor

from ..model import Predictor
from ..prediction import Prediction
from ..scalar import affine, log
from ..sde.knot import Knot

_UP = 1.25


def can_climb(model_top: Knot, t: Knot) -> bool:
    """Whether the noise level to climb to is within the process: if not, x0 has to do."""
    return bool(_UP * t.rho < model_top.rho)


def to_clean(model: Predictor, prediction: Prediction) -> Tensor:
    """The state at sigma = 0, shape (B, *), from the prediction at the last knot.

    One further evaluation, at 1.25 times the noise (none if the process ends below that).
    """
    t, sde = prediction.knot, model.sde
    if not can_climb(sde.at(sde.t_max), t):
        return prediction.x0
    up = sde.at_lambda(-log(_UP * t.rho))
    above = model(prediction.at(up), up).eps
    # y - rho eps is x0; rho^2 / 2 over rho_u - rho is rho / 2.
    weight = 0.5 * t.rho / (_UP - 1.0)
    return affine(1.0, prediction.mix(1.0, -weight), weight, above)
