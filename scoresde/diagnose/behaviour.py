"""What a network does besides predicting: its mode, its neighbours, its conditions.

A network should give a row of a batch the same answer whatever the other rows are, give it again
when asked again, and answer otherwise when its condition is another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..conditions import Labels, Shared, is_label, tree_map
from ..model import Predictor, ScoreModel, dtype_of
from ..scalar import affine
from .wrapping import Asked

_ROWS = 8


@contextmanager
def undisturbed(net: Any) -> Iterator[None]:
    """Whatever runs inside leaves the modes and the buffers of a network, and torch's random
    generators, as they were. A network in training mode changes its statistics when it is called.
    """
    modules = list(net.modules()) if isinstance(net, nn.Module) else []
    modes = [(module, module.training) for module in modules]
    buffers = list(net.buffers()) if isinstance(net, nn.Module) else []
    kept = [buffer.clone() for buffer in buffers]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, value in zip(buffers, kept, strict=True):
                buffer.copy_(value)


class Behaviour:
    """A network asked about one small batch again and again, with something changed each time.

    Args:
        asked: the data and the model; the answers are counted there.
    """

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        size = min(_ROWS, max(1, len(asked.data) // 2))
        self._index = torch.arange(size, device=asked.data.device)
        middle = min(range(len(asked.levels)), key=lambda k: abs(asked.levels[k] - 1.0))
        self._knot = asked.model.sde.at_rho(asked.rhos()[middle])
        self._x = affine(self._knot.alpha, asked.data, self._knot.sigma, asked.noise[middle])

    def answer(self, index: Tensor | None = None, model: Predictor | None = None) -> Tensor:
        """The raw output for these rows."""
        rows = self._index if index is None else index
        model = (self._asked.model if model is None else model).rows(rows)
        self._asked.count(len(rows))
        return model(self._x[rows], self._knot).raw

    def differs(self, one: Tensor, other: Tensor) -> float:
        """The largest difference over the size of the answers, 0 where it is round-off."""
        size = float(one.double().square().mean().sqrt())
        gap = float((one.double() - other.double()).abs().max()) / max(size, 1e-300)
        return gap if not gap <= 2e3 * torch.finfo(dtype_of(self._asked.model)).eps else 0.0

    def mode(self) -> float:
        """What training mode changes: 0 for a network in evaluation mode, or without such layers.

        The network is in evaluation mode afterwards.
        """
        net = getattr(self._asked.model, "net", None)
        if not isinstance(net, nn.Module) or not any(m.training for m in net.modules()):
            return 0.0
        before = self.answer()
        net.eval()
        return self.differs(self.answer(), before)

    def repeats(self) -> float:
        """What a second call with the same input changes."""
        return self.differs(self.answer(), self.answer())

    def neighbours(self) -> float | None:
        """What other rows in the batch change in the first ones; None for too few data."""
        size = len(self._index)
        stay = (size + 1) // 2
        others = torch.arange(size, 2 * size - stay, device=self._index.device)
        if len(others) == 0 or int(others[-1]) >= len(self._x):
            return None
        swapped = torch.cat([self._index[:stay], others])
        return self.differs(self.answer()[:stay], self.answer(swapped)[:stay])

    def ignored_conditions(self) -> tuple[list[str], list[str]]:
        """Conditions whose change changes nothing, and those that could not be changed."""
        model = self._asked.model
        ignored: list[str] = []
        unknown: list[str] = []
        if not isinstance(model, ScoreModel):
            return ignored, unknown
        before = self.answer() if model.conditions else None
        for name, value in model.conditions.items():
            changed = _changed(value, len(self._asked.data))
            if before is None or changed is None:
                unknown.append(name)
                continue
            other = ScoreModel(
                model.net, model.sde, predicts=model.predicts, time=model.time,
                output=model.output, net_dtype=model.net_dtype,
            )  # fmt: skip
            other.conditions = {**model.conditions, name: changed}
            try:
                if self.differs(before, self.answer(model=other)) == 0.0:
                    ignored.append(name)
            except (RuntimeError, ValueError, IndexError, TypeError):
                unknown.append(name)
        return ignored, unknown


def _changed(value: Any, n: int) -> Any:
    """Another value of a condition, of the same kind; None where it is not known what to take."""
    if is_label(value):
        return value - 1 if value > 0 else value + 1
    if isinstance(value, Labels | str | bool) or value is None:
        return None
    found = 0

    def leaf(path: str, value: Any) -> Any:
        nonlocal found
        inner = value.value if isinstance(value, Shared) else value
        if not isinstance(inner, Tensor):
            return value
        found += 1
        if inner.is_floating_point():
            made = -inner + 1.0
        elif inner.dtype == torch.bool:
            made = ~inner
        else:  # stays among the values that occur, which a table of embeddings has
            top = int(inner.max())
            made = torch.where(inner > 0, inner - 1, max(top, 1))
        return Shared(made) if isinstance(value, Shared) else made

    made = tree_map(leaf, "", value)
    return made if found else None
