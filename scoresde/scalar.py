"""Elementary functions of a *scalar*: a Python float, or a float64 tensor.

A time and everything computed from it is one of the two (see `scoresde.sde.Knot`). Floats give
floats, so a fixed grid needs no work on the device. Tensors give tensors, so training and
per-sample step control are vectorised. These functions keep full relative accuracy at both ends of
time, where `1 - exp(x)` does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Scalar = float | Tensor
"""A float, or a float64 tensor that broadcasts against the state."""


WITHOUT_FLOAT64 = {"mps"}
"""Kinds of devices that have no float64."""


def widest(device: torch.device) -> torch.dtype:
    """float64, or float32 on a device that has none."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def exp(x: Scalar) -> Scalar:
    """exp(x); a float that overflows gives inf, as a tensor does."""
    if isinstance(x, Tensor):
        return x.exp()
    return math.exp(x) if x < 709.7 else math.inf


def expm1(x: Scalar) -> Scalar:
    """exp(x) - 1 without cancellation near 0."""
    if isinstance(x, Tensor):
        return x.expm1()
    return math.expm1(x) if x < 709.7 else math.inf


def log(x: Scalar) -> Scalar:
    """log(x), with log(0) = -inf for floats too."""
    if isinstance(x, Tensor):
        return x.log()
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


def log1p(x: Scalar) -> Scalar:
    """log(1 + x) without cancellation near 0, with log1p(-1) = -inf for floats too."""
    if isinstance(x, Tensor):
        return x.log1p()
    return math.log1p(x) if x > -1 else (-math.inf if x == -1 else math.nan)


def sqrt(x: Scalar) -> Scalar:
    """Square root."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def reciprocal(x: Scalar) -> Scalar:
    """1 / x, with 1 / 0 = inf for floats too."""
    if isinstance(x, Tensor):
        return x.reciprocal()
    return 1.0 / x if x != 0.0 else math.inf


def sin(x: Scalar) -> Scalar:
    """Sine."""
    return x.sin() if isinstance(x, Tensor) else math.sin(x)


def asinh(x: Scalar) -> Scalar:
    """Inverse hyperbolic sine."""
    return x.asinh() if isinstance(x, Tensor) else math.asinh(x)


def hypot(x: Scalar, y: Scalar) -> Scalar:
    """sqrt(x^2 + y^2) without overflow."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return torch.hypot(*_both(x, y))
    return math.hypot(x, y)


def atan2(y: Scalar, x: Scalar) -> Scalar:
    """Angle of the point (x, y)."""
    if isinstance(x, Tensor) or isinstance(y, Tensor):
        return torch.atan2(*_both(y, x))
    return math.atan2(y, x)


def _both(x: Scalar, y: Scalar) -> tuple[Tensor, Tensor]:
    """x and y as tensors; at least one of them is a tensor."""
    if isinstance(x, Tensor):
        return x, y if isinstance(y, Tensor) else x.new_tensor(y)
    assert isinstance(y, Tensor)  # for the type checker
    return y.new_tensor(x), y


def log1mexp(x: Scalar) -> Scalar:
    """log(1 - exp(x)) for x <= 0, accurate at both ends (Maechler, 2012, eq. 7)."""
    if isinstance(x, Tensor):
        near = x > -math.log(2)
        # Where one branch is selected, the other gets a harmless argument: its gradient must be
        # finite too, although `where` discards the value.
        a = torch.where(near, x, torch.full_like(x, -1.0))
        b = torch.where(near, torch.full_like(x, -1.0), x)
        return torch.where(near, (-a.expm1()).log(), (-b.exp()).log1p())
    if x > -math.log(2):
        return log(-math.expm1(x))
    return math.log1p(-math.exp(x))


def softplus(x: Scalar) -> Scalar:
    """log(1 + exp(x)) to full precision (torch's own function is linear above 20)."""
    if isinstance(x, Tensor):
        return torch.logaddexp(x, torch.zeros_like(x))
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def derivative(fn: Callable[[Scalar], Scalar], t: Scalar) -> Scalar:
    """d fn / dt by automatic differentiation in float64; a float if t is a float."""
    # Inference mode records no graph, so the derivative would silently be 0.
    with torch.inference_mode(False), torch.enable_grad():
        u = torch.as_tensor(t, dtype=torch.float64).detach().clone().requires_grad_()
        value = fn(u)
        if not isinstance(value, Tensor) or not value.requires_grad:
            slope = torch.zeros_like(u)  # a constant, such as log(alpha) of a VE process
        else:
            (slope,) = torch.autograd.grad(value.sum(), u)
    return slope.detach() if isinstance(t, Tensor) else float(slope)


def affine(a: Scalar, x: Tensor, b: Scalar, y: Tensor) -> Tensor:
    """a x + b y in the dtype of x: all coefficients are applied to the state here.

    Floats never change the dtype of a tensor. Coefficient tensors are float64 until they are cast
    here, after all arithmetic between coefficients.
    """
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return scale(a, x) + scale(b, y)
    if b == 0.0:
        return scale(a, x)
    if a == 0.0:
        return scale(b, y)
    return torch.add(x if a == 1.0 else x * a, y, alpha=b)


def scale(a: Scalar, x: Tensor) -> Tensor:
    """a x in the dtype of x."""
    if isinstance(a, Tensor):
        return a.to(x.dtype) * x
    return x if a == 1.0 else x * a
