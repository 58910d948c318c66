"""Graphs for derivatives: whether one leads to an input, and how to have one at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from ..errors import GraphError

T = TypeVar("T")


def check_graph(out: Tensor, x: Tensor, what: str) -> None:
    """Raise GraphError where derivatives with respect to x are wanted and `out` has none.

    In reverse mode only the graph is followed, in forward mode the tangent is looked for; nothing
    is computed. A network of which one part is cut off and another is not is not found.

    Args:
        out: what was computed from x.
        x: the input.
        what: what computed it, for the message.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        cut = not _leads_to(out, x)
    else:
        cut = _has_tangent(x) and not _has_tangent(out)
    if cut:
        raise GraphError(
            f"{what} has no graph that leads to its input, so that its derivative would be taken "
            "as 0: look for no_grad, inference_mode, detach, .data or numpy inside and remove "
            "them. If the output does not depend on x at all, say so: return out + 0 * x"
        )


def with_graph(fn: Callable[[], T], reverse: bool = True) -> T:
    """fn() with derivatives, also under `torch.inference_mode()` and with tensors made there.

    `reverse` enables gradients; forward mode needs none.

    Autograd refuses tensors that were made in inference mode; each function of torch gets clones.
    """
    if not torch.is_inference_mode_enabled():
        try:
            with torch.set_grad_enabled(reverse):
                return fn()
        except RuntimeError as error:
            if "nference tensor" not in str(error):
                raise
    with torch.inference_mode(False), torch.set_grad_enabled(reverse), _Clones():
        return fn()


def _has_tangent(x: Tensor) -> bool:
    return unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]


def _leads_to(out: Tensor, x: Tensor) -> bool:
    """Whether x is among what `out` was computed from."""
    if out is x:
        return True
    target, todo = x.grad_fn, [out.grad_fn]
    seen = set()  # of nodes, which are kept alive while their ids count
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node is target or getattr(node, "variable", None) is x:
            return True
        # The first input is the activation as a rule; depth first, it leads to x soonest.
        todo.extend(parent for parent, _ in reversed(node.next_functions))
    return False


class _Clones(TorchFunctionMode):
    """Functions of torch see normal tensors in place of those made in inference mode."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """See `TorchFunctionMode`."""
        args, kwargs = tree_map_only(Tensor, self._normal, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _normal(self, tensor: Tensor) -> Tensor:
        if not tensor.is_inference():
            return tensor
        if id(tensor) not in self.known:
            copy = tensor.clone()
            self.known[id(tensor)] = tensor, copy
        return self.known[id(tensor)][1]
