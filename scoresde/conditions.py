"""Conditions of a network: with one row per sample, or shared by all samples.

Conditions may be nested in dictionaries, lists, tuples and dataclasses (`added_cond_kwargs` of
SDXL), to any depth. A container is copied only if something in it changes.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DtypeError, ShapeError


@dataclass(frozen=True, eq=False)
class Shared:
    """Marks a condition for the batch as a whole, which the network receives as it is."""

    value: Any


@dataclass(frozen=True)
class Labels:
    """Labels of a batch: whole numbers, each for an equal part of the batch, in order.

    A condition `y=3`, one label for all samples, is `Labels((3,))`. Guidance in one call gives
    one label to the first half of the batch and another to the second half.

    Attributes:
        values: the labels.
    """

    values: tuple[int, ...]

    def tensor(self, x: Tensor) -> Tensor:
        """The label of each sample of x, shape (B,), long."""
        size = x.shape[0] // len(self.values)
        parts = [torch.full((size,), n, dtype=torch.long, device=x.device) for n in self.values]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


def is_label(value: Any) -> bool:
    """Whether a condition is a whole number. A bool is not: it is a switch."""
    return isinstance(value, int) and not isinstance(value, bool)


def tree_map(fn: Callable[..., Any], path: str, tree: Any, *others: Any) -> Any:
    """The tree with every leaf replaced by `fn(path, leaf, *leaves of the others)`.

    If another tree has a different structure at some place, `fn` receives the whole parts there.

    Args:
        fn: a function that returns the new leaf; `path` says in words where the leaf is.
        path: name of the tree.
        tree: dictionaries, lists, tuples and dataclasses; anything else is a leaf.
        others: further trees, which give leaves at the same places.
    """
    children = _children(tree)
    beside = [_children(other) for other in others]
    if children is None or any(
        other is None or other.keys() != children.keys() for other in beside
    ):
        return fn(path, tree, *others)
    made = {
        key: tree_map(
            fn, _place(tree, path, key), child, *(o[key] for o in beside if o is not None)
        )
        for key, child in children.items()
    }
    if all(made[key] is child for key, child in children.items()):
        return tree
    return _rebuilt(tree, made)


def checked(name: str, value: Any) -> Any:
    """A condition as `bind` stores it: arrays as tensors, numpy's numbers as Python's.

    Raises:
        DtypeError: for a list or tuple of numbers or strings: it is not clear whether that is one
            value per sample or one value for all.
        ShapeError: for a tensor without a batch.
    """

    def leaf(path: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = torch.as_tensor(value)
        elif isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Tensor) and value.ndim == 0:
            raise ShapeError(
                f"condition {path!r} is a tensor without a batch; give one row per sample, or "
                f"write bind({name}=Shared(...)) if all samples share it"
            )
        return value

    _check_lists(name, name, value)
    return tree_map(leaf, name, value)


def _check_lists(name: str, path: str, value: Any) -> None:
    if isinstance(value, list | tuple):
        for item in value:
            whole = isinstance(item, Tensor | np.ndarray | Shared) or _children(item) is not None
            if item is not None and not whole:
                raise DtypeError(
                    f"condition {path!r} is a {type(value).__name__} of {type(item).__name__}, "
                    "which could be one value per sample or one value for all; write "
                    "torch.tensor(...) or Shared(...)"
                )
    for key, child in (_children(value) or {}).items():
        _check_lists(name, _place(value, path, key), child)


def rows_of(conditions: dict[str, Any], index: Tensor) -> dict[str, Any]:
    """The conditions of a batch made of these samples (a LongTensor; indices may repeat)."""

    def leaf(path: str, value: Any) -> Any:
        return value[index.to(value.device)] if isinstance(value, Tensor) else value

    return {name: tree_map(leaf, name, value) for name, value in conditions.items()}


def for_network(name: str, value: Any, x: Tensor) -> Any:
    """A condition as the network receives it, with x of shape (B, *): a copy, unless it is shared.

    Raises:
        ShapeError: if a tensor in it does not have as many rows as x.
    """

    def leaf(path: str, value: Any) -> Any:
        if isinstance(value, Shared):
            return value.value
        if isinstance(value, Tensor) and value.shape[:1] != x.shape[:1]:
            raise ShapeError(
                f"condition {path!r} has shape {tuple(value.shape)} for a batch of {x.shape[0]}; "
                f"give one row per sample, or write bind({name}=Shared(...)) if all share it"
            )
        return value.clone() if isinstance(value, Tensor) else value

    if is_label(value):
        value = Labels((value,))
    if isinstance(value, Labels):
        return value.tensor(x)
    return tree_map(leaf, name, value)


def batch_of(conditions: Mapping[str, Any]) -> set[int]:
    """The numbers of rows of all tensors in the conditions; a single number if they agree."""
    found: set[int] = set()

    def leaf(path: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            found.add(value.shape[0])
        return value

    for name, value in conditions.items():
        tree_map(leaf, name, value)
    return found


def _children(tree: Any) -> dict[Any, Any] | None:
    if isinstance(tree, Tensor | Shared | Labels | str | type):
        return None
    if dataclasses.is_dataclass(tree):
        return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}
    if isinstance(tree, Mapping):
        return dict(tree)
    return dict(enumerate(tree)) if isinstance(tree, list | tuple) else None


def _place(tree: Any, path: str, key: Any) -> str:
    return f"{path}.{key}" if dataclasses.is_dataclass(tree) else f"{path}[{key!r}]"


def _rebuilt(tree: Any, children: dict[Any, Any]) -> Any:
    if type(tree) is dict:
        return children
    if isinstance(tree, tuple):
        named = hasattr(tree, "_fields")
        return type(tree)(*children.values()) if named else tuple(children.values())
    if isinstance(tree, list):
        return list(children.values())
    new = copy.copy(tree)
    if dataclasses.is_dataclass(tree):
        for key, child in children.items():
            object.__setattr__(new, key, child)  # works for frozen dataclasses too
    else:
        for key, child in children.items():
            new[key] = child
    return new
