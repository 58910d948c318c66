r"""Sources and streams of noise.

A *source* is a frozen value that defines the noise of a run. Its method `open` makes a *stream*
for one run of a given shape, dtype and device. Solvers use only the stream, never torch's global
generator.

| source | noise |
| --- | --- |
| `BatchSeed(0)` | one stream for the whole batch: the fastest |
| `SampleSeeds((4, 7))` | one stream per sample: sample k depends only on seed k |
| `BrownianPath((4, 7))` | one Brownian path per sample, the same for any number of steps |
| `Predrawn((z0, z1, ...))` | your own tensors, used in order |

Normals are drawn in float32 and then cast, so a seed gives the same noise in float64, float32 and
half precision, up to the rounding of the cast. Every bit of a seed counts. Noise is drawn on the
device of the state, and each kind of device (CPU, CUDA, ...) has its own streams.

The clock of the Brownian motion is rho^2 = (sigma/alpha)^2. In this clock the stochastic integral
of the reverse SDE for x/alpha is a plain increment, for every process.
"""

from __future__ import annotations

import hashlib
import math
import operator
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .errors import ConfigError, ShapeError
from .scalar import widest
from .sde.knot import Knot

_WORDS = 624  # of 32 bits: the state of the Mersenne twister, torch's generator on the CPU
_STATE = slice(24, 24 + 8 * _WORDS)  # their position in torch's `get_state`, 64 bits each


def mix(*keys: int | str) -> int:
    """A seed of 64 bits from whole numbers (of any size) and names.

    It is the first 64 bits of SHAKE-128 (FIPS 202) of the keys' `repr` as a tuple. Order, number
    and kind of the keys count: (1, 2), (2, 1), (12,) and ("12",) give unrelated seeds.
    """
    return int.from_bytes(_digest(keys, 8), "little")


