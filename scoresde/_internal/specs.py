"""Names of solvers, grids and processes, as typed on a command line or kept in a file.

A specification is a name and its arguments, written as in Python: `DDIM`, `DDIM(eta=0.5)`,
`PredictorCorrector(predictor=ReverseDiffusion())`, `karras(exponent=5)`. What prints as the
`repr` of a solver reads back as that solver. A name is one of the tables below, in capitals or
not; anybody else's class is `package.module:Name` or `path/to/file.py:Name`. Arguments are literals
and further specifications: nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from inspect import Parameter, signature
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType
from typing import Any

from ..errors import ConfigError, unknown_name
from ..grid import Grid
from ..sde import SDE
from ..solvers.exponential.multistep import ExponentialMultistep
from ..solvers.exponential.presets import published
from ..solvers.exponential.single_step import ExponentialRK
from ..solvers.solver import Solver

Pair = Callable[[SDE, int], tuple[Solver, Grid]]

SOLVERS: Mapping[str, str] = MappingProxyType(
    {
        "EulerMaruyama": "scoresde.solvers:EulerMaruyama",
        "ReverseDiffusion": "scoresde.solvers:ReverseDiffusion",
        "Ancestral": "scoresde.solvers:Ancestral",
        "PredictorCorrector": "scoresde.solvers:PredictorCorrector",
        "DDIM": "scoresde.solvers:DDIM",
        "Heun": "scoresde.solvers:Heun",
        "ProbabilityFlow": "scoresde.solvers:ProbabilityFlow",
        "AnalyticDPM": "scoresde.solvers.analytic_dpm:AnalyticDPM",
        "ERSDE": "scoresde.solvers.er_sde:ERSDE",
        "DPMSolverPP2SAncestral": "scoresde.solvers.dpmpp_ancestral:DPMSolverPP2SAncestral",
        "TorchSDE": "scoresde.solvers.torchsde_solver:TorchSDE",
        "DPMSolverAdaptive": "scoresde.solvers.dpm_adaptive:DPMSolverAdaptive",
        "GottaGoFast": "scoresde.solvers.gotta_go_fast:GottaGoFast",
        **{
            name: f"scoresde.solvers.seeds_sde:{name}"
            for name in ("SEEDS2", "SEEDS3", "StochasticHeun", "DPMSolverPPSDE")
        },
        "ExponentialMultistep": "scoresde.solvers.exponential:ExponentialMultistep",
        "ExponentialRK": "scoresde.solvers.exponential.single_step:ExponentialRK",
        **{
            name: f"scoresde.solvers.exponential.presets:{name}"
            for name in (
                "DPMSolverPP",
                "DPMSolverMultistep",
                "DPMSolver",
                "DPM2",
                "RES2",
                "DEIS",
                "LMS",
                "IPNDM",
                "PNDM",
                "ExponentialAB",
                "UniPC",
                "SASolver",
            )
        },
    }
)

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)

_PARTS: Mapping[str, str] = MappingProxyType(
    {
        "Langevin": "scoresde.solvers:Langevin",
        "AnnealedLangevin": "scoresde.solvers:AnnealedLangevin",
        "KineticLangevin": "scoresde.solvers.kinetic:KineticLangevin",
        "Focus": "scoresde.axis:Focus",
        "TorchDiffEq": "scoresde.ode:TorchDiffEq",
        "SciPy": "scoresde.ode:SciPy",
    }
)
"""What stands within a solver, as its argument."""

PAIRS: Mapping[str, str] = MappingProxyType({"recommended": "scoresde.sampling:recommended"})
"""Functions of a process and a budget that choose a solver together with its grid."""

GRIDS: Mapping[str, str] = MappingProxyType(
    {
        name: f"scoresde.grid:{name}"
        for name in (
            "uniform_t",
            "uniform_lambda",
            "karras",
            "focused",
            "power",
            "trailing",
            "leading",
        )
    }
)

PROCESSES: Mapping[str, str] = MappingProxyType(
    {
        name: f"scoresde.sde:{name}"
        for name in (
            "VPSDE",
            "SubVPSDE",
            "VESDE",
            "EDMSDE",
            "CosineVPSDE",
            "FlowSDE",
            "DiscreteVPSDE",
        )
    }
)


def solver(spec: str) -> Solver:
    """The solver that a specification names.

    Raises:
        ConfigError: for an unknown name, an argument it does not have, or something that is not
            a solver.
    """
    if is_pair(spec):
        raise ConfigError(
            f"{spec!r} chooses a solver for a process and a budget; where only a solver is wanted, "
            "write the solver"
        )
    made = build("solver", spec, SOLVERS)
    if not isinstance(made, Solver):
        raise ConfigError(f"{spec!r} is {made!r}, not a scoresde.Solver")
    return made


def describe(value: object) -> str:
    """A solver, or a part of one, as a short specification: by its published name where it has
    one, and what has its default is left out.
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


def origin(value: object) -> str:
    """Where a class is found that is in no table, to be written before its name with a colon:
    "package.module", or the path of a file that is in no package. "" for the library's own.
    """
    module = type(value).__module__
    if module.partition(".")[0] == "scoresde":
        return ""
    file = getattr(sys.modules.get(module), "__file__", None)
    return module if "." in module or file is None else str(Path(file).resolve())


def process(spec: str) -> SDE:
    """The process that a specification names.

    Raises:
        ConfigError: as `solver` does.
    """
    made = build("process", spec, PROCESSES)
    if not isinstance(made, SDE):
        raise ConfigError(f"{spec!r} is {made!r}, not a scoresde.SDE")
    return made


