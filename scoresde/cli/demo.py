"""The demonstration: samples of digits, exact likelihoods, and a comparison of solvers.

`run(folder)` uses the network that the package ships. It writes

    samples.png          samples of three solvers from the same seeds
    trajectories.png     states from noise to digits
    steps_quality.png    error and distance against network evaluations
    report.json          all numbers, with configuration, versions and seeds
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import __version__
from .._internal import specs
from .._internal.files import write_atomic
from .._internal.fingerprint import fingerprint
from .._internal.labels import short
from ..bench import Against, Cell, Starts, Table, compare, environment, figures, grid_for
from ..bench.table import number
from ..errors import require
from ..grid import Grid, from_lambdas, uniform_lambda
from ..likelihood import Hutchinson, Uniform, bits_per_dim, calibrated_grid, estimate_frame
from ..model import Predictor
from ..noise import generator
from ..prediction import Prediction
from ..sampling.run import SampleResult, sample
from ..solvers.solver import Solver
from ..training.checkpoint import load_pretrained
from ..training.data import dequantize, heldout_digits
from ..wrapper import Observer

_LEVELS = (10.0, 3.0, 1.5, 0.8, 0.4, 0.2, 0.05)
"""Values of sigma/alpha at which a trajectory is shown, besides its two ends."""


@dataclass(frozen=True)
class Plan:
    """Settings of the demonstration. The default takes about two minutes on two cores.

    Attributes:
        digits: number of samples that each of `samplers` draws for the picture.
        samplers: title, solver and number of evaluations (None: the solver's tolerance decides).
        likelihoods: number of held-out digits whose likelihood is computed.
        draws: dequantizations of each digit; their log-probabilities are averaged.
        probes: probes of the trace estimator.
        nodes: evaluations of a likelihood, on a grid fitted to two other digits.
        compared: number of samples in each cell of the comparison.
        tolerance: tolerance of the reference endpoints; the table states their accuracy.
        nfe: budgets of the comparison.
        solvers: solvers of the comparison.
        seed: the first seed.
    """

    digits: int = 25
    samplers: tuple[tuple[str, str, int | None], ...] = (
        ("Euler-Maruyama", "EulerMaruyama", 120),
        ("predictor-corrector", "PredictorCorrector(corrector=Langevin(snr=0.1))", 120),
        (
            "probability flow",
            "ProbabilityFlow(backend=TorchDiffEq(rtol=1e-3, atol=1e-3))",
            None,
        ),
    )
    likelihoods: int = 10
    draws: int = 2
    probes: int = 2
    nodes: int = 41
    compared: int = 16
    tolerance: float = 1e-5
    nfe: tuple[int, ...] = (5, 10, 20)
    solvers: tuple[str, ...] = (
        "EulerMaruyama",
        "ReverseDiffusion",
        "Ancestral",
        "PredictorCorrector",
        "ERSDE",
        "SASolver",
        "DPMSolverPP(order=2, tau=1.0)",
        "recommended",
        "DDIM",
        "Heun",
        "DPMSolver(order=3)",
        "DPMSolverPP(order=2)",
        "DPMSolverPP(order=3)",
        "DEIS",
        "IPNDM",
        "UniPC",
        "ProbabilityFlow(backend=TorchDiffEq(rtol=1e-3, atol=1e-3))",
    )
    seed: int = 0


@dataclass
class Report:
    """The results of the demonstration.

    Attributes:
        sampling: one entry for each sampler.
        likelihood: the mean over digits, its standard error, and the parts of that error.
        table: the comparison.
        seconds: time of each part.
        data: the content of report.json.
    """

    sampling: list[dict[str, Any]] = field(default_factory=list)
    likelihood: dict[str, Any] = field(default_factory=dict)
    table: Table | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Measure and store the time of a part."""
        began = time.perf_counter()
        yield
        self.seconds[part] = round(time.perf_counter() - began, 2)


def run(folder: str | Path = "out", plan: Plan | None = None, *, progress: bool = True) -> Report:
    """Run the demonstration and write its files to a folder.

    Raises:
        MissingExtraError: if an extra is missing; run `pip install 'scoresde[demo]'`.
    """
    plan = plan or Plan()
    console = require("rich.console", "cli").Console()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    report = Report()
    images, _ = heldout_digits()
    model = load_pretrained("mnist")
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"[bold]scoresde {__version__}[/] - a noise-prediction network of {parameters / 1e6:.2f} M "
        f"parameters, trained on MNIST without the digits used here, {type(model.sde).__name__}"
    )
    with report.timed("sampling"):
        _draw(model, plan, folder, report, progress)
    with report.timed("likelihood"):
        report.likelihood = _likelihood(model, images, plan, progress)
    console.print(_first_table(report))
    with report.timed("comparison"):
        others = images[plan.likelihoods :][:1000]
        truth = dequantize(others, generator(plan.seed))
        report.table = compare(
            model,
            plan.solvers,
            nfe=plan.nfe,
            against=Against(truth, tolerance=plan.tolerance),
            starts=Starts(plan.compared, plan.seed),
            progress=progress,
        )
    figures.steps_quality(
        report.table,
        folder / "steps_quality.png",
        metrics=["rms endpoint error", "energy distance"],
    )
    console.print(_second_table(report.table))
    report.data = {
        "scoresde": __version__,
        "plan": asdict(plan),
        "model": {"name": "mnist", "parameters": parameters, "fingerprint": fingerprint(model)},
        "environment": environment(),
        "sampling": report.sampling,
        "likelihood": report.likelihood,
        "comparison": report.table.to_dict(),
        "seconds": report.seconds,
    }
    write_atomic(folder / "report.json", json.dumps(report.data, indent=1).encode())
    written = ["samples.png", "trajectories.png", "steps_quality.png", "report.json"]
    console.print(f"{sum(report.seconds.values()):.0f} s; wrote", end=" ")
    console.print(", ".join(str(folder / name) for name in written))
    return report


