"""`check_solver`: checks that a solver keeps the contract of solvers."""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .._internal import specs
from ..grid import from_times
from ..noise import BatchSeed, Predrawn, SampleSeeds
from ..sampling.run import StepInfo, iterate
from ..sde import SDE, VPSDE, FlowSDE
from ..solvers.legs import evaluations
from ..solvers.solver import Solver
from .convergence import FLOAT32, SHARES, check_accuracy, check_float32, check_order
from .ends import check_clean_end, check_clean_moments, check_no_signal
from .findings import Report
from .problem import Bimodal
from .runs import PROCESSES, Tape, Watched, end, even, to_clean, uneven
from .stochastic import check_distribution, check_moments


def check_solver(solver: Solver | str, processes: Sequence[SDE] = PROCESSES) -> Report:
    """Check that a solver keeps the whole contract, on exact models, in seconds on a CPU.

    - The solver is a value: frozen, hashable, picklable, equal to its copy.
    - `step` is pure: the same call gives the same result. It stores nothing in the solver, changes
      nothing in place and uses no global generator. It has no data-dependent branch, so the host
      never waits for a device. If `compiles` is True, a whole run is one graph.
    - It draws noise if and only if `stochastic` is True, and only from the stream it receives.
    - It evaluates the network as often as `evals` says, at times of the process, never at
      sigma = 0: with one step, two and more, to sigma = 0 or not, and from alpha = 0.
    - It keeps the dtype and accepts any shape (B, *), including an empty batch.
    - A sample depends neither on the other samples of its batch nor on its index.
    - It converges with its stated order on VP, sub-VP, VE, EDM, cosine and flow processes, on even
      and strongly uneven grids, for data that are not Gaussian. A float32 run agrees to round-off.
      For a stochastic solver: bias and order of mean and variance, the distance along one Brownian
      path, and the distribution. For an adaptive solver: the error with its settings.

    Args:
        solver: the solver, with the settings to check, or its name.
        processes: the processes on which its order is measured.

    Returns:
        A report; print it, or call `raise_if_failed`.
    """
    if isinstance(solver, str):
        solver = specs.solver(solver)
    report = Report(specs.describe(solver))
    _value(solver, report)
    adaptive = False
    with report.check("evals") as require:
        count = solver.evals(even(VPSDE(), 4))
        require(count is None or isinstance(count, int), f"evals must be int or None: {count!r}")
        adaptive = count is None
    _purity(solver, report, adaptive)
    _cost(solver, report)
    _shapes(solver, report)
    _batch(solver, report)
    if solver.stochastic and adaptive:
        check_distribution(solver, report, processes, steps=20)
    elif solver.stochastic:
        check_moments(solver, report, processes)
        check_clean_moments(solver, report, processes)
    elif adaptive:
        check_clean_end(solver, report, processes, steps=(1, 4))
        check_float32(solver, report, processes[:2], steps=4, limit=1e-3)
        check_accuracy(solver, report, processes)
    else:
        check_clean_end(solver, report, processes, steps=(1, 2, 40))
        check_float32(solver, report, processes, steps=32, limit=FLOAT32)
        check_order(solver, report, processes)
    check_no_signal(solver, report, steps=8 if adaptive else 32)
    if solver.compiles and report.ok:  # the slowest check, so it runs only if all others passed
        _compiled(solver, report)
    return report


def _value(solver: Solver, report: Report) -> None:
    with report.check("a value") as require:
        require(isinstance(solver, Solver), "not a subclass of scoresde.Solver")
        parameters = getattr(solver, "__dataclass_params__", None)
        require(
            parameters is not None and parameters.frozen,
            "not a dataclass; write @dataclass(frozen=True)",
        )
        require(
            isinstance(solver.order, int | float) and solver.order > 0,
            f"order must be a positive number, got {solver.order!r}",
        )
        require(isinstance(solver.stochastic, bool), f"stochastic is {solver.stochastic!r}")
        require(hash(solver) == hash(dataclasses.replace(solver)), "a copy has another hash")
        require(dataclasses.replace(solver) == solver, "a copy is not equal")
        require(pickle.loads(pickle.dumps(solver)) == solver, "a pickled copy is not equal")


class Syncs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records operations that make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal"):
            self.seen.add(name)
        return func(*args, **(kwargs or {}))


