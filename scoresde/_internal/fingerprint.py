"""Fingerprints, which tell whether a model, solver or grid is the one that made a file.

A fingerprint guarantees:

1. Equal content has equal fingerprints: in every process, on every device, wherever files lie.
2. A changed parameter, buffer, attribute, hook, default, closed-over value, or global value that a
   function reads changes the fingerprint. An object's content is what pickle would store of it.
3. The user's own code counts by its bytecode; code of an installed package by name and version.
4. If content cannot be read (handles, locks, compiled modules), `FingerprintError` is raised.
5. A model that changes when it is called has no fingerprint. Jobs test this, and ask for a name
   (`key=`). A class whose `__getstate__` omits its cache does not change.
"""

from __future__ import annotations

import dis
import enum
import functools
import hashlib
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import FingerprintError

_CACHE = type(functools.cache(len))  # the type of what functools.cache makes
_OWN = __name__.partition(".")[0]
_TORCH_OWN = {*vars(nn.Module()), "_compiled_call_impl"}  # mode, parameters, hooks, ...
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_PACKAGES = {"site-packages", "dist-packages"}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, range, type(...), torch.dtype)
_NAMED: tuple[type, ...] = (pathlib.PurePath, torch.layout, torch.memory_format, np.dtype, np.ufunc)
_UNKNOWN = (torch.jit.ScriptModule, torch.jit.ScriptFunction, torch.Generator, types.GeneratorType)
# Attributes of a class that follow from its other attributes, or do not affect what it does.
_OF_A_CLASS = {
    "__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "__orig_bases__",
    "__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "_abc_impl",
    "__parameters__", "__firstlineno__", "__static_attributes__", "__annotate__",
    "__annotate_func__", "__annotations_cache__", "__qualname__", "__slotnames__",
}  # fmt: skip


def fingerprint(value: Any) -> str:
    """16 hexadecimal digits that identify the content of `value`; see this module for what counts.

    Raises:
        FingerprintError: if the content of a part of it cannot be read.
    """
    return _Walk().digest(value, type(value).__name__).hex()[:16]


def modules_in(value: Any) -> list[nn.Module]:
    """All torch modules in `value` and in the objects that it holds, if they can be found."""
    walk = _Walk(strict=False)
    walk.digest(value, "")
    return walk.modules