# -- parts -------------------------------------------------------------------------------------


def _draw(model: Predictor, plan: Plan, folder: Path, report: Report, progress: bool) -> None:
    panels, runs = {}, {}
    for title, spec, nfe in plan.samplers:
        solver = specs.solver(spec)
        grid = _grid(solver, model, nfe)
        out = _sample(model, solver, grid, plan, progress)
        cost = out.mean_nfe
        report.sampling.append(
            {
                "title": title,
                "solver": spec,
                "nfe": cost,
                "steps": out.steps,
                "seconds": round(out.seconds, 2),
                "seeds": [plan.seed, plan.seed + plan.digits - 1],
            }
        )
        panels[f"{title}, {cost:.0f} NFE"] = out.x
        runs[title] = out.trajectory
    figures.sample_grids(panels, folder / "samples.png")
    figures.trajectories(runs, folder / "trajectories.png")


def _grid(solver: Solver, model: Predictor, nfe: int | None) -> Grid:
    """The grid of a solver; if it chooses its own steps, only the knots that are shown."""
    if nfe is None:
        first = float(model.sde.at(model.sde.t_max).lam)
        return from_lambdas(model.sde, [first, *(-math.log(level) for level in _LEVELS)])
    return grid_for(solver, uniform_lambda, model.sde, nfe)


def _sample(
    model: Predictor, solver: Solver, grid: Grid, plan: Plan, progress: bool
) -> SampleResult:
    """Samples, with the states at the noise levels `_LEVELS`."""
    rhos = [float(knot.rho) for knot in grid.knots]
    keep = {min(range(len(rhos)), key=lambda k: abs(rhos[k] - level)) for level in _LEVELS}
    return sample(
        model,
        solver,
        grid,
        shape=(plan.digits, 1, 28, 28),
        seeds=range(plan.seed, plan.seed + plan.digits),
        keep={0, *keep, grid.steps},
        progress=progress,
    )


