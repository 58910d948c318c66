"""Finding out where a run went wrong, after the fact.

The loop itself checks nothing: a check of finiteness is a device sync. What failed is run again
with checks on, which its seeds make exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..errors import NonFiniteError, ScoreSDEError
from ..model import Predictor
from ..noise import NoiseSource
from ..prediction import Prediction
from ..sde import SDE
from ..sde.knot import Knot

Rerun = Callable[[Predictor, Tensor | None, NoiseSource, int], Iterator[object]]
"""(model, start or None, noise, batch size) -> the run, one item a step, the start first."""


class Checked:
    """A predictor that raises at the first value that is not finite, naming the time."""

    def __init__(self, model: Predictor) -> None:
        self._model = model

    @property
    def sde(self) -> SDE:
        """The model's process."""
        return self._model.sde

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The model's prediction.

        Raises:
            NonFiniteError: if the state or the network's output is not finite.
        """
        prediction = self._model(x, knot)
        t = float(torch.as_tensor(knot.t).flatten()[0])
        for what, value in (("the solver's state", x), ("the network's output", prediction.raw)):
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(f"{what} is not finite at t = {t:.6g}")
        return prediction

    def rows(self, index: Tensor) -> Checked:
        """See `Predictor`."""
        return Checked(self._model.rows(index))


def bad_rows(x: Tensor) -> list[int]:
    """Places in the batch whose state, of (B, *), is not finite."""
    if x.numel() == 0:
        return []
    # The largest size is NaN or infinite where any value is, and found 10 times faster than by
    # looking at each.
    size = x.reshape(x.shape[0], -1).abs().amax(1)
    return (~torch.isfinite(size)).nonzero().flatten().tolist()


def explain(
    rerun: Rerun, model: Predictor, x: Tensor | None, noise: NoiseSource, bad: list[int], batch: int
) -> dict[int, str]:
    """Why these samples failed: each is run alone, where its noise allows that.

    Args:
        rerun: starts the same run again for another batch.
        x: the start that the run was given, shape (B, *), or None.
        noise: where its noise came from; a stream shared by the batch can only be repeated whole.
    """
    reasons: dict[int, str] = {}
    together: str | None = None
    for place in bad:
        alone = noise.rows([place])
        if alone is not None:
            index = torch.tensor([place], device=None if x is None else x.device)
            start = None if x is None else x[place : place + 1]
            reasons[place] = _reason(rerun(Checked(model.rows(index)), start, alone, 1))
        else:
            together = together or _reason(rerun(Checked(model), x, noise, batch))
            reasons[place] = together
    return reasons


def _reason(run: Iterator[object]) -> str:
    done = 0
    try:
        for _ in run:
            done += 1
    except ScoreSDEError as error:
        return f"step {done}: {error}"
    return f"not finite after step {done - 1}, though every output of the network was finite"
