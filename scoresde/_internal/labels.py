"""Short labels of solvers, grids and models: for progress bars, pictures and their legends.

A specification, such as `DPMSolverPP(order=2, tau=1.0)`, is what one writes to have a solver again.
A label, such as `DPM++(2M) SDE`, only tells it from the others in a picture.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

from . import specs

LONGEST = 32
"""Characters of a label, at most."""

_READ = 1000  # a longer specification is cut, not read


def short(value: object) -> str:
    """A solver, a grid or a process in at most `LONGEST` characters.

    Args:
        value: a specification, any other name (which is cut where it is too long), or a solver.
    """
    spec = value if isinstance(value, str) else specs.describe(value)
    name, given = _parts(spec)
    if not name:
        return _cut(spec)
    order = given.pop("order", None)
    noise = _noise(given.pop("tau", 0.0))
    match name:
        case "DPMSolverPP":
            return f"DPM++({order}M){noise}"
        case "DPMSolverMultistep":
            return f"DPM-Solver({order}M){noise}"
        case "DPMSolver":
            return f"DPM++({order}S)" if given.get("prediction") == "x0" else f"DPM-Solver-{order}"
        case "ExponentialMultistep":
            values, of = given.get("values", 3), given.get("prediction", "v")
            return f"multistep-{values} in {of}{noise}"
    head = name + ("" if order is None else f"-{order}") + noise
    told = [_argument(key, argument) for key, argument in given.items()]
    return _cut(" ".join([head, *filter(None, told)]))


def of_rows(rows: Iterable[tuple[str, str, str, str]]) -> dict[str, str]:
    """Short labels of a table's rows by their full ones.

    Args:
        rows: (full label, process, solver, grid) of each; process and grid may be empty.
    """
    found = {}
    for full, process, solver, grid in rows:
        label = short(solver) + (f", {short(grid)}" if grid else "")
        found[full] = f"{short(process)}: {label}" if process else label
    return _distinct(found)


def model_name(model: Any) -> str:
    """What a model is called in a report: the class of its network, within what wraps it."""
    inner = getattr(model, "models", None)
    if isinstance(inner, tuple) and inner:
        return f"{type(model).__name__}({', '.join(dict.fromkeys(map(model_name, inner)))})"
    net = getattr(model, "net", None)
    if net is None:
        return type(model).__name__
    return getattr(net, "__name__", None) or type(net).__name__


# -- helpers -----------------------------------------------------------------------------------


def _distinct(labels: Mapping[str, str]) -> dict[str, str]:
    """Short labels by their full ones, where those that would be the same stay in full."""
    count = Counter(labels.values())
    return {full: brief if count[brief] == 1 else full for full, brief in labels.items()}


def _parts(spec: str) -> tuple[str, dict[str, Any]]:
    """The name of a specification and its arguments; ("", {}) for what is not written as one.

    Arguments that are calls themselves are None. An `order` is there even where it is the default,
    since the field has it in the name.
    """
    try:
        tree = ast.parse(spec, mode="eval").body if len(spec) <= _READ else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "", {}
    call = tree if isinstance(tree, ast.Call) else None
    name = call.func if call is not None else tree
    if not isinstance(name, ast.Name):
        return "", {}
    tables = (specs.SOLVERS, specs.GRIDS, specs.PROCESSES, specs.PAIRS)
    folded = {known.lower(): known for table in tables for known in table}
    known = folded.get(name.id.lower())
    if known is None:
        return "", {}
    found = specs.SOLVERS.get(known)
    parameters = {} if found is None else signature(found).parameters
    given: dict[str, Any] = {}
    if "order" in parameters and isinstance(parameters["order"].default, int):
        given["order"] = parameters["order"].default
    if call is not None:
        given.update(zip(parameters, map(_literal, call.args), strict=False))
        given.update({str(word.arg): _literal(word.value) for word in call.keywords})
    return known, given


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, RecursionError, MemoryError):
        return None


def _argument(key: str, value: Any) -> str:
    """An argument in brief; nothing for parts, which are long."""
    if value is True:
        return key
    if isinstance(value, int | float | str):
        return f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
    return ""


def _noise(tau: Any) -> str:
    if not isinstance(tau, int | float) or tau == 0:
        return ""
    return " SDE" if tau == 1 else f" tau {tau:g}"


def _cut(text: str) -> str:
    """The text, or its beginning: up to a comma where there is one late enough."""
    if len(text) <= LONGEST:
        return text
    head = text[: LONGEST - 3]
    comma = head.rfind(", ")
    return (head[:comma] if comma > LONGEST // 2 else head.rstrip(" ,(")) + "..."
