"""Finds out, after a run, where its samples became non-finite.

The loop does not check values, since each check would wait for the device. Samples that failed
are run again with checks. The same seeds make the second run exact.
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
    """A predictor that raises an error with the time at the first value that is not finite."""

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
    """Indices of samples with values that are not finite, for a state of shape (B, *)."""
    if x.numel() == 0:
        return []
    # The largest absolute value is NaN or infinite if any value is; this is 10 times faster than
    # a check of every value.
    size = x.reshape(x.shape[0], -1).abs().amax(1)
    return (~torch.isfinite(size)).nonzero().flatten().tolist()


def explain(
    rerun: Rerun, model: Predictor, x: Tensor | None, noise: NoiseSource, bad: list[int], batch: int
) -> dict[int, str]:
    """The reasons why samples failed: each is run again, alone if its noise allows that.

    Args:
        rerun: a function that starts the same run for another batch.
        x: the start of the run, shape (B, *), or None if it was drawn.
        noise: the source of the noise. If the batch shares one stream, the whole batch is repeated.
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
    except Exception as error:  # any error of a network; it must not replace the warning
        return f"not finite; run again to find out where, {crash(error)} in step {done}"
    return f"not finite after step {done - 1}, though every output of the network was finite"


def crash(error: Exception) -> str:
    """The text about an error of the network during the second run."""
    return f"it raised {type(error).__name__}: {error}"
