"""A table of what each named solver says about itself."""

from __future__ import annotations

from ..errors import ScoreSDEError
from ..grid import uniform_lambda
from ..names import SOLVERS, solver
from ..sde import VPSDE


def properties() -> str:
    """Markdown: order, evaluations a step, noise, and the two ends, of every solver by name.

    Made from the solvers with their default settings; those that cannot be made without arguments,
    or without a package that is not installed, are left out.
    """
    lines = [
        "| solver | order | evaluations a step | last step | noise | starts at alpha = 0 |",
        "|---|---|---|---|---|---|",
    ]
    inner = uniform_lambda(VPSDE(), 100, clean=False)
    whole = uniform_lambda(VPSDE(), 101)
    for name in sorted(SOLVERS, key=str.lower):
        try:
            made = solver(name)
        except (ScoreSDEError, ImportError):
            continue
        cost, total = made.evals(inner), made.evals(whole)
        each = "by tolerance" if cost is None else f"{cost / 100:.3g}"
        last = "" if cost is None or total is None else str(total - cost)
        order = f"{made.order:g}"
        lines.append(
            f"| {name} | {order} | {each} | {last} | {'yes' if made.stochastic else 'no'} "
            f"| {'yes' if made.starts_at_zero_snr else 'by the driver'} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(properties())
