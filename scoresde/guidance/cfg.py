r"""Classifier-free guidance.

The guided score is score_u + scale (score_c - score_u), of a model with a condition (c) and
without it (u): scale 0 ignores the condition, 1 is the conditional model, and more goes beyond
it. It is 1 + w for the w of Ho & Salimans, "Classifier-Free Diffusion Guidance", 2022, eq. 6.

eps, x0, v and every other output are affine in the score with the same x, and the two weights
sum to one, so that the raw outputs may be combined, whatever the network predicts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..model import Predictor, Shared
from ..prediction import Prediction
from ..scalar import affine
from ..sde import SDE
from ..sde.knot import Knot


class Bindable(Predictor, Protocol):
    """A predictor that takes keyword conditions, such as a `ScoreModel`."""

    def bind(self, **conditions: Any) -> Bindable:
        """The same model with these conditions."""

    def rows(self, index: Tensor) -> Bindable:
        """See `Predictor`."""


class CFG:
    """A model under classifier-free guidance; itself a `Predictor`.

    Any solver takes it, and so does any likelihood: what they then follow is the *guided flow*,
    the probability-flow ODE with the guided score in it, and a density computed under guidance
    is that of the guided flow. For a scale other than 0 and 1 the guided score is not the score
    of noised data, so this is neither the density of the conditional model nor that of the
    distribution proportional to p_u (p_c / p_u)^scale.

    Costs 2 network evaluations a call, also where they are one call with 2 B samples.

    Args:
        model: what takes the conditions by `bind`, such as a `ScoreModel`; conditions that both
            sides share may be bound before.
        cond: conditions of the guided side. As in `ScoreModel.bind`, a tensor or array has one
            row a sample, and `Shared(tensor)` belongs to the whole batch.
        uncond: conditions of the side without. A number that faces a tensor in `cond` stands
            for a tensor full of it: `cond=dict(y=labels), uncond=dict(y=10)`.
        scale: how far to go from `uncond` (0) to `cond` (1) and beyond.
        batched: one call with the batch twice over, or two calls. The results are the same to
            round-off, as long as the network treats its samples one by one.

    Raises:
        ConfigError: if the two sides cannot go through one call.
        ShapeError: if their rows differ.
    """

    def __init__(
        self,
        model: Bindable,
        *,
        cond: Mapping[str, Any],
        uncond: Mapping[str, Any],
        scale: float,
        batched: bool = True,
    ) -> None:
        cond, uncond = _filled(cond, uncond), _filled(uncond, cond)
        self.scale = float(scale)
        self._batch: int | None = None
        self._calls: tuple[Predictor, ...] = (model.bind(**cond), model.bind(**uncond))
        if batched:
            joined, self._batch = _joined(cond, uncond)
            twice = torch.arange(self._batch).repeat(2)
            self._calls = (model.rows(twice).bind(**joined),)

    @classmethod
    def pair(cls, conditional: Predictor, unconditional: Predictor, *, scale: float) -> CFG:
        """Guidance between any two predictors of one process, in two calls.

        The second may be a network without conditions, or a weaker one (Karras et al., "Guiding a
        Diffusion Model with a Bad Version of Itself", 2024). They need not predict the same.

        Raises:
            ConfigError: if their processes differ.
        """
        if conditional.sde != unconditional.sde:
            raise ConfigError(
                f"guidance needs one process, got {conditional.sde!r} and {unconditional.sde!r}"
            )
        return cls._of((conditional, unconditional), float(scale))

    @classmethod
    def _of(cls, calls: tuple[Predictor, ...], scale: float, batch: int | None = None) -> CFG:
        guided = cls.__new__(cls)
        guided._calls, guided.scale, guided._batch = calls, scale, batch
        return guided

    @property
    def sde(self) -> SDE:
        """The process, one for both sides."""
        return self._calls[0].sde

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the networks, so that a driver finds their device."""
        for call in self._calls:
            if isinstance(call, nn.Module | CFG):
                yield from call.parameters()

    def rows(self, index: Tensor) -> CFG:
        """See `Predictor`; the conditions of both sides follow."""
        if self._batch is None:
            return self._of(tuple(call.rows(index) for call in self._calls), self.scale)
        twice = torch.cat([index, index + self._batch])
        return self._of((self._calls[0].rows(twice),), self.scale, len(index))

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The guided prediction at x, shape (B, *), and a knot.

        Raises:
            ShapeError: if the conditions are of another batch than x.
        """
        if self._batch is None:
            cond, uncond = (call(x, knot) for call in self._calls)
        elif len(x) == self._batch:
            both = self._calls[0](torch.cat([x, x]), Knot(*map(_twice, knot)))
            cond, uncond = (
                Prediction(
                    x, knot, both.raw[part], both.predicts, both.cost,
                    None if both.share is None else both.share[part],
                )
                for part in (slice(len(x)), slice(len(x), None))
            )  # fmt: skip
        else:
            raise ShapeError(
                f"the conditions under guidance are {self._batch} rows, the state has {len(x)}; "
                "give cond and uncond one row a sample"
            )
        raw = cond.raw
        if cond.predicts != uncond.predicts:
            raw = uncond.predicts.target(cond.x0, cond.eps, knot)
        mixed = affine(self.scale, raw, 1.0 - self.scale, uncond.raw)
        # A variance is the conditional network's, as in GLIDE and DiT: it is no score to be mixed.
        cost = cond.cost + uncond.cost
        return Prediction(x, knot, mixed, uncond.predicts, cost, cond.share)


def _twice(value: Any) -> Any:
    """A field of a knot for the batch twice over: shape (B, 1, ...) to (2 B, 1, ...)."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim else value


def _filled(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Conditions with arrays as tensors, and numbers that face a tensor as tensors too."""
    filled = {}
    for name, value in mine.items():
        facing = other.get(name)
        if isinstance(facing, np.ndarray):
            facing = torch.as_tensor(facing)
        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        elif isinstance(facing, Tensor) and isinstance(value, _kinds(facing)):
            value = torch.full_like(facing, value)
        filled[name] = value
    return filled


def _kinds(tensor: Tensor) -> Any:
    return int | float if tensor.is_floating_point() else int


def _joined(cond: dict[str, Any], uncond: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """The conditions of one call for both sides, `cond` first, and the size of the batch."""
    joined: dict[str, Any] = {}
    batches: set[int] = set()
    for name in [*cond, *(name for name in uncond if name not in cond)]:
        c, u = cond.get(name), uncond.get(name)
        if isinstance(c, Tensor) and isinstance(u, Tensor):
            if c.shape != u.shape:
                raise ShapeError(
                    f"condition {name!r} has shape {tuple(c.shape)} in cond and {tuple(u.shape)} "
                    "in uncond; give both one row a sample, such as null.expand_as(labels)"
                )
            joined[name] = torch.cat([c, u])
            batches.add(len(c))
        elif name in cond and name in uncond and _same(c, u):
            joined[name] = c
        else:
            raise ConfigError(
                f"condition {name!r} is {_brief(cond, name)} in cond and {_brief(uncond, name)} in "
                "uncond, which cannot go through one call; give both one row a sample, or write "
                "batched=False"
            )
    if len(batches) != 1:
        raise ConfigError(
            f"one call for both sides needs conditions with one row a sample, got batches of "
            f"{sorted(batches)}; write batched=False for two calls"
        )
    return joined, batches.pop()


def _same(c: Any, u: Any) -> bool:
    if isinstance(c, Shared) and isinstance(u, Shared):
        return c.value is u.value
    return c is u or (isinstance(c, int | float | str) and type(c) is type(u) and c == u)


def _brief(conditions: dict[str, Any], name: str) -> str:
    if name not in conditions:
        return "absent"
    value = conditions[name]
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "shared" if isinstance(value, Shared) else repr(value)
