"""Frozen values as JSON-able data, and back.

A value is a dataclass whose fields are numbers, strings, None, tuples of these, and further frozen
values. It becomes an object with the name of its class and its fields. Reading makes only values of
classes that the caller gives, so it never imports or runs what a file names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ..errors import ConfigError, unknown_name

_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}  # JSON has none of these


def to_plain(value: Any) -> Any:
    """A frozen value, or a field of one, as JSON-able data.

    Raises:
        ConfigError: for anything that is neither a dataclass nor plain data.
    """
    if isinstance(value, str) and value in _NUMBERS:
        raise ConfigError(f"the text {value!r} has no JSON form: it would be read as a number")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {
            item.name: to_plain(getattr(value, item.name)) for item in fields(value) if item.init
        }
        return {"name": type(value).__name__, **own}
    raise ConfigError(
        f"{value!r} has no JSON form; write it as a frozen dataclass of numbers, strings and tuples"
    )


def from_plain(what: str, data: Any, known: Iterable[type]) -> Any:
    """The value that `to_plain` wrote.

    Args:
        what: the kind of value, for errors.
        data: the object.
        known: the classes of the value, and of the values in it. If two have the same name, the
            last one is used.

    Raises:
        ConfigError: for data that is not such an object, an unknown name, or fields that the class
            does not take.
    """
    table = {kind.__name__: kind for kind in known}
    return _value(what, data, table)


def _value(what: str, data: Any, table: Mapping[str, type]) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigError(f"a {what} is written as an object with a name, got {data!r:.200}")
    own = dict(data)
    name = own.pop("name", None)
    if not isinstance(name, str) or name not in table:
        raise unknown_name(what, str(name)[:200], table)
    values = {key: _field(what, value, table) for key, value in own.items()}
    try:
        return table[name](**values)
    except ConfigError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name} cannot be built from {sorted(own)}: {error}") from error


def _field(what: str, value: Any, table: Mapping[str, type]) -> Any:
    if isinstance(value, Mapping):
        return _value(what, value, table)
    if isinstance(value, list):
        return tuple(_field(what, item, table) for item in value)
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