def pair(spec: str) -> Pair:
    """The function that a specification such as "recommended(data_std=1.0)" names, which takes a
    process and a number of evaluations and returns a solver with its grid.

    Raises:
        ConfigError: as `solver` does.
    """
    return partial("choice of solver and grid", spec, PAIRS, given=2)


def is_pair(spec: str) -> bool:
    """Whether a specification is one for `pair`, rather than for `solver`."""
    return is_named(spec, PAIRS)


def is_named(spec: str, table: Mapping[str, str]) -> bool:
    """Whether a specification is one of a name in `table`."""
    return spec.partition("(")[0].strip().lower() in map(str.lower, table)


def grid(spec: str) -> Callable[[SDE, int], Grid]:
    """The maker of grids that a specification names: a function of a process and a number of
    steps, with its further arguments bound.

    Raises:
        ConfigError: as `solver` does.
    """
    if spec.endswith(".json"):
        raise ConfigError(
            f"{spec!r} is a solver with its grid, not a maker of grids; write it as the solver"
        )
    bound = partial("grid", spec, GRIDS, given=2)

    def make(sde: SDE, n: int) -> Grid:
        made = bound(sde, n)
        if not isinstance(made, Grid):
            raise ConfigError(f"{spec!r} made {type(made).__name__}, not a scoresde.Grid")
        return made

    make.__name__ = make.__qualname__ = spec
    return make


def build(what: str, spec: str, table: Mapping[str, str]) -> Any:
    """What a specification stands for: a name of `table`, called with its arguments.

    Args:
        what: the kind of thing, for errors.
        spec: `name`, or `name(...)`.
        table: see `lookup`.

    Raises:
        ConfigError: as `solver` does.
    """
    name, args, kwargs = _parse(what, spec, table)
    found = lookup(what, name, table)
    if not callable(found):
        return found
    _check_keys(name, found, kwargs)
    try:
        return found(*args, **kwargs)
    except TypeError as error:
        raise ConfigError(f"cannot make {what} {spec!r}: {error}") from error


def partial(what: str, spec: str, table: Mapping[str, str], *, given: int) -> Callable[..., Any]:
    """The function that a specification names, with the arguments told there bound by name.

    Args:
        what, spec, table: see `lookup`.
        given: how many leading arguments the caller will give; they cannot be bound.

    Raises:
        ConfigError: as `solver` does.
    """
    name, args, kwargs = _parse(what, spec, table)
    found = lookup(what, name, table)
    if args or not callable(found):
        raise ConfigError(f"cannot read {what} {spec!r}; write 'name(key=value)'")
    _check_keys(name, found, kwargs, skip=given)
    return functools.partial(found, **kwargs)


def lookup(what: str, name: str, table: Mapping[str, str]) -> Any:
    """What a name stands for: of `table`, in capitals or not, of a module, or of a file.

    Raises:
        ConfigError: if there is no such name, module or member.
    """
    path = {key.lower(): value for key, value in table.items()}.get(name.lower(), name)
    if ":" not in path:
        raise unknown_name(what, name, [*table, "package.module:Name", "path/to/file.py:Name"])
    module_name, _, member = path.rpartition(":")
    try:
        if module_name.endswith(".py"):
            module = _of_file(Path(module_name).resolve())
        else:
            module = import_module(module_name)
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


def _parse(what: str, spec: str, table: Mapping[str, str]) -> tuple[str, list[Any], dict[str, Any]]:
    """(name, arguments, keyword arguments) of `name` or `name(...)`."""
    name, bracket, rest = spec.strip().partition("(")
    name = name.strip()
    if not bracket:
        return name, [], {}
    try:
        call = ast.parse(f"_({rest}", mode="eval").body
    except SyntaxError as error:
        raise ConfigError(
            f"cannot read {what} {spec!r}: {error.msg}; write it as in Python, 'Name(key=value)'"
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


def _value(what: str, spec: str, node: ast.expr, table: Mapping[str, str]) -> Any:
    if isinstance(node, ast.Name) and node.id in ("inf", "nan"):  # as repr writes them
        return float(node.id)
    if isinstance(node, ast.Call | ast.Name):
        return build(what, ast.unparse(node), {**table, **_PARTS})
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ConfigError(
            f"cannot read {ast.unparse(node)!r} in {what} {spec!r}: an argument is a number, a "
            "string, True, False, None, a tuple of these, or a name of the same kind"
        ) from error


def _imported(value: object, module: ModuleType) -> bool:
    """Whether a member of a module is a module, or a class or function of another one; a package
    is there to gather those.
    """
    if isinstance(value, type | FunctionType):
        return value.__module__ != module.__name__ and not hasattr(module, "__path__")
    return isinstance(value, ModuleType)


@functools.cache  # one class, not two of one name
def _of_file(path: Path) -> ModuleType:
    """The module in a file, as Python runs a script: it finds its neighbours, and worker processes
    and dataclasses find the file.
    """
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    spec = spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{str(path)!r} is not a Python file")
    if (folder := str(path.parent)) not in sys.path:
        sys.path.insert(0, folder)
    module = module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _check_keys(
    name: str, found: Callable[..., Any], kwargs: Mapping[str, Any], skip: int = 0
) -> None:
    parameters = list(signature(found).parameters.values())[skip:]
    known = [p.name for p in parameters if p.kind in _NAMED]
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of {name}", key, known)
