"""Specifications of solvers, grids and processes, as typed on a command line or stored in a file.

A specification is a name with arguments, written as in Python: `DDIM`, `DDIM(eta=0.5)`,
`PredictorCorrector(predictor=ReverseDiffusion())`, `karras(exponent=5)`. The `repr` of a solver is
a specification of it. A name is in one of the tables below, in upper or lower case, or a usual
name for one of them (`ALIASES`). Arguments are literals and further specifications; no code is
evaluated.

With `own=True` a name may also be your own, `package.module:Name` or `path/to/file.py:Name`; that
module is then imported. This is only for text that the user types on a command line. Loading a file
never imports what it names.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from inspect import Parameter, signature
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any, get_type_hints

from .. import grid as grids
from .. import ode, solvers
from .. import sde as processes
from ..axis import Focus
from ..errors import ConfigError, unknown_name
from ..grid import Grid
from ..sde import SDE
from ..solvers.exponential.multistep import ExponentialMultistep
from ..solvers.exponential.presets import published
from ..solvers.exponential.single_step import ExponentialRK
from ..solvers.solver import Solver
from .named_files import module_of_file, module_of_name

Pair = Callable[..., tuple[Solver, Grid]]
Table = Mapping[str, Callable[..., Any]]
"""Classes and functions by name."""

_LONGEST = 10_000  # the most characters of a specification
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def members(module: ModuleType, kind: type) -> Table:
    """The members of a module that make a value of a class.

    They are its concrete subclasses, and functions that return one and need no argument.

    Args:
        module: a module with `__all__`.
        kind: the class.
    """
    found = {name: getattr(module, name) for name in module.__all__}
    return MappingProxyType({name: value for name, value in found.items() if _makes(value, kind)})


def _makes(value: object, kind: type) -> bool:
    if isinstance(value, FunctionType):
        made = get_type_hints(value).get("return")
        free = all(p.default is not p.empty for p in signature(value).parameters.values())
        return free and isinstance(made, type) and issubclass(made, kind)
    return isinstance(value, type) and issubclass(value, kind) and not inspect.isabstract(value)


SOLVERS = members(solvers, Solver)
PROCESSES = members(processes, SDE)
GRIDS: Table = MappingProxyType(
    {
        name: value
        for name, value in vars(grids).items()
        if isinstance(value, FunctionType)
        and not name.startswith("_")
        and [*signature(value).parameters][:2] == ["sde", "n"]
    }
)
"""Functions of a process and a number of steps that return a grid."""

_PARTS: Table = MappingProxyType(
    {
        **{
            name: value
            for name in solvers.__all__
            if isinstance(value := getattr(solvers, name), type)
            and is_dataclass(value)
            and not issubclass(value, Solver)
        },
        **members(ode, ode.Backend),
        "Focus": Focus,
    }
)
"""Values that are arguments of solvers: correctors, backends, an axis."""

PAIRS: Mapping[str, str] = MappingProxyType({"recommended": "scoresde.sampling"})
"""Functions of a process and a budget that choose a solver and its grid, with their modules.

