"""A grid for all samples, and steps of their own for those that it does not serve."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ConfigError
from .density_flow import DensityFlow
from .fixed_grid import FixedGrid
from .method import Method, Path
from .per_sample import PerSample


@dataclass(frozen=True)
class Fallback(Method):
    """A `FixedGrid`, and `PerSample` for samples whose error estimate exceeds a tolerance.

    A grid that suits typical samples can be too coarse for others, such as anomalies. They are
    integrated again, and their evaluations count twice.

    Attributes:
        grid: for all samples.
        tol: largest error estimate of a sample, in nats per dimension, with which it is kept.
        then: for the others, and for those that fail on the grid.
    """

    grid: FixedGrid = field(default_factory=FixedGrid)
    tol: float = 1.4e-3
    then: PerSample = field(default_factory=PerSample)

    def __post_init__(self) -> None:
        if not self.tol > 0:
            raise ConfigError(f"tol must be positive, got {self.tol!r}; write tol=1.4e-3")

    def run(self, flow: DensityFlow, z: Tensor) -> Path:
        """See `Method`."""
        path = self.grid.run(flow, z)
        size = z[0].numel() if len(z) else 1
        index = (~(path.error.detach() <= self.tol * size)).nonzero().flatten()
        path.traced = torch.full((len(z),), self.grid.nodes, dtype=torch.long)
        if len(index) == 0:
            return path
        again = self.then.run(flow.rows(index), z[index])
        for name in ("z", "log_det", "variance", "error"):
            new = getattr(path, name).index_copy(0, index, getattr(again, name))
            setattr(path, name, new)
        places = index.tolist()
        path.failures = {k: why for k, why in path.failures.items() if k not in set(places)}
        path.failures |= {places[k]: why for k, why in again.failures.items()}
        assert again.traced is not None  # for the type checker
        path.traced[index.cpu()] += again.traced
        return path