def _likelihood(model: Predictor, images: Tensor, plan: Plan, progress: bool) -> dict[str, Any]:
    """Likelihoods of the first images. Frame and grid are fitted to the other images."""
    asked, others = images[: plan.likelihoods], images[plan.likelihoods :]
    began = time.perf_counter()
    with _Ticking(model, progress, total=plan.nodes * (plan.draws + 5) + 1) as ticking:
        states = dequantize(others, generator(plan.seed))
        frame, divergence = estimate_frame(states), Hutchinson(plan.probes)
        grid = calibrated_grid(
            ticking, states[:2], plan.nodes, divergence=divergence, frame=frame, seeds=plan.seed
        )
        found = bits_per_dim(
            ticking,
            asked,
            dequantize=Uniform(draws=plan.draws),
            divergence=divergence,
            method=grid,
            frame=frame,
            seeds=plan.seed,
        )
    return {
        "bits_per_dim": found.mean,
        "stderr": found.stderr,
        "stderr_of_this_set": found.stderr_of_this_set,
        "standard_errors": found.standard_errors,
        "systematic": found.systematic,
        "images": len(asked),
        "per_image": found.per_image.tolist(),
        "nfe": found.mean_nfe,
        "pixels": repr(found.pixels),
        "t_min": model.sde.t_min,
        "method": repr(grid),
        "draws": plan.draws,
        "probes": plan.probes,
        "failures": found.failures,
        "seconds": round(time.perf_counter() - began, 2),
    }


class _Ticking(Observer):
    """A predictor that advances a progress bar at every call."""

    def __init__(self, model: Predictor, progress: bool, total: int) -> None:
        super().__init__(model)
        self._progress, self._total, self._bar = progress, total, None

    def __enter__(self) -> _Ticking:
        if self._progress:
            bar = require("tqdm.auto", "cli").tqdm
            self._bar = bar(desc="log-likelihood", unit=" network evaluations", total=self._total)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def observe(self, prediction: Prediction) -> None:
        if self._bar is not None:
            self._bar.update()


# -- tables ------------------------------------------------------------------------------------


def _first_table(report: Report) -> Any:
    """The table of samplers and of the likelihood."""
    table = _table("Digits from the same seeds, and the exact likelihood of held-out digits")
    for head in ("", "solver", "NFE a sample", "seconds"):
        table.add_column(head, justify="left" if head in ("", "solver") else "right")
    for row in report.sampling:
        table.add_row(
            row["title"], short(row["solver"]), f"{row['nfe']:.0f}", f"{row['seconds']:.1f}"
        )
    found = report.likelihood
    table.add_section()
    table.add_row(
        "exact log-likelihood",
        f"{found['bits_per_dim']:.3f} +- {found['stderr']:.3f} bits/dim, {found['images']} digits",
        f"{found['nfe']:.0f}",
        f"{found['seconds']:.1f}",
        style="bold",
    )
    for title, parts in (
        ("  its standard error", found["standard_errors"]),
        ("  its systematic errors, estimated", found["systematic"]),
    ):
        known = [f"{name} {value:.4f}" for name, value in parts.items() if value == value]
        table.add_row(title, ", ".join(known))
    return table


def _second_table(found: Table) -> Any:
    """The comparison: endpoint errors of deterministic solvers, distances of all solvers."""
    error, distance = "rms endpoint error", "energy distance"
    table = _table("Quality against evaluations, lower is better (last column: own steps)")
    table.add_column("solver")
    for budget in found.budgets:
        table.add_column(f"{budget} NFE", justify="right")
    table.add_column("own steps", justify="right")
    table.caption = (
        "Reference endpoints are accurate to "
        f"{found.setup.models['']['reference']['accuracy']:.0e}. "
        "Distances are to held-out digits."
    )
    for metric in (error, distance):
        table.add_row(f"[italic]{metric}[/]")
        rows: dict[str, dict[int | None, Cell]] = {}
        for cell in found.cells:
            if metric in cell.scores or cell.failed:
                rows.setdefault(cell.solver, {})[cell.budget] = cell
        for label, cells in rows.items():
            shown = [_shown(cells.get(b), metric, found) for b in (*found.budgets, None)]
            table.add_row(f"  {short(label)}", *shown)
        if floor := found.setup.floor.get(metric):
            table.add_row("  held-out digits", *[number(floor.value)] * len(found.budgets))
        table.add_section()
    return table


def _shown(cell: Cell | None, metric: str, found: Table) -> str:
    if cell is None:
        return ""
    if cell.failed:
        return "failed"
    text = number(cell.scores[metric].value)
    if cell.nfe != cell.budget:
        text += f" ({cell.nfe:.0f})"
    best = cell.budget is not None and found.best(cell.budget, metric) is cell
    return f"[bold]{text}[/]" if best else text


def _table(title: str) -> Any:
    rich = require("rich.table", "cli")
    box = require("rich.box", "cli").SIMPLE_HEAD
    return rich.Table(title=title, title_justify="left", title_style="bold", box=box)
