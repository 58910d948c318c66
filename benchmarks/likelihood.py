"""Likelihoods against closed forms: error, cost, honesty of the error bars.

    python benchmarks/likelihood.py            # digits64 and ring8, minutes
    python benchmarks/likelihood.py --large    # and the two problems of 3072 dimensions

Every table is printed with the numbers that `docs/bits_per_dim.md` quotes. Samples, pilot and the
data that frames are estimated from have seeds of their own.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde import VPSDE
from scoresde.likelihood import (
    Exact,
    FixedGrid,
    Hutchinson,
    NoFrame,
    PerSample,
    calibrated_grid,
    estimate_frame,
    log_likelihood,
)
from scoresde.ode import TorchDiffEq
from scoresde.problems import digits64, lowrank3072, power_law, ring8

T_MIN = 1e-5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--large", action="store_true", help="the 3072-dimensional problems too")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="which instance of each problem")
    args = parser.parse_args()
    torch.set_num_threads(1)
    problems: dict[str, Callable[..., Any]] = {"ring8": ring8, "digits64": digits64}
    if args.large:
        problems |= {"lowrank3072": lowrank3072, "power_law": power_law}
    for name, make in problems.items():
        model = make(VPSDE(t_min=T_MIN), seed=args.seed)
        x = model.sample(args.samples, T_MIN, seed=1)
        frame_time, frame = timed(lambda m=model: estimate_frame(m.sample(10_000, seed=5)))
        print(f"\n{name}: {x[0].numel()} dimensions, frame from 10,000 samples {frame_time:.1f} s")
        exact(model, x, frame, large=x[0].numel() > 1000)
        probes(model, x[:1], frame)


def exact(model: Any, x: Tensor, frame: Any, *, large: bool) -> None:
    """Error and cost with the exact divergence."""
    print(
        f"{'exact divergence':34} {'mean |err|':>10} {'max':>9} {'nfe':>6} {'max':>4}"
        f" {'<3 est':>7} {'est/err':>8} {'s':>6}"
    )
    truth = model.log_prob(x, T_MIN)
    settings = {"divergence": Exact(), "frame": frame}
    pilot = model.sample(8 if large else 32, T_MIN, seed=77)
    methods: dict[str, tuple[Any, Any]] = {}
    for tol in (3e-4, 1e-4, 3e-5):
        methods[f"per sample, tol {tol:g}"] = PerSample(tol), frame
    for nodes in (17, 30, 45) if large else (41, 61, 75):
        methods[f"even grid, {nodes} nodes"] = FixedGrid(nodes), frame
        methods[f"calibrated grid, {nodes} nodes"] = (
            calibrated_grid(model, pilot, nodes, **settings),
            frame,
        )
    methods["dopri5, whole batch, no frame"] = TorchDiffEq(), NoFrame()
    for name, (method, own) in methods.items():
        seconds, got = timed(
            lambda method=method, own=own: log_likelihood(
                model, x, method=method, prior=model, divergence=Exact(), frame=own
            )
        )
        error = bits(got.nats - truth, x).abs()
        estimate = bits(got.error, x)
        nfe = torch.as_tensor(got.nfe).double().expand(len(x))
        print(
            f"{name:34} {float(error.mean()):10.1e} {float(error.max()):9.1e}"
            f" {float(nfe.mean()):6.1f} {int(nfe.max()):4d}"
            f" {float((error <= 3 * estimate).double().mean()):7.2f}"
            f" {float((estimate / error).median()):8.1f} {seconds:6.1f}"
        )


def probes(model: Any, point: Tensor, frame: Any) -> None:
    """Spread of one point's estimate over probes, and whether the stated errors are right."""
    repeats = 200 if point[0].numel() < 1000 else 24
    print(
        f"{'Hutchinson, ' + str(repeats) + ' repeats':34} {'sd':>10} {'bias/se':>9} {'nfe':>6}"
        f" {'stated/true variance':>21}"
    )
    truth = model.log_prob(point, T_MIN)
    x = point.expand(repeats, *point.shape[1:])
    nodes = 75 if point[0].numel() < 1000 else 30
    pilot = model.sample(32 if nodes == 75 else 8, T_MIN, seed=77)
    grid = calibrated_grid(model, pilot, nodes, divergence=Exact(), frame=frame)
    for name, method, rule in (
        ("2 fixed probes, dopri5", TorchDiffEq(rtol=1e-4, atol=1e-4), Hutchinson(2)),
        ("2 fresh probes, per sample", PerSample(1e-4), Hutchinson(2)),
        (f"2 fresh probes, calibrated {nodes}", grid, Hutchinson(2)),
        (f"8 fresh probes, calibrated {nodes}", grid, Hutchinson(8)),
    ):
        got = log_likelihood(model, x, method=method, prior=model, divergence=rule, frame=frame)
        spread = float(got.nats.std())
        bias = float(got.nats.mean() - truth) / (spread / math.sqrt(repeats))
        nfe = float(torch.as_tensor(got.nfe).double().mean())
        stated = float(got.stderr.square().mean()) / spread**2
        print(
            f"{name:34} {float(bits(got.nats.std(), point)):10.1e} {bias:9.1f} {nfe:6.1f}"
            f" {stated:21.2f}"
        )


def bits(nats: Tensor, x: Tensor) -> Tensor:
    """Nats as bits per dimension."""
    return nats / (x[0].numel() * math.log(2))


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


if __name__ == "__main__":
    main()
