"""Sampling: from noise to data, and back.

`sample` draws one batch, `sample_many` many batches into a folder. `iterate` is the loop of both.
`encode`, `decode` and `interpolate` follow the probability flow between data and latents.
"""

from .choose import default_grid, grid_for
from .jobs import SampleFolder, sample_many
from .latents import decode, encode, interpolate, round_trip_error, slerp
from .recommend import recommended
from .run import NonFiniteWarning, SampleResult, SizeWarning, StepInfo, iterate, sample

__all__ = [
    "NonFiniteWarning",
    "SampleFolder",
    "SampleResult",
    "SizeWarning",
    "StepInfo",
    "decode",
    "default_grid",
    "encode",
    "grid_for",
    "interpolate",
    "iterate",
    "recommended",
    "round_trip_error",
    "sample",
    "sample_many",
    "slerp",
]