class _Walk:
    """Walks through an object and the objects in it, and computes a digest of their digests."""

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.modules: list[nn.Module] = []
        self.known: dict[int, tuple[Any, bytes]] = {}  # keeps the objects alive, so ids stay unique
        self.above: dict[int, int] = {}

    def digest(self, value: Any, path: str) -> bytes:
        """The digest of an object; `path` says in words where it is."""
        if isinstance(value, _PLAIN) and type(value).__module__ in ("builtins", "torch"):
            return _hash(type(value).__name__, repr(value))
        if id(value) in self.known:
            return self.known[id(value)][1]
        if id(value) in self.above:  # an object that contains itself
            return _hash("cycle", str(len(self.above) - self.above[id(value)]))
        self.above[id(value)] = len(self.above)
        try:
            found = _hash(*self._parts(value, path))
        finally:
            del self.above[id(value)]
        self.known[id(value)] = value, found
        return found

    def _parts(self, value: Any, path: str) -> Iterator[bytes | str]:
        if isinstance(value, Tensor):
            yield from self._tensor(value, path)
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
            yield from ("array", str(array.dtype), repr(array.shape))
            if array.dtype.hasobject:
                yield self._all(array.flatten().tolist(), path)
            else:
                yield array.tobytes()
        elif isinstance(value, _NAMED):
            yield from (type(value).__name__, str(value))
        elif isinstance(value, enum.Enum):
            yield from ("enum", self.digest(type(value), path), value.name)
        elif isinstance(value, types.FunctionType):
            yield from self._function(value, path)
        elif isinstance(value, types.MethodType):
            yield from ("method", self.digest(value.__func__, path))
            yield self.digest(value.__self__, path)
        elif isinstance(value, types.BuiltinFunctionType):
            yield from ("builtin", value.__qualname__)
            if not isinstance(value.__self__, types.ModuleType | None):
                yield self.digest(value.__self__, path)
        elif isinstance(value, functools.partial):
            yield from ("partial", self.digest(value.func, f"{path}.func"))
            yield self._all([value.args, value.keywords, vars(value)], path)
        elif isinstance(value, type):
            yield from self._class(value, path)
        elif isinstance(value, types.CodeType):
            yield from self._code(value, path)
        elif isinstance(value, types.ModuleType):
            yield from ("module", value.__name__, _version(value.__name__))
        elif isinstance(value, torch.device):
            yield "device"  # the same for every device
        elif isinstance(value, _UNKNOWN):
            self._unknown(value, path)
        elif isinstance(value, nn.Module):
            yield from self._module(value, path)
        else:
            yield from self._object(value, path)

    def _object(self, value: Any, path: str) -> Iterator[bytes | str]:
        kind = type(value)
        yield self.digest(kind, path)
        if isinstance(value, property | classmethod | staticmethod | functools.cached_property):
            names = ("fget", "fset", "fdel", "__func__", "func")
            yield self._all([getattr(value, name, None) for name in names], path)
        elif kind is _CACHE:  # what it wraps counts, not what it holds
            yield self.digest(value.__wrapped__, path)
        elif kind in (dict, types.MappingProxyType):
            yield self._items(value, path)
        elif kind in (set, frozenset):
            yield _hash(*sorted(self.digest(each, path) for each in value))
        elif kind in (list, tuple):
            yield self._all(value, path)
        elif kind in (types.MemberDescriptorType, types.GetSetDescriptorType) or kind in (
            types.WrapperDescriptorType,
            types.MethodDescriptorType,
            types.ClassMethodDescriptorType,
            types.MethodWrapperType,
        ):
            yield value.__qualname__
        else:
            yield from self._reduced(value, path)

    def _reduced(self, value: Any, path: str) -> Iterator[bytes | str]:
        """The digests of what pickle would store: the constructor, the state and the items."""
        try:
            reduced = value.__reduce_ex__(4)
        except Exception:  # any error of an object that cannot be pickled
            self._unknown(value, path)
            reduced = ""
        if isinstance(reduced, str):  # the name of a global
            yield reduced
            return
        make, args, state, listed, named = (*reduced, None, None, None)[:5]
        yield self.digest(make, path)
        yield self._all(args, path)
        yield self._state(value, state, path)
        yield self._all(listed or (), path)
        yield self._items(dict(named or ()), path)

    def _state(self, value: Any, state: Any, path: str, skip: Iterable[str] = ()) -> bytes:
        """The digest of an object's attributes, without the values of its cached properties."""
        if isinstance(state, tuple) and len(state) == 2:  # with `__slots__`
            whole = state[1] is None or isinstance(state[1], dict)
            state = {**(state[0] or {}), **(state[1] or {})} if whole else state
        if not isinstance(state, dict):
            return self.digest(state, path)
        derived = {
            name
            for kind in type(value).__mro__
            for name, held in vars(kind).items()
            if isinstance(held, functools.cached_property)
        }
        kept = {k: v for k, v in state.items() if k not in derived and k not in skip}
        return self._items(kept, path)

    def _module(self, value: nn.Module, path: str) -> Iterator[bytes | str]:
        self.modules.append(value)
        kind = type(value)
        if kind.__name__ == "OptimizedModule" and hasattr(value, "_orig_mod"):  # torch.compile
            yield self.digest(value._orig_mod, path)
            return
        yield from ("torch module", self.digest(kind, path))
        if isinstance(value, torch.fx.GraphModule):
            yield value.code
        for held in (value._parameters, value._buffers, value._modules):
            yield self._items(held, path)
        hooks = [list(getattr(value, name).values()) for name in _HOOKS]
        if any(hooks):
            yield self._all(hooks, f"{path} (hooks)")
        own = kind.__getstate__ not in (nn.Module.__getstate__, object.__getstate__)
        try:
            state: Any = (value if own else super(nn.Module, value)).__getstate__()
        except Exception:  # a parametrized module raises: it cannot be pickled
            state = vars(value)
        skip = set(_TORCH_OWN)
        if all(map(_installed, kind.__mro__)) and _top(kind) != _OWN:
            # Packages store caches and file names in private attributes.
            skip |= {name for name in vars(value) if name.startswith("_")}
        yield self._state(value, state, path, skip)

    def _tensor(self, value: Tensor, path: str) -> Iterator[bytes | str]:
        try:
            flat = value.detach().cpu().contiguous().reshape(-1)
            content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        except (RuntimeError, TypeError, NotImplementedError):  # sparse, quantized, meta, ...
            self._unknown(value, path)
            content = b""
        yield from ("tensor", str(value.dtype), repr(tuple(value.shape)), content)

    # -- code ----------------------------------------------------------------------------------

    def _function(self, value: types.FunctionType, path: str) -> Iterator[bytes | str]:
        path = f"{path} ({value.__qualname__})"
        yield from ("function", value.__qualname__)
        if value.__closure__:
            yield self._all([_held(cell) for cell in value.__closure__], path)
        yield self._all([value.__defaults__, value.__kwdefaults__], path)
        yield self._items({k: v for k, v in vars(value).items() if k != "__wrapped__"}, path)
        if _installed(value):
            yield from _public(value)
            if "<" not in value.__qualname__:  # the name identifies the function
                return
        else:
            yield self._items(_globals(value), path)
        yield self.digest(value.__code__, path)

    def _code(self, code: types.CodeType, path: str) -> Iterator[bytes | str]:
        yield from ("code", code.co_code, repr((code.co_names, code.co_varnames, code.co_freevars)))
        yield repr(
            (code.co_argcount, code.co_kwonlyargcount, code.co_flags, code.co_exceptiontable)
        )
        yield self._all(code.co_consts, path)

    def _class(self, value: type, path: str) -> Iterator[bytes | str]:
        yield from ("class", value.__qualname__)
        if _installed(value):
            yield from _public(value)
            yield self._all([base for base in value.__bases__ if not _installed(base)], path)
            return
        yield self._all(value.__bases__, path)
        kept = {name: held for name, held in vars(value).items() if name not in _OF_A_CLASS}
        yield self._items(kept, f"{path} (class {value.__qualname__})")

    # -- collections ---------------------------------------------------------------------------

    def _all(self, values: Iterable[Any], path: str) -> bytes:
        return _hash(*[self.digest(each, f"{path}[{k}]") for k, each in enumerate(values)])

    def _items(self, values: Mapping[Any, Any], path: str) -> bytes:
        """The digest of keys and values, independent of their order."""
        pairs = [
            _hash(self.digest(key, path), self.digest(each, f"{path}.{key}"))
            for key, each in values.items()
        ]
        return _hash(*sorted(pairs))

    def _unknown(self, value: Any, path: str) -> None:
        if self.strict:
            raise FingerprintError(
                f"the content of {path}, a {type(value).__module__}.{type(value).__qualname__}, "
                "cannot be known; write key='a name that you change whenever the model changes', "
                "or give the class that holds it a __getstate__ that omits it"
            )


