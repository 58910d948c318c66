"""Basin hopping: the objective has many minima, and a descent finds only the nearest.

One of the best candidates is thrown off its place, its rule changed a little, and descends again;
where it ends below the worst of the best, it takes that one's place (Wales and Doye, "Global
Optimization by Basin-Hopping", 1997, at temperature 0 and with several walkers).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from ..solvers.exponential import ExponentialMultistep
from ..solvers.solver import Solver
from .candidates import Motion
from .endpoint_objective import Candidate, Trial
from .gauss_newton import refine

WALKERS = 4
_THROWS = (0.1, 0.3, 0.6)  # standard deviations of the parameters, all of which are logarithms
_MOST = 6  # values in a polynomial


def descend(trial: Trial, start: Candidate, jacobians: int, *, free: bool) -> Candidate:
    """The candidate moved to where the objective is least nearby."""
    motion = Motion(start, free=free)
    return motion(refine(trial, motion, motion.start, jacobians))


Rated = tuple[float, Candidate]
"""A candidate after its objective, which is small for good ones."""


def by_value(rated: Rated) -> float:
    """The key to sort by."""
    return rated[0]


def hop(
    found: list[Rated],
    hops: int,
    rate: Callable[[Candidate], float],
    descend: Callable[[Candidate], Candidate] = lambda thrown: thrown,
    *,
    free: bool,
    seed: int = 0,
) -> list[Candidate]:
    """At most 4 of the candidates, hopped on from, the best first.

    Args:
        found: where to begin.
        hops: how many.
        rate: the objective.
        descend: moves a candidate to a minimum nearby; without it, a throw stays where it falls.
        free: whether the solver may change too.
        seed: of the throws.
    """
    rng = np.random.default_rng(seed)
    rated = sorted(found, key=by_value)[:WALKERS]
    for _ in range(hops):
        _, walker = rated[rng.integers(len(rated))]
        motion = Motion(walker, free=free)
        thrown = motion(rng.normal(0.0, rng.choice(_THROWS), len(motion.start)))
        if free:
            thrown = thrown._replace(solver=_changed(thrown.solver, thrown.grid.steps, rng))
        end = descend(thrown)
        if (value := rate(end)) < rated[-1][0]:
            rated[-1] = value, end
            rated.sort(key=by_value)
    return [one for _, one in rated]


def _changed(solver: Solver, steps: int, rng: np.random.Generator) -> Solver:
    """One value more or less: in the corrector, in all steps, or in some that follow each other."""
    if not isinstance(solver, ExponentialMultistep):
        return solver
    what, by = rng.integers(6), int(rng.choice((-1, 1)))
    if what < 2:
        return dataclasses.replace(solver, corrector=min(max(solver.corrector + by, 0), _MOST))
    if what == 2:
        values = min(max(solver.values + by, 1), _MOST)
        return dataclasses.replace(solver, values=values, caps=())
    caps = list(solver.caps) or [min(solver.values, k + 1) for k in range(steps)]
    first = int(rng.integers(1, steps))
    for k in range(first, min(first + int(rng.geometric(min(1.0, 3 / steps))), steps)):
        caps[k] = min(max(caps[k] + by, 1), k + 1, _MOST)
    return dataclasses.replace(solver, values=max(caps), caps=tuple(caps))
