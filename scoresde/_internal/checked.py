"""Finding out where a run went wrong, after the fact.

The loop itself checks nothing: a check of finiteness is a device sync. What failed is run again
with checks on, which its seeds make exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ..errors import NonFiniteError, ScoreSDEError
from ..model import Predictor
from ..noise import NoiseSource
from ..prediction import Prediction
from ..wrapper import Observer

Rerun = Callable[[Predictor, Tensor | None, NoiseSource, int], Iterator[object]]
"""(model, start or None, noise, batch size) -> the run, one item a step, the start first."""


class Checked(Observer):
    """A predictor that raises at the first value that is not finite, naming the time."""

    def observe(self, prediction: Prediction) -> None:
        """Look for NaN and infinity.

        Raises:
            NonFiniteError: if the state or the network's output is not finite.
        """
        t = float(torch.as_tensor(prediction.knot.t).flatten()[0])
        seen = {"the solver's state": prediction.x, "the network's output": prediction.raw}
        for what, value in seen.items():
            if not bool(torch.isfinite(value).all()):
                raise NonFiniteError(f"{what} is not finite at t = {t:.6g}")


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
            one = partial(_again, rerun, model, index, start, alone)
            reasons[place] = _reason(one)
        else:
            together = together or _reason(lambda: rerun(Checked(model), x, noise, batch))
            reasons[place] = together
    return reasons


def _again(
    rerun: Rerun, model: Predictor, index: Tensor, x: Tensor | None, noise: NoiseSource
) -> Iterator[object]:
    return rerun(Checked(model.rows(index)), x, noise, 1)


def _reason(start: Callable[[], Iterator[object]]) -> str:
    done = 0
    try:
        for _ in start():
            done += 1
    except ScoreSDEError as error:
        return f"step {done}: {error}"
    except Exception as error:  # whatever a network raises; it must not replace the warning
        return f"not finite; run again to find out where, {crash(error)} in step {done}"
    return f"not finite after step {done - 1}, though every output of the network was finite"


def crash(error: Exception) -> str:
    """What a network raised while a failed sample was run again."""
    return f"it raised {type(error).__name__}: {error}"