def _generators() -> tuple[bytes, ...]:
    """The states of the global generators."""
    numpy = pickle.dumps(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().numpy().tobytes(), numpy, pickle.dumps(random.getstate())


def _inside(solver: Solver) -> object:
    """The attributes of a solver."""
    try:
        return pickle.dumps(solver)
    except Exception:  # a finding of another check
        return repr(vars(solver))


def _purity(solver: Solver, report: Report, adaptive: bool) -> None:
    with report.check("a pure step") as require:
        before = _inside(solver)
        model, grid = Bimodal(VPSDE()), to_clean(VPSDE(), 6)
        x = model.quantiles(SHARES, grid.knots[0])
        rng = _generators()
        tape, history, syncs = Tape(x.shape), [], Syncs()
        carry = solver.init(model, grid)
        for t, s in pairwise(grid.knots):
            kept, began = x.clone(), tape.played
            with syncs:
                result, moved = solver.step(model, x, t, s, carry, tape)
            require(torch.equal(x, kept), f"the step from t = {t.t:g} changes its input in place")
            history.append((kept, t, s, carry, began, result.clone()))
            x, carry = result, moved
        drawn = len(tape.draws)
        for x, t, s, carry, began, result in reversed(history):
            tape.played = began
            again, _ = solver.step(model, x, t, s, carry, tape)
            require(
                torch.equal(again, result),
                f"the step from t = {t.t:g}, called again, gives another result: something is "
                "stored in the solver, changed in the carry, or drawn from a global generator",
            )
        require(_inside(solver) == before, "a run changes the attributes of the solver")
        require(_generators() == rng, "a global random generator was used")
        if solver.stochastic:
            require(drawn > 0, "stochastic is True, but it draws no noise")
        else:
            require(drawn == 0, "stochastic is False, but it draws noise")
        require(
            adaptive or not syncs.seen,
            f"the step reads values of tensors ({', '.join(sorted(syncs.seen))}), which makes "
            "the host wait for the device",
        )


def _cost(solver: Solver, report: Report) -> None:
    with report.check("network evaluations") as require:
        vp, flow = VPSDE(), FlowSDE()
        grids = [make(vp, n) for n in (1, 2, 3, 7) for make in (even, to_clean)]
        grids.append(from_times(flow, [1.0, 0.7, 0.4, 0.1]))
        grids.append(from_times(flow, [1.0, 0.6]))
        for grid in grids:
            kind = f"{grid.steps} steps" + (" to sigma = 0" if grid.ends_clean else "")
            kind += " from alpha = 0" if grid.knots[0].is_zero_snr else ""
            watched = Watched(Bimodal(grid.sde))
            x = Tape((3, 2)).normal() * grid.knots[0].radius
            last = end(watched, solver, grid, x)
            stated = evaluations(solver, grid)
            require(
                stated is None or bool(last.nfe.eq(stated).all()),
                f"evals returns {stated} with {kind}; {last.mean_nfe:g} were counted",
            )
            require(bool(torch.isfinite(last.x).all()), f"not finite with {kind}")
            outside = watched.outside()
            require(
                not outside,
                f"the network was called at t = {outside[:3]} with {kind}, outside "
                f"[{grid.sde.t_min:g}, {grid.sde.t_max:g}]",
            )


def _shapes(solver: Solver, report: Report) -> None:
    with report.check("dtypes and shapes") as require:
        grid = to_clean(VPSDE(), 4)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            for shape in ((3,), (1, 5), (0, 3), (2, 3, 5), (2, 1, 3, 7), (1, 2, 3, 1, 2)):
                watched = Watched(Bimodal(grid.sde))
                x = Tape(shape, dtype).normal() * grid.knots[0].sigma
                out = end(watched, solver, grid, x, Tape(shape, dtype)).x
                what = f"a state of shape {shape} in {dtype}"
                require(out.dtype == dtype, f"{what} is returned in {out.dtype}")
                require(
                    watched.dtypes <= {dtype}, f"{what} is given to the network in {watched.dtypes}"
                )
                require(out.shape == x.shape, f"{what} is returned with shape {tuple(out.shape)}")
                require(bool(torch.isfinite(out).all()), f"{what} is returned not finite")


def _batch(solver: Solver, report: Report) -> None:
    with report.check("independent samples") as require:
        model, grid = Bimodal(VPSDE()), uneven(VPSDE(), 7)
        seeds, x = SampleSeeds((3, 1, 4, 15, 9)), Tape((5, 2, 3)).normal() * 3.0
        x[1] *= 8.0  # an outlier in the batch
        together = end(model, solver, grid, x, seeds)
        # Solvers of other libraries choose steps for a whole batch: results vary by the tolerance.
        shared_steps = solver.evals(grid) is None and len(set(together.nfe.tolist())) == 1
        room = 1e-3 if shared_steps else 1e-9
        for rows in ([2], [4, 2, 0, 1, 3], [0, 0, 3]):
            some = end(model, solver, grid, x[rows], seeds.rows(rows)).x
            gap = float((some - together.x[rows]).abs().max())
            require(
                gap < room,
                f"samples {rows}, run alone, differ by {gap:.2g} from their result in the batch",
            )
    with report.check("seeds") as require:
        runs = [
            [info.x for info in iterate(model, solver, grid, x=x, noise=BatchSeed(seed))][-1]
            for seed in (5, 5, 6)
        ]
        require(torch.equal(runs[0], runs[1]), "the same seed gives another result")
        require(
            torch.equal(runs[0], runs[2]) != solver.stochastic,
            "another seed gives " + ("the same" if solver.stochastic else "another") + " result",
        )


def _compiled(solver: Solver, report: Report) -> None:
    """Compile a run with backend "eager", which traces it and needs no compiler."""
    with report.check("a compiled run") as require:
        model, grid = Bimodal(VPSDE()), to_clean(VPSDE(), 3)
        x = Tape((2, 2)).normal()
        draws = Predrawn(tuple(Tape((2, 2), seed=k).normal() for k in range(16)))

        def run(x: Tensor) -> StepInfo:
            return end(model, solver, grid, x, draws)

        plain = run(x)
        torch.compiler.reset()
        try:
            compiled = torch.compile(run, fullgraph=True, backend="eager")(x)
        except Exception as error:
            first = str(error).strip().splitlines()[0]
            require(False, f"compiles is True, but a run is not one graph: {first}")
            return
        gap = float((compiled.x - plain.x).abs().max())
        require(gap < 1e-12, f"a compiled run differs by {gap:.2g} from a plain run")
        require(
            torch.equal(compiled.nfe, plain.nfe),
            f"{compiled.mean_nfe:g} evaluations, {plain.mean_nfe:g} when plain",
        )
