r"""Classifier-free guidance.

The guided score is score_u + scale (score_c - score_u), for a model with a condition (c) and
without it (u). Scale 0 ignores the condition, 1 is the conditional model, larger values strengthen
the condition. scale = 1 + w with the w of Ho & Salimans, "Classifier-Free Diffusion Guidance",
2022, eq. 6.

At a given x, eps, x0, v and every other output are affine in the score, and the two weights sum to
one. So the raw outputs may be combined in the same way, whatever the network predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..conditions import Labels, Shared, batch_of, checked, is_label, tree_map
from ..errors import ConfigError, ShapeError
from ..model import Predictor
from ..prediction import Prediction
from ..scalar import affine
from ..sde.knot import Knot
from ..wrapper import Wrapper


class Bindable(Predictor, Protocol):
    """A predictor that takes keyword conditions, such as a `ScoreModel`."""

    def bind(self, **conditions: Any) -> Bindable:
        """The same model with these conditions."""

    def rows(self, index: Tensor) -> Bindable:
        """See `Predictor`."""


class CFG(Wrapper):
    """A model under classifier-free guidance, which is itself a `Predictor`.

    Every solver and every likelihood accepts it. They then follow the *guided flow*: the
    probability-flow ODE with the guided score. A likelihood is the density of the guided flow. For
    a scale other than 0 and 1 the guided score is not the score of noisy data, so this is neither
    the density of the conditional model nor that of the distribution proportional to
    p_u (p_c / p_u)^scale.

    A call costs 2 network evaluations per sample, also if it is one call with 2 B samples: `nfe=40`
    of `sample`, `compare` and `tune` is 20 guided calls.

    Args:
        model: a model with a method `bind`, such as a `ScoreModel`. Conditions that both sides
            share may be bound to it before.
        cond: conditions of the guided side, as in `ScoreModel.bind`: a tensor or array has one
            row per sample, a whole number is the label of all samples, and `Shared(tensor)`
            belongs to the whole batch.
        uncond: conditions of the other side. A number here stands for a tensor filled with it, if
            `cond` has a tensor at the same place: `cond=dict(y=labels), uncond=dict(y=10)`.
        scale: 0 for `uncond`, 1 for `cond`, larger values for stronger guidance.
        batched: evaluate both sides in one call with 2 B samples, or in two calls. The results
            agree to round-off if the network treats each sample independently.

    Raises:
        ConfigError: if the conditions of the two sides do not fit into one call.
        DtypeError: for a list of numbers, see `ScoreModel.bind`.
        ShapeError: if the two sides have different numbers of rows.
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
        cond, uncond = ({k: checked(k, v) for k, v in side.items()} for side in (cond, uncond))
        cond, uncond = _filled(cond, uncond), _filled(uncond, cond)
        self.scale, self._one_call = float(scale), batched
        # The number of samples for which conditions are given; None if they fit any number.
        self._batch: int | None = None
        if not batched:
            super().__init__(model.bind(**cond), model.bind(**uncond))
            return
        joined = _joined(cond, uncond)
        self._batch = _batch(cond, uncond, getattr(model, "conditions", {}))
        if self._batch is not None:
            model = model.rows(torch.arange(self._batch).repeat(2))
        super().__init__(model.bind(**joined))

    @classmethod
    def pair(cls, conditional: Predictor, unconditional: Predictor, *, scale: float) -> CFG:
        """Guidance between any two predictors of one process, in two calls.

        The second may be a network without conditions, or a weaker one (Karras et al., "Guiding a
        Diffusion Model with a Bad Version of Itself", 2024). Their parametrizations may differ.

        Raises:
            ConfigError: if their processes differ.
        """
        guided = cls.__new__(cls)
        Wrapper.__init__(guided, conditional, unconditional)
        guided.scale, guided._one_call, guided._batch = float(scale), False, None
        return guided

    @property
    def evals_per_call(self) -> int:
        """Network evaluations of one call: those of both sides, also where they are one call."""
        return (2 if self._one_call else 1) * super().evals_per_call

    def rows(self, index: Tensor) -> Self:
        """See `Predictor`; rows of the conditions of both sides are selected."""
        if not self._one_call:
            return super().rows(index)
        if self._batch is None:  # no condition has one row per sample
            return self
        part = super().rows(torch.cat([index, index + self._batch]))
        part._batch = len(index)
        return part

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The guided prediction at x, shape (B, *), and a knot.

        Raises:
            ShapeError: if the conditions do not have as many rows as x.
        """
        if not self._one_call:
            cond, uncond = (model(x, knot) for model in self.models)
        elif self._batch is None or len(x) == self._batch:
            both = self.models[0](torch.cat([x, x]), Knot(*map(_twice, knot)))
            cond, uncond = (
                Prediction(
                    x, knot, both.raw[part], both.predicts, both.cost,
                    None if both.share is None else both.share[part],
                )
                for part in (slice(len(x)), slice(len(x), None))
            )  # fmt: skip
        else:
            raise ShapeError(
                f"the conditions under guidance have {self._batch} rows, the state has {len(x)}; "
                "give cond and uncond one row per sample"
            )
        raw = cond.raw
        if cond.predicts != uncond.predicts:
            raw = uncond.predicts.target(cond.x0, cond.eps, knot)
        mixed = affine(self.scale, raw, 1.0 - self.scale, uncond.raw)
        # The variance is that of the conditional side, as in GLIDE and DiT: it must not be mixed.
        cost = cond.cost + uncond.cost
        return Prediction(x, knot, mixed, uncond.predicts, cost, cond.share)


def _twice(value: Any) -> Any:
    """A field of a knot for two copies of the batch: shape (B, 1, ...) to (2 B, 1, ...)."""
    return torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim else value


def _filled(mine: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """`mine`, with a number replaced by a tensor filled with it if `other` has a tensor there."""

    def leaf(path: str, value: Any, facing: Any) -> Any:
        if isinstance(facing, Tensor) and isinstance(value, _kinds(facing)):
            return torch.full_like(facing, value)
        return value

    return {name: tree_map(leaf, name, value, other.get(name)) for name, value in mine.items()}


def _kinds(tensor: Tensor) -> Any:
    return int | float if tensor.is_floating_point() else int


def _joined(cond: dict[str, Any], uncond: dict[str, Any]) -> dict[str, Any]:
    """The conditions of one call for both sides, `cond` first."""

    def leaf(path: str, c: Any, u: Any) -> Any:
        if isinstance(c, Tensor) and isinstance(u, Tensor):
            if c.shape != u.shape:
                raise ShapeError(
                    f"condition {path!r} has shape {tuple(c.shape)} in cond and {tuple(u.shape)} "
                    "in uncond; give both one row per sample, such as null.expand_as(labels)"
                )
            return torch.cat([c, u])
        if _same(c, u):
            return c
        if is_label(c) and is_label(u) and path in cond:
            return Labels((c, u))
        raise _apart(path, _brief(c), _brief(u))

    for name in cond.keys() ^ uncond.keys():
        sides = (_brief(side[name]) if name in side else "absent" for side in (cond, uncond))
        raise _apart(name, *sides)
    if not cond:
        raise ConfigError(
            "guidance in one call needs conditions, such as cond=dict(y=labels), "
            "uncond=dict(y=10), got none; write batched=False for two calls"
        )
    return {name: tree_map(leaf, name, value, uncond[name]) for name, value in cond.items()}


def _apart(path: str, cond: str, uncond: str) -> ConfigError:
    return ConfigError(
        f"condition {path!r} is {cond} in cond and {uncond} in uncond, which does not fit into one "
        "call; give both one row per sample, or write batched=False"
    )


def _batch(*sides: Mapping[str, Any]) -> int | None:
    """The number of samples for which conditions are given; None if they fit any number.

    Raises:
        ShapeError: if conditions have different numbers of rows.
    """
    sizes = set().union(*map(batch_of, sides))
    if len(sizes) > 1:
        raise ShapeError(
            f"conditions under guidance have one row per sample, got batches of {sorted(sizes)}; "
            "write Shared(tensor) for a condition that all samples share"
        )
    return next(iter(sizes), None)


def _same(c: Any, u: Any) -> bool:
    if isinstance(c, Shared) and isinstance(u, Shared):
        return c.value is u.value
    return c is u or (isinstance(c, int | float | str) and type(c) is type(u) and c == u)


def _brief(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "shared" if isinstance(value, Shared) else repr(value)
