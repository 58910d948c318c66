"""Compare presets with the peers' own code, from the same start and noise, to round-off.

Each row runs a preset of this library and the peer's code over 20 steps of a strongly non-uniform
grid, on a closed-form mixture in float64, and compares the final states. If the two differ, the row
names the reason. `tests/test_peers.py` tests equality with diffusers.

    SCORESDE_PEERS=clones python -m benchmarks.equality --out benchmarks/results/equality

`docs/peers.md` says how to install the peers. Those that are not installed are listed as absent.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.pairs import Group
from benchmarks.pairs.azula import azula
from benchmarks.pairs.dpm_solver import dpm_solver, unipc
from benchmarks.pairs.edm import diff_sampler, edm
from benchmarks.pairs.k_diffusion import k_diffusion
from benchmarks.pairs.score_sde import score_sde
from benchmarks.pairs.stochastic import er_sde, sa_solver, seeds
from benchmarks.peers.source import Absent

GROUPS: dict[str, Callable[[], Group]] = {
    "k-diffusion": k_diffusion,
    "azula": azula,
    "dpm-solver": dpm_solver,
    "UniPC": unipc,
    "edm": edm,
    "diff-sampler": diff_sampler,
    "score_sde": score_sde,
    "SA-Solver": sa_solver,
    "ER-SDE": er_sde,
    "SEEDS": seeds,
}


def measure(names: list[str]) -> dict[str, Any]:
    """The largest difference of every pair, relative to the largest value."""
    rows, absent = [], {}
    for name in names:
        try:
            group = GROUPS[name]()
        except Absent as reason:
            absent[name] = str(reason)
            continue
        for pair in group.pairs:
            mine, theirs = pair.run()
            gap = float((mine - theirs).abs().max() / theirs.abs().max())
            verdict = "equal" if gap <= pair.tolerance else "DIFFERS"
            if pair.differs:
                verdict = "differs" if gap > pair.tolerance else "EQUAL"
            rows.append(
                {"package": group.package, "version": group.version, "peer": pair.peer,
                 "ours": pair.ours, "difference": gap, "tolerance": pair.tolerance,
                 "verdict": verdict, "reason": pair.reason}
            )  # fmt: skip
            print(f"{group.package:18} {pair.peer:44} {gap:.1e} {verdict} {pair.reason}")
    return {"rows": rows, "absent": absent}


def markdown(results: dict[str, Any]) -> str:
    """The table."""
    head = [
        "# Presets against the peers' own code",
        "",
        "The same start and the same noise, float64. The largest difference of the states after 20 "
        "steps (45 for score_sde), relative to the largest value. Made by",
        "`python -m benchmarks.equality --out benchmarks/results/equality`.",
        "",
        "| package | version | theirs | ours | difference | tolerance | verdict | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    body = [
        f"| {row['package']} | {row['version']} | {row['peer']} | {row['ours']} "
        f"| {row['difference']:.1e} | {row['tolerance']:.0e} | {row['verdict']} "
        f"| {row['reason']} |"
        for row in results["rows"]
    ]
    away = [f"| {name} | absent | | | | | | {why} |" for name, why in results["absent"].items()]
    return "\n".join([*head, *body, *away]) + "\n"


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    results = measure(arguments.peers)
    results["torch"] = torch.__version__
    wrong = [row for row in results["rows"] if row["verdict"].isupper()]
    print(f"{len(results['rows'])} comparisons, {len(wrong)} not as stated")
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        arguments.out.with_suffix(".md").write_text(markdown(results))
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
