"""The deviation of samples of the zoo's networks, by where sampling begins.

    python -m benchmarks.starts [NAME ...]

One line for each network and budget: the deviation and the largest value of 64 samples from the
default start, and from the end of the process.
"""

from __future__ import annotations

import sys

import torch

from scoresde import sample

from . import zoo

COUNT = 64


def main() -> None:
    torch.set_num_threads(1)
    for name in sys.argv[1:] or zoo.names():
        model = zoo.load(name)
        event = {"mnist": (1, 28, 28), "cifar": (3, 32, 32)}.get(name.partition("_")[0], (2,))
        if "class" in name:
            model = model.bind(y=torch.arange(COUNT) % 10)
        for nfe in (5, 10, 20, 50):
            for start in (None, "end"):
                out = sample(model, nfe=nfe, shape=(COUNT, *event), start=start)
                deviation, largest = float(out.x.std()), float(out.x.abs().max())
                print(
                    f"{name:22} {nfe:3}  from rho = {out.start.rho:<9.4g} "
                    f"deviation {deviation:9.3f}  largest {largest:9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