Those modules import this one, so they cannot be imported here.
"""

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "euler": "DDIM",
        "euler_ancestral": "DDIM(eta=1.0)",
        "euler_a": "DDIM(eta=1.0)",
        "ddpm": "Ancestral",
        "dpm_2": "DPM2",
        "dpmpp_2s_ancestral": "DPMSolverPP2SAncestral",
        "dpmpp_sde": "DPMSolverPPSDE",
        "dpmpp_2m": "DPMSolverPP(order=2)",
        "dpmpp_3m": "DPMSolverPP(order=3)",
        "dpmpp_2m_sde": "DPMSolverPP(order=2, tau=1.0)",
        "dpmpp_3m_sde": "DPMSolverPP(order=3, tau=1.0)",
        "dpmsolver++": "DPMSolverPP",
        "dpm-solver++": "DPMSolverPP",
        "dpm-solver": "DPMSolver",
        "dpm_adaptive": "DPMSolverAdaptive",
        "uni_pc": "UniPC",
        "res_2": "RES2",
        "sa_solver": "SASolver",
        "er_sde": "ERSDE",
        "exponential": "uniform_lambda",
    }
)
"""Names in k-diffusion, diffusers and papers; further arguments may be added."""


def solver(spec: str, *, own: bool = False) -> Solver:
    """The solver that a specification names.

    Args:
        spec: the specification.
        own: whether it may name a class of a module or file, which is then imported.

    Raises:
        ConfigError: for an unknown name, an unknown argument, or something that is not a solver.
    """
    if is_pair(spec):
        raise ConfigError(
            f"{spec!r} chooses a solver and a grid for a process and a budget; write a solver here"
        )
    made = build("solver", spec, SOLVERS, own=own)
    if not isinstance(made, Solver):
        raise ConfigError(f"{spec!r} is {made!r}, not a scoresde.Solver")
    return made


def describe(value: object) -> str:
    """A solver, or a part of one, as a short specification.

    It has the published name, if there is one. Default arguments are omitted.
    """
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    if isinstance(value, ExponentialMultistep | ExponentialRK) and value in (known := published()):
        return known[value]
    shown = []
    for item in fields(value):
        mine = getattr(value, item.name)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if item.init and mine != default:
            shown.append(f"{item.name}={describe(mine)}")
    return f"{type(value).__name__}({', '.join(shown)})" if shown else type(value).__name__


def is_own(value: object) -> bool:
    """Whether the class of a value is a user's own class, which is in none of the tables."""
    return type(value).__module__.partition(".")[0] != "scoresde"


def process(spec: str, *, own: bool = False) -> SDE:
    """The process that a specification names; see `solver`.

    Raises:
        ConfigError: as `solver` does.
    """
    made = build("process", spec, PROCESSES, own=own)
    if not isinstance(made, SDE):
        raise ConfigError(f"{spec!r} is {made!r}, not a scoresde.SDE")
    return made


def pair(spec: str) -> Pair:
    """The function that a specification such as "recommended(data_std=1.0)" names.

    It takes a model and a number of evaluations, and returns a solver and its grid.

    Raises:
        ConfigError: as `solver` does.
    """
    table = {name: getattr(import_module(module), name) for name, module in PAIRS.items()}
    return partial("choice of solver and grid", spec, table, given=2)


def is_pair(spec: str) -> bool:
    """Whether a specification names a function for `pair`, not a solver."""
    return is_named(spec, PAIRS)


def is_named(spec: str, table: Mapping[str, Any]) -> bool:
    """Whether the name of a specification is in `table`."""
    return spec.partition("(")[0].strip().lower() in map(str.lower, table)


def grid(spec: str, *, own: bool = False) -> Callable[[SDE, int], Grid]:
    """The function for grids that a specification names; see `solver`.

    It takes a process and a number of steps; the specification's arguments are bound to it.

    Raises:
        ConfigError: as `solver` does.
    """
    if spec.endswith(".json"):
        raise ConfigError(
            f"{spec!r} chooses a solver with its grid, not a grid alone; write it as the solver"
        )
    bound = partial("grid", spec, GRIDS, given=2, own=own)

    def make(sde: SDE, n: int) -> Grid:
        made = bound(sde, n)
        if not isinstance(made, Grid):
            raise ConfigError(f"{spec!r} returned {type(made).__name__}, not a scoresde.Grid")
        return made

    make.__name__ = make.__qualname__ = spec
    return make


def build(what: str, spec: str, table: Table, *, own: bool = False) -> Any:
    """The value of a specification: the member of `table` with its name, called with its arguments.

    Args:
        what: the kind of thing, for errors.
        spec: `name`, or `name(...)`.
        table, own: see `lookup`.

    Raises:
        ConfigError: as `solver` does.
    """
    name, args, kwargs = _parse(what, spec, table)
    found = lookup(what, name, table, own=own)
    if not callable(found):
        return found
    _check_keys(name, found, kwargs)
    try:
        return found(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"cannot make {what} {spec!r}: {error}") from error


def partial(
    what: str, spec: str, table: Table, *, given: int, own: bool = False
) -> Callable[..., Any]:
    """The function that a specification names, with the specification's arguments bound to it.

    Args:
        what, spec, table, own: see `lookup`.
        given: number of leading arguments that the caller passes; they cannot be bound.

    Raises:
        ConfigError: as `solver` does.
    """
    name, args, kwargs = _parse(what, spec, table)
    found = lookup(what, name, table, own=own)
    if args or not callable(found):
        raise ConfigError(f"cannot read {what} {spec!r}; write 'name(key=value)'")
    _check_keys(name, found, kwargs, skip=given)
    return functools.partial(found, **kwargs)