def generator(*keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """The random generator of these keys; the library seeds everything with it.

    On the CPU, the SHAKE-128 digest of the keys fills the whole state of the generator, because
    `manual_seed` would use only 32 bits of a seed. On other devices the seed is `mix(*keys)`.
    """
    made = torch.Generator(device)
    if made.device.type != "cpu":
        return made.manual_seed(mix(*keys))
    state = made.get_state()
    state.numpy()[_STATE].view(np.uint64)[:] = np.frombuffer(_digest(keys, 4 * _WORDS), "<u4")
    return made.set_state(state)


def normal(
    shape: Sequence[int],
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Standard normals, always drawn in float32, so that a draw does not depend on the dtype.

    Args:
        shape: shape of the result.
        generator: the random generator.
        dtype: dtype of the result.
        device: device of the draw; None for the generator's own.
    """
    where = generator.device if device is None else device
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32, device=where).to(
        dtype
    )


def _digest(keys: tuple[int | str, ...], length: int) -> bytes:
    plain = tuple(key if isinstance(key, str) else operator.index(key) for key in keys)
    return hashlib.shake_128(repr(plain).encode()).digest(length)


class NoiseStream(ABC):
    """Noise for one run: every draw has the shape (B, *), dtype and device of the state."""

    @abstractmethod
    def normal(self) -> Tensor:
        """Fresh standard normals, independent of everything drawn before."""

    def start(self) -> Tensor:
        """The standard normals for the start of a run."""
        return self.normal()

    def increment(self, t: Knot, s: Knot) -> Tensor:
        """Standard normals for the noise of the step from knot t (noisier) to s.

        For a Brownian path B with clock rho^2 this is (B(t) - B(s)) / sqrt(rho_t^2 - rho_s^2);
        other streams make a new draw.
        """
        return self.normal()


class NoiseSource(ABC):
    """The noise of a run, as a frozen value."""

    @abstractmethod
    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """A stream whose draws have `shape` (B, *)."""

    def rows(self, index: Sequence[int]) -> NoiseSource | None:
        """The source for these samples only, or None if all samples share one stream."""
        return None


@dataclass(frozen=True)
class BatchSeed(NoiseSource):
    """One generator for the batch: a sample depends on its index and on the batch size."""

    seed: int = 0

    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """See `NoiseSource.open`."""
        return _Batch(self.seed, tuple(shape), dtype, torch.device(device))


@dataclass(frozen=True)
class SampleSeeds(NoiseSource):
    """One generator per sample: bitwise the same noise for any batch size or order."""

    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))

    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """See `NoiseSource.open`.

        Raises:
            ShapeError: if there is not one seed a sample.
        """
        _check_count(self.seeds, shape)
        generators = [generator(seed, device=device) for seed in self.seeds]
        return _PerSample(generators, tuple(shape), dtype, torch.device(device))

    def rows(self, index: Sequence[int]) -> SampleSeeds:
        """The seeds of these samples."""
        return SampleSeeds(tuple(self.seeds[i] for i in index))


@dataclass(frozen=True)
class BrownianPath(NoiseSource):
    """One Brownian path per sample, for any number of steps.

    The values of the path are nodes of a binary tree over log(rho). Each node's normals come from
    its own generator, so the path does not depend on the times at which it is evaluated, or on
    their order. Within `2^-depth` of the range, about 3e-6 in log(rho), the path is linear.
    """

    seeds: tuple[int, ...]
    depth: int = 24

    _REACH = 25.0  # log(rho) from -25 to 25 contains every process in floating point

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))

    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """See `NoiseSource.open`.

        Raises:
            ShapeError: if there is not one seed a sample.
        """
        _check_count(self.seeds, shape)
        return _Brownian(self, tuple(shape), dtype, torch.device(device))

    def rows(self, index: Sequence[int]) -> BrownianPath:
        """The paths of these samples."""
        return BrownianPath(tuple(self.seeds[i] for i in index), self.depth)


@dataclass(frozen=True, eq=False)
class Predrawn(NoiseSource):
    """Your own tensors as noise, used in order; the first is the start, unless x is given."""

    draws: tuple[Tensor, ...]

    def open(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> NoiseStream:
        """See `NoiseSource.open`.

        Raises:
            ShapeError: if a tensor does not have the state's shape.
        """
        for k, draw in enumerate(self.draws):
            if tuple(draw.shape) != tuple(shape):
                raise ShapeError(
                    f"predrawn noise {k} has shape {tuple(draw.shape)}, "
                    f"the state has {tuple(shape)}"
                )
        return _Replay([draw.to(device=device, dtype=dtype) for draw in self.draws])

    def rows(self, index: Sequence[int]) -> Predrawn:
        """The noise of these samples."""
        return Predrawn(tuple(draw[list(index)] for draw in self.draws))


def source(seeds: int | Iterable[int]) -> NoiseSource:
    """`BatchSeed` for one number, `SampleSeeds` for several.

    Raises:
        ConfigError: for anything but whole numbers.
    """
    try:
        if isinstance(seeds, Iterable):
            return SampleSeeds(tuple(operator.index(seed) for seed in seeds))
        return BatchSeed(operator.index(seeds))  # accepts numpy's integers too
    except TypeError:
        raise ConfigError(
            f"seeds must be a whole number, or one for each sample, got {seeds!r}; "
            "write seeds=0 or seeds=range(B)"
        ) from None


class _Batch(NoiseStream):
    def __init__(
        self, seed: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.seed, self.shape, self.dtype, self.device = seed, shape, dtype, device

    @cached_property
    def generator(self) -> torch.Generator:
        # Made at the first draw: torch.compile cannot trace a generator, and a deterministic run
        # draws nothing.
        return generator(self.seed, device=self.device)

    def normal(self) -> Tensor:
        return normal(self.shape, self.generator, self.dtype, self.device)


class _PerSample(NoiseStream):
    def __init__(
        self,
        generators: list[torch.Generator],
        shape: tuple[int, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.generators, self.shape = generators, shape
        self.dtype, self.device = dtype, device

    def normal(self) -> Tensor:
        out = torch.empty(self.shape, dtype=torch.float32, device=self.device)
        for row, own in zip(out, self.generators, strict=True):
            torch.randn(row.shape, generator=own, out=row)
        return out.to(self.dtype)


class _Replay(NoiseStream):
    def __init__(self, draws: list[Tensor]) -> None:
        self.draws, self.used = draws, 0

    def normal(self) -> Tensor:
        if self.used == len(self.draws):
            raise ConfigError(
                f"all {self.used} predrawn tensors are used up; draw one for the start "
                "(unless x is given) and one for every draw of the solver"
            )
        self.used += 1
        return self.draws[self.used - 1]


class _Brownian(NoiseStream):
    """The tree of Brownian bridges. It stores only the nodes on the latest way down the tree."""

    def __init__(
        self, spec: BrownianPath, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.spec, self.shape, self.dtype, self.device = spec, shape, dtype, device
        self.spare = [generator(seed, "spare", device=device) for seed in spec.seeds]
        self.nodes: OrderedDict[int, Tensor] = OrderedDict()

    def normal(self) -> Tensor:
        return self._draw(self.spare)

    def increment(self, t: Knot, s: Knot) -> Tensor:
        late, early = self._at(t), self._at(s)
        clock = math.exp(2 * self._log_rho(t)) - math.exp(2 * self._log_rho(s))
        return ((late - early) / math.sqrt(clock)).to(self.dtype)

    def _log_rho(self, knot: Knot) -> float:
        if isinstance(knot.t, Tensor):
            raise ConfigError("a BrownianPath needs float times: use it with a fixed grid")
        return min(max(-float(knot.lam), -self.spec._REACH), self.spec._REACH)

    def _at(self, knot: Knot) -> Tensor:
        """The path at a knot, in float64 if the device has it: goes down the tree and halves the
        range of log(rho).
        """
        if knot.is_clean:
            return torch.zeros(self.shape, dtype=widest(self.device), device=self.device)
        at = self._log_rho(knot)
        low, high = -self.spec._REACH, self.spec._REACH
        at_low = self._normal(1) * math.exp(low)
        at_high = at_low + self._normal(2) * _gap(high, low)
        node = 3  # the children of node n are 2n and 2n + 1, so all numbers are different
        for _ in range(self.spec.depth):
            middle = 0.5 * (low + high)
            at_middle = _bridge(low, at_low, middle, high, at_high)
            deviation = _gap(middle, low) * _gap(high, middle) / _gap(high, low)
            at_middle = at_middle + deviation * self._normal(node)
            if at <= middle:
                high, at_high, node = middle, at_middle, 2 * node
            else:
                low, at_low, node = middle, at_middle, 2 * node + 1
        return _bridge(low, at_low, at, high, at_high)

    def _normal(self, node: int) -> Tensor:
        if node in self.nodes:
            self.nodes.move_to_end(node)
            return self.nodes[node]
        value = self._draw(
            [generator(seed, "path", node, device=self.device) for seed in self.spec.seeds],
            widest(self.device),
        )
        self.nodes[node] = value
        if len(self.nodes) > 2 * self.spec.depth + 4:
            self.nodes.popitem(last=False)
        return value

    def _draw(self, generators: list[torch.Generator], dtype: torch.dtype | None = None) -> Tensor:
        return _PerSample(generators, self.shape, dtype or self.dtype, self.device).normal()


def _gap(high: float, low: float) -> float:
    """Standard deviation of the increment between two log(rho): sqrt(exp(2 high) - exp(2 low))."""
    return math.exp(high) * math.sqrt(-math.expm1(2 * (low - high)))


def _bridge(low: float, at_low: Tensor, at: float, high: float, at_high: Tensor) -> Tensor:
    weight = (_gap(at, low) / _gap(high, low)) ** 2
    return torch.lerp(at_low, at_high, weight)


def _check_count(seeds: tuple[int, ...], shape: Sequence[int]) -> None:
    if len(seeds) != shape[0]:
        raise ShapeError(
            f"{len(seeds)} seeds for a batch of {shape[0]}; write seeds=range({shape[0]}) for one "
            "per sample, or one number for the whole batch"
        )
