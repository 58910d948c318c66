"""Basin hopping: repeated random moves and descents, for an objective with many minima.

A descent finds only the nearest minimum. So one of the best candidates is moved at random, its rule
is changed a little, and it descends again. If the result is better than the worst of the best
candidates, it replaces that one (Wales and Doye, "Global Optimization by Basin-Hopping", 1997, at
temperature 0 and with several walkers).
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
_THROWS = (0.1, 0.3, 0.6)  # standard deviations of a random move; all parameters are logarithms
_MOST = 6  # values in a polynomial, at most


def descend(trial: Trial, start: Candidate, jacobians: int, *, free: bool) -> Candidate:
    """The candidate moved to a nearby minimum of the objective."""
    motion = Motion(start, free=free)
    return motion(refine(trial, motion, motion.start, jacobians))


Rated = tuple[float, Candidate]
"""The objective of a candidate (smaller is better), and the candidate."""


def by_value(rated: Rated) -> float:
    """The objective, as a key for sorting."""
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
    """Improve candidates by hops; returns at most 4, the best first.

    Args:
        found: the candidates to begin with.
        hops: number of hops.
        rate: the objective.
        descend: moves a candidate to a nearby minimum; by default it does nothing.
        free: whether the solver may change too.
        seed: seed of the random moves.
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
    """Change a rule by one value: in the corrector, in all steps, or in a run of steps."""
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