def lookup(what: str, name: str, table: Table, *, own: bool = False) -> Any:
    """The member of `table` with this name, in upper or lower case.

    With `own` it may also be a member of a module or file.

    Raises:
        ConfigError: if there is no such name, module or member.
    """
    folded = {key.lower(): value for key, value in table.items()}
    if name.lower() in folded:
        return folded[name.lower()]
    elsewhere = ["package.module:Name", "path/to/file.py:Name"] if own else []
    if not own and ":" in name:
        raise ConfigError(
            f"{what} {name!r} would import {name.rpartition(':')[0]!r}, which is allowed only on "
            f"the command line; import it yourself and pass the {what} itself"
        )
    if ":" not in name:
        also = [alias for alias, meant in ALIASES.items() if meant.partition("(")[0] in table]
        raise unknown_name(what, name, [*table, *elsewhere], also)
    module_name, _, member = name.rpartition(":")
    try:
        if module_name.endswith(".py"):
            module = module_of_file(Path(module_name).resolve())
        else:
            module = module_of_name(module_name)
    except ImportError as error:
        raise ConfigError(f"cannot import {module_name!r} for {what} {name!r}: {error}") from error
    if not hasattr(module, member):
        public = [
            key
            for key, value in vars(module).items()
            if not key.startswith("_") and not _imported(value, module)
        ]
        raise unknown_name(f"member of {module_name}", member, public)
    return getattr(module, member)


# -- helpers -----------------------------------------------------------------------------------


def _parse(what: str, spec: str, table: Table) -> tuple[str, list[Any], dict[str, Any]]:
    """(name, arguments, keyword arguments) of `name` or `name(...)`; aliases are replaced."""
    if len(spec) > _LONGEST:
        raise ConfigError(f"a {what} may have at most {_LONGEST:,} characters")
    name, args, kwargs = _parse_call(what, spec, table)
    meant = ALIASES.get(name.lower())
    if meant is None or name.lower() in map(str.lower, table):
        return name, args, kwargs
    target, _, fixed = _parse_call(what, meant, table)
    return (target, args, {**fixed, **kwargs}) if target in table else (name, args, kwargs)


def _parse_call(what: str, spec: str, table: Table) -> tuple[str, list[Any], dict[str, Any]]:
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, [], {}
    try:
        call = ast.parse(f"_({rest}", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        why = error.msg if isinstance(error, SyntaxError) else "nested too deeply"
        raise ConfigError(
            f"cannot read {what} {spec[:200]!r}: {why}; write it as in Python, 'Name(key=value)'"
        ) from error
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ConfigError(f"cannot read {what} {spec!r}; write 'Name(key=value)'")
    args = [_value(what, spec, node, table) for node in call.args]
    kwargs = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ConfigError(f"cannot read {what} {spec!r}: ** is not allowed")
        kwargs[keyword.arg] = _value(what, spec, keyword.value, table)
    return name, args, kwargs


def _value(what: str, spec: str, node: ast.expr, table: Table) -> Any:
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):  # the repr of these floats
        return float(node.id)
    if isinstance(node, ast.Call | ast.Name):
        return build(what, ast.unparse(node), {**table, **_PARTS})
    try:
        return ast.literal_eval(node)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(
            f"cannot read {ast.unparse(node)!r} in {what} {spec!r}: an argument is a number, a "
            "string, True, False, None, a tuple of these, or a name of the same kind"
        ) from error


def _imported(value: object, module: ModuleType) -> bool:
    """Whether a member of a module is imported: a module, or a class or function of another one.

    In a package it does not count as imported, since packages collect members of their modules.
    """
    if isinstance(value, type | FunctionType):
        return value.__module__ != module.__name__ and not hasattr(module, "__path__")
    return isinstance(value, ModuleType)


def _check_keys(
    name: str, found: Callable[..., Any], kwargs: Mapping[str, Any], skip: int = 0
) -> None:
    parameters = list(signature(found).parameters.values())[skip:]
    known = [p.name for p in parameters if p.kind in _NAMED]
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of {name}", key, known)