def _hash(*parts: bytes | str) -> bytes:
    """The hash of several parts; the length of each is hashed too, so their borders count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{len(data)}:".encode())
        digest.update(data)
    return digest.digest()


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is empty
        return None


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """The global values that a function reads; of a user's own modules, the attributes it reads."""
    codes, found = [function.__code__], {}
    names: set[str] = set()
    attributes: set[str] = set()
    for code in codes:  # the list grows in the loop
        codes += [each for each in code.co_consts if isinstance(each, types.CodeType)]
        attributes |= set(code.co_names)
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                names.add(step.argval)
    # Sorted: the order of a set differs between processes, and a cycle's digest depends on it.
    held = function.__globals__
    todo = [(name, held[name]) for name in sorted(names) if name in held]
    while todo:
        name, value = todo.pop()
        found[name] = value
        if isinstance(value, types.ModuleType) and not _installed(value) and name.count(".") < 4:
            inside = vars(value)
            todo += [
                (f"{name}.{each}", inside[each]) for each in sorted(attributes) if each in inside
            ]
    return found


def _installed(thing: Any) -> bool:
    """Whether a class, function or module is of an installed package, Python or this library."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else str(thing.__module__)
    if _top(thing) == _OWN:
        return True
    if name in ("builtins", "types"):  # also the name for things made without a module
        return getattr(sys.modules[name], thing.__qualname__, None) is thing
    if name == "__main__":  # typed at a prompt, or a script
        return False
    if _top(thing) in sys.stdlib_module_names:
        return True
    if isinstance(thing, types.FunctionType):  # another module may have the same name
        file = thing.__code__.co_filename
    else:
        file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not _PACKAGES.isdisjoint(pathlib.Path(file).parts)


def _top(thing: Any) -> str:
    name = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
    return str(name).partition(".")[0]


def _public(thing: Any) -> tuple[str, str]:
    """The module of an installed class or function, and its package's version.

    For this library it is the library's name, since files may move.
    """
    module = str(thing.__module__)
    return (_OWN if _top(thing) == _OWN else module), _version(module)


def _version(module: str) -> str:
    """The version of a module's package, without the suffix of builds for different devices."""
    top = module.partition(".")[0]
    version = "" if top == _OWN else getattr(sys.modules.get(top), "__version__", "")
    return str(version).partition("+")[0]
