r"""Gaussian mixtures and Gaussians as models: score and density in closed form, for tests.

Under a linear Gaussian diffusion a Gaussian mixture stays a Gaussian mixture: at every time
component k has mean alpha mu_k and covariance P_k = alpha^2 C_k + sigma^2 I. With
responsibilities w_k(x),

    score = -sum_k w_k P_k^-1 (x - alpha mu_k)
    div score = sum_k w_k (|P_k^-1 (x - alpha mu_k)|^2 - tr P_k^-1) - |score|^2

A covariance is diagonal, or U diag(e) U^T + ridge I with orthonormal columns U. The second form
includes isotropic (no columns), low-rank and full covariances; only a full one stores a D x D
matrix. All arithmetic is float64 on the model's device, whatever the dtype of the state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from .. import noise
from ..errors import ConfigError, ShapeError
from ..prediction import EPS, X0, Prediction
from ..scalar import Scalar, scale
from ..sde import CLEAN, SDE
from ..sde.knot import Knot


class Covariance:
    """The covariances of K components: make one with `isotropic`, `diagonal`, `full`, `low_rank`.

    All numbers are float64. A single covariance serves all components.
    """

    @staticmethod
    def isotropic(variance: float | Sequence[float] | Tensor) -> Spectral:
        """The covariance variance I: one number for all components, or one per component."""
        ridge = torch.as_tensor(variance, dtype=torch.float64).reshape(-1)
        empty = ridge.new_zeros(1, 1, 0)
        return Spectral(empty, empty[:, 0], ridge)

    @staticmethod
    def diagonal(variances: Tensor) -> Diagonal:
        """Diagonal covariances diag(variances), with variances of shape (K or 1, *event)."""
        return Diagonal(torch.as_tensor(variances, dtype=torch.float64))

    @staticmethod
    def full(matrices: Tensor) -> Spectral:
        """Full covariance matrices, symmetric and positive, shape (K or 1, D, D)."""
        matrices = torch.as_tensor(matrices, dtype=torch.float64)
        e, u = torch.linalg.eigh(matrices)
        return Spectral(u, e, e.new_zeros(len(e)))

    @staticmethod
    def low_rank(factors: Tensor, ridge: float | Sequence[float] | Tensor) -> Spectral:
        """Low-rank covariances W W^T + ridge I, with factors W of shape (K or 1, D, r)."""
        factors = torch.as_tensor(factors, dtype=torch.float64)
        u, root, _ = torch.linalg.svd(factors, full_matrices=False)
        values = torch.as_tensor(ridge, dtype=torch.float64).reshape(-1)
        return Spectral(u, root * root, values.expand(len(u)))


@dataclass(frozen=True, eq=False)
class Spectral(Covariance):
    """Covariances U_k diag(e_k) U_k^T + ridge_k I of K components.

    Attributes:
        u: orthonormal columns, shape (K or 1, D, r). With r = 0, D = 1 stands for any dimension.
        e: variance along each column beyond the ridge, shape (K or 1, r).
        ridge: variance in every direction, shape (K or 1,).
    """

    u: Tensor
    e: Tensor
    ridge: Tensor


@dataclass(frozen=True, eq=False)
class Diagonal(Covariance):
    """Covariances diag(e_k), with e of shape (K or 1, *event)."""

    e: Tensor


class GaussianMixture:
    """The exact model of data from a Gaussian mixture.

    It is a `Predictor`, so every solver and every likelihood accepts it.

    Args:
        sde: the process.
        means: shape (K, *event).
        covariance: such as `Covariance.isotropic(0.05)` or `Covariance.full(matrices)`.
        weights: shape (K,), positive; they are normalised. Equal by default.

    Raises:
        ShapeError: if covariances or weights do not fit the means.
        ConfigError: for weights or variances that are not positive.
    """

    floor = 0.0
    """See `scoresde.model.floor_of`: a closed form has no error of its own."""

    def __init__(
        self,
        sde: SDE,
        means: Tensor,
        covariance: Spectral | Diagonal,
        weights: Sequence[float] | Tensor | None = None,
    ) -> None:
        means = torch.as_tensor(means, dtype=torch.float64)
        if means.ndim < 2:
            raise ShapeError(f"means must have shape (K, *event), got {tuple(means.shape)}")
        if not isinstance(covariance, Spectral | Diagonal):
            raise ConfigError(
                f"covariance must be a Covariance, got {type(covariance).__name__}; write "
                "Covariance.isotropic(0.05) for 0.05 I"
            )
        k = len(means)
        self._sde = sde
        self.event_shape = means.shape[1:]
        self._family: _Family = (
            _DiagonalFamily(means.reshape(k, -1), covariance)
            if isinstance(covariance, Diagonal)
            else _SpectralFamily(means.reshape(k, -1), covariance)
        )
        probs = torch.as_tensor([1.0] * k if weights is None else weights, dtype=torch.float64)
        if probs.shape != (k,):
            raise ShapeError(f"expected {k} weights, one per mean, got shape {tuple(probs.shape)}")
        if not bool((probs > 0).all()):
            raise ConfigError(f"weights must be positive, got {probs.tolist()}")
        self._log_weights = (probs / probs.sum()).log().to(means.device)

    @property
    def sde(self) -> SDE:
        """The process."""
        return self._sde

    @property
    def device(self) -> torch.device:
        """The device on which it computes."""
        return self._log_weights.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype in which it computes, float64."""
        return self._log_weights.dtype

    @property
    def means(self) -> Tensor:
        """Means of the components, shape (K, *event), float64."""
        return self._family.means.reshape(-1, *self.event_shape)

    @property
    def covariance(self) -> Spectral | Diagonal:
        """Covariances of the components for flattened samples of D coordinates."""
        return self._family.covariance

    @property
    def weights(self) -> Tensor:
        """Weights of the components, shape (K,), float64, summing to 1."""
        return self._log_weights.exp()

    def rows(self, index: Tensor) -> GaussianMixture:
        """See `Predictor`: the model itself, since it has no conditions."""
        return self

    def to(self, device: torch.device | str) -> GaussianMixture:
        """The same mixture on another device."""
        moved = object.__new__(type(self))
        moved.__dict__.update(self.__dict__)
        moved._family = self._family.to(device)
        moved._log_weights = self._log_weights.to(device)
        return moved

    def __call__(self, x: Tensor, knot: Knot) -> Prediction:
        """The exact prediction at x, shape (B, *event)."""
        at = self._at(x, knot)
        if knot.is_zero_snr:  # x is pure noise, so E[x0 | x] is the mean of the data
            mean = self._log_weights.exp() @ self._family.means
            return Prediction(x, knot, self._state(mean.expand(len(x), -1), x), X0)
        score = self._score(at)
        return Prediction(x, knot, self._state(-at.sigma * score, x), EPS)

    def score(self, x: Tensor, t: Scalar | Knot) -> Tensor:
        """Gradient of log p_t(x), shape (B, *event); t is a float, a tensor (B,) or a knot."""
        return self._state(self._score(self._at(x, t)), x)

    def divergence(self, x: Tensor, t: Scalar | Knot) -> Tensor:
        """Trace of the score's Jacobian, the Laplacian of log p_t, shape (B,)."""
        at = self._at(x, t)
        weights = self._responsibilities(at)
        inner = self._family.solved_square(at) - self._family.trace(at)
        total = (weights * inner).sum(1) - self._score(at).square().sum(1)
        return total.to(x.dtype)

    def responsibilities(self, x: Tensor, t: Scalar | Knot) -> Tensor:
        """Probability that x at t came from each component, shape (B, K), float64."""
        return self._responsibilities(self._at(x, t))

    def log_prob(self, x: Tensor, t: Scalar | Knot = CLEAN) -> Tensor:
        """log p_t(x) in nats, shape (B,); by default the log-density of the data."""
        return torch.logsumexp(self._log_joint(self._at(x, t)), 1).to(x.dtype)

    def sample(
        self,
        n: int,
        t: Scalar | Knot | None = None,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """n exact draws from p_t, or from the data if t is None, shape (n, *event)."""
        device = self._log_weights.device
        generator = noise.generator(seed, device=device)
        which = torch.multinomial(self._log_weights.exp(), n, replacement=True, generator=generator)
        x = self._family.draw(which, generator)
        if t is not None:
            knot = t if isinstance(t, Knot) else self._sde.at(t, like=x)
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=device)
            x = scale(knot.alpha, x) + scale(knot.sigma, z)
        return x.reshape(n, *self.event_shape).to(dtype)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean, shape (*event), and covariance matrix, shape (D, D), of the data."""
        weights = self._log_weights.exp()
        mean = weights @ self._family.means
        centred = self._family.means - mean
        between = torch.einsum("k,ki,kj->ij", weights, centred, centred)
        return mean.reshape(self.event_shape), between + self._family.mean_covariance(weights)

    # -- helpers ----------------------------------------------------------------------------

    def _at(self, x: Tensor, t: Scalar | Knot) -> _At:
        if x.shape[1:] != self.event_shape:
            raise ShapeError(
                f"expected a state of shape (B, {', '.join(map(str, self.event_shape))}), "
                f"got {tuple(x.shape)}"
            )
        flat = x.to(torch.float64).reshape(len(x), self._family.means.shape[1])
        knot = t if isinstance(t, Knot) else self._sde.at(t, like=x)
        alpha, sigma = (
            torch.as_tensor(value, dtype=torch.float64, device=x.device).reshape(-1, 1)
            for value in (knot.alpha, knot.sigma)
        )
        return self._family.at(flat, alpha, sigma)

    def _log_joint(self, at: _At) -> Tensor:
        d = self._family.means.shape[1]
        normal = -0.5 * (self._family.square(at) + self._family.log_det(at))
        return self._log_weights + normal - 0.5 * d * math.log(2 * math.pi)

    def _responsibilities(self, at: _At) -> Tensor:
        return torch.softmax(self._log_joint(at), 1)

    def _score(self, at: _At) -> Tensor:
        return -self._family.solve(at, self._responsibilities(at))

    def _state(self, flat: Tensor, x: Tensor) -> Tensor:
        return flat.reshape(x.shape).to(x.dtype)


class Gaussian(GaussianMixture):
    """One Gaussian, whose probability flow is a linear map known in closed form.

    Args:
        sde: the process.
        mean: shape (*event).
        covariance: of one component.
    """

    def __init__(self, sde: SDE, mean: Tensor, covariance: Spectral | Diagonal) -> None:
        super().__init__(sde, torch.as_tensor(mean)[None], covariance)

    def flow(self, x: Tensor, t: Knot, s: Knot) -> Tensor:
        """The exact solution of the probability flow at knot s, from x, shape (B, *event), at t.

        x_s = alpha_s mu + P_s^(1/2) P_t^(-1/2) (x - alpha_t mu); P_s and P_t commute.
        """
        at = self._at(x, t)
        alpha, sigma = (at.alpha.new_tensor([[float(v)]]) for v in (s.alpha, s.sigma))
        moved = self._family.rescale(at, alpha, sigma)
        return self._state(alpha * self._family.means + moved, x)


class _At(NamedTuple):
    """A flattened state at a time, with the values that every formula uses.

    Attributes:
        x: shape (B, D).
        alpha, sigma: shape (B or 1, 1).
        offset: x - alpha mu_k in each component's coordinates, shape (B, K, r).
        variance: eigenvalues of P_k in the same coordinates, shape (B or 1, K, r).
        rest: squared length of the offset outside the coordinates, shape (B, K), or None.
        ridge: variance outside the coordinates, shape (B or 1, K), or None.
    """

    x: Tensor
    alpha: Tensor
    sigma: Tensor
    offset: Tensor
    variance: Tensor
    rest: Tensor | None
    ridge: Tensor | None


class _Family(ABC):
    """The linear algebra of K components with means of shape (K, D)."""

    means: Tensor

    @property
    @abstractmethod
    def covariance(self) -> Spectral | Diagonal: ...

    @abstractmethod
    def to(self, device: torch.device | str) -> _Family: ...

    @abstractmethod
    def at(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> _At: ...

    @abstractmethod
    def solve(self, at: _At, weights: Tensor) -> Tensor:
        """sum_k w_k P_k^-1 (x - alpha mu_k), shape (B, D)."""

    @abstractmethod
    def rescale(self, at: _At, alpha: Tensor, sigma: Tensor) -> Tensor:
        """The offset of a single component after the flow to another time, shape (B, D)."""

    @abstractmethod
    def draw(self, which: Tensor, generator: torch.Generator) -> Tensor: ...

    @abstractmethod
    def mean_covariance(self, weights: Tensor) -> Tensor: ...

    def _outside(self) -> int:
        """The number of directions orthogonal to all columns."""
        return 0

    def square(self, at: _At) -> Tensor:
        """(x - alpha mu_k)^T P_k^-1 (x - alpha mu_k), shape (B, K)."""
        inside = (at.offset.square() / at.variance).sum(2)
        if at.rest is None or at.ridge is None:
            return inside
        return inside + at.rest / at.ridge

    def solved_square(self, at: _At) -> Tensor:
        """|P_k^-1 (x - alpha mu_k)|^2, shape (B, K)."""
        inside = (at.offset / at.variance).square().sum(2)
        if at.rest is None or at.ridge is None:
            return inside
        return inside + at.rest / at.ridge.square()

    def log_det(self, at: _At) -> Tensor:
        """log det P_k, shape (B or 1, K)."""
        inside = at.variance.log().sum(2)
        return inside if at.ridge is None else inside + self._outside() * at.ridge.log()

    def trace(self, at: _At) -> Tensor:
        """tr P_k^-1, shape (B or 1, K)."""
        inside = at.variance.reciprocal().sum(2)
        return inside if at.ridge is None else inside + self._outside() / at.ridge


class _DiagonalFamily(_Family):
    def __init__(self, means: Tensor, covariance: Diagonal) -> None:
        self.means = means
        e = covariance.e.reshape(len(covariance.e), -1).to(means)
        if e.shape[1] != means.shape[1] or len(e) not in (1, len(means)):
            raise ShapeError(
                f"variances of shape {tuple(covariance.e.shape)} do not fit {len(means)} means of "
                f"{means.shape[1]} coordinates; expected (K, *event)"
            )
        _check_variances(e)
        self.e = e.expand(means.shape)

    @property
    def covariance(self) -> Diagonal:
        return Diagonal(self.e)

    def to(self, device: torch.device | str) -> _DiagonalFamily:
        return _DiagonalFamily(self.means.to(device), Diagonal(self.e.to(device)))

    def at(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> _At:
        a, s = alpha[..., None], sigma[..., None]
        return _At(x, alpha, sigma, x[:, None] - a * self.means, a * a * self.e + s * s, None, None)

    def solve(self, at: _At, weights: Tensor) -> Tensor:
        return torch.einsum("bk,bkd->bd", weights, at.offset / at.variance)

    def rescale(self, at: _At, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = alpha**2 * self.e + sigma**2
        return at.offset[:, 0] * (variance / at.variance[:, 0]).sqrt()

    def draw(self, which: Tensor, generator: torch.Generator) -> Tensor:
        z = _randn((len(which), self.means.shape[1]), generator)
        return self.means[which] + self.e[which].sqrt() * z

    def mean_covariance(self, weights: Tensor) -> Tensor:
        return torch.diag(weights @ self.e)


class _SpectralFamily(_Family):
    def __init__(self, means: Tensor, covariance: Spectral) -> None:
        self.means = means
        k, d = means.shape
        parts = covariance.u, covariance.e, covariance.ridge
        u, e, ridge = (part.to(means) for part in parts)
        r = e.shape[1]
        if (r and u.shape[1] != d) or len(u) not in (1, k) or len(ridge) not in (1, k):
            raise ShapeError(
                f"covariances of {len(u)} components in {u.shape[1]} dimensions do not fit "
                f"{k} means of {d} coordinates"
            )
        self.e, self.ridge = e.expand(k, r), ridge.expand(k)
        _check_variances(self.e + self.ridge[:, None] if r == d else self.ridge[:, None])
        # One matrix of all columns, so one product projects onto every component.
        self.u = u.expand(k, d, r)
        self.columns = rearrange(self.u, "k d r -> d (k r)")
        self.mean_offset = torch.einsum("kd,kdr->kr", means, self.u)
        self.mean_square = means.square().sum(1)

    def _outside(self) -> int:
        return self.means.shape[1] - self.e.shape[1]

    @property
    def covariance(self) -> Spectral:
        if self.e.shape[1] == 0:
            return Covariance.isotropic(self.ridge)
        return Spectral(self.u, self.e, self.ridge)

    def to(self, device: torch.device | str) -> _SpectralFamily:
        now = self.covariance
        moved = Spectral(now.u.to(device), now.e.to(device), now.ridge.to(device))
        return _SpectralFamily(self.means.to(device), moved)

    def at(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> _At:
        k, r = self.e.shape
        a, s = alpha[..., None], sigma[..., None]
        offset = (x @ self.columns).reshape(len(x), k, r) - a * self.mean_offset
        variance = a * a * (self.e + self.ridge[:, None]) + s * s
        if self._outside() == 0:
            return _At(x, alpha, sigma, offset, variance, None, None)
        length = x.square().sum(1, keepdim=True) - 2 * alpha * (x @ self.means.T)
        rest = length + alpha**2 * self.mean_square - offset.square().sum(2)
        ridge = alpha**2 * self.ridge + sigma**2
        return _At(x, alpha, sigma, offset, variance, rest.clamp_min(0), ridge)

    def solve(self, at: _At, weights: Tensor) -> Tensor:
        if at.ridge is None:
            inside = weights[..., None] * at.offset / at.variance
            return inside.flatten(1) @ self.columns.T
        outer = weights / at.ridge
        inside = (weights[..., None] / at.variance - outer[..., None]) * at.offset
        straight = outer.sum(1, keepdim=True) * at.x - at.alpha * (outer @ self.means)
        return straight + inside.flatten(1) @ self.columns.T

    def rescale(self, at: _At, alpha: Tensor, sigma: Tensor) -> Tensor:
        variance = alpha**2 * (self.e[0] + self.ridge[0]) + sigma**2
        stretch = (variance / at.variance[:, 0]).sqrt()
        if at.ridge is None:
            return (stretch * at.offset[:, 0]) @ self.columns.T
        outer = ((alpha**2 * self.ridge[0] + sigma**2) / at.ridge).sqrt()
        inside = (stretch - outer) * at.offset[:, 0]
        return outer * (at.x - at.alpha * self.means) + inside @ self.columns.T

    def draw(self, which: Tensor, generator: torch.Generator) -> Tensor:
        k, r = self.e.shape
        x = self.means[which]
        z = _randn((len(which), r), generator)
        # The ridge adds noise in every direction, the columns add more.
        x = x + self.ridge[which, None].sqrt() * _randn(x.shape, generator)
        for component in range(k):
            rows = which == component
            x[rows] += (z[rows] * self.e[component].sqrt()) @ self.u[component].T
        return x

    def mean_covariance(self, weights: Tensor) -> Tensor:
        scaled = self.u * (weights[:, None] * self.e)[:, None]
        d = self.means.shape[1]
        inside = torch.einsum("kir,kjr->ij", scaled, self.u) if self.e.shape[1] else 0.0
        return inside + (weights @ self.ridge) * torch.eye(d).to(self.means)


def _randn(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(
        tuple(shape), generator=generator, dtype=torch.float64, device=generator.device
    )


def _check_variances(e: Tensor) -> None:
    if not bool((e > 0).all()):
        raise ConfigError(f"variances must be positive, the smallest is {float(e.min()):.3g}")
