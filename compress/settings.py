# SPDX-License-Identifier: Apache-2.0
"""Plain data <-> frozen dataclasses, by their annotations: unknown keys, wrong types and wrong ranges are refused.

Chosen: the dataclass is the schema, so that a default and a range live in one place. Rejected: pydantic, because a
section of a recipe is the very dataclass that a stage takes, and stages do not depend on a validation library.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any


class SettingsError(ValueError):
    """A setting that cannot be used; the message gives key, value and what is allowed."""


def number(default: Any, low: float | None = None, high: float | None = None, above: float | None = None) -> Any:
    """A dataclass field with a range: `low <= value <= high`, `value > above`."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def check_ranges(instance: Any) -> None:
    """Test every `number` field of a dataclass instance.

    Raises:
        SettingsError: the first value out of its range, NaN or infinite.
    """
    for item in fields(instance):
        value, meta = getattr(instance, item.name), item.metadata
        if value is None or not {"low", "high", "above"} & set(meta):
            continue
        low, high, above = meta["low"], meta["high"], meta["above"]
        inside = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
        if not math.isfinite(value) or not inside:
            limits = [
                f"{sign} {limit:g}" for sign, limit in ((">=", low), (">", above), ("<=", high)) if limit is not None
            ]
            raise SettingsError(f"`{item.name}` is {value!r}, expected {' and '.join(limits) or 'a finite number'}")


def unknown_key(key: str, known: Iterable[str], where: str) -> SettingsError:
    """The error for a key nobody reads, with the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(key, names, n=1, cutoff=0.6)
    hint = f"; did you mean `{_dotted(where, near[0])}`?" if near else "."
    return SettingsError(f"`{_dotted(where, key)}` is not a setting{hint} Known here: {', '.join(names)}")


def from_plain(cls: type[Any], data: Any, where: str = "") -> Any:
    """Build dataclass `cls` from plain data.

    Args:
        cls: a dataclass whose annotations are bool, int, float, str, Path, Literal, Enum, X | None, tuple[X, ...],
            Mapping[str, X] or another dataclass.
        data: what YAML or JSON gave.
        where: dotted path of `data`, for messages.

    Raises:
        SettingsError: an unknown, missing or wrong key; the message starts with its dotted path.
    """
    if not isinstance(data, Mapping):
        raise SettingsError(f"`{where}` is {_shown(data)}, expected a section with the keys: {', '.join(_names(cls))}")
    hints = typing.get_type_hints(cls)
    for key in data:
        if key not in _names(cls):
            raise unknown_key(str(key), _names(cls), where)
    values = {}
    for item in fields(cls):
        path = _dotted(where, item.name)
        if item.name in data:
            values[item.name] = _convert(hints[item.name], data[item.name], path)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise SettingsError(f"`{path}` is missing, expected {_expected(hints[item.name])}")
    try:
        return cls(**values)
    except (ValueError, TypeError, RuntimeError) as error:  # a stage's own dataclass has its own error class
        raise SettingsError(_placed(str(error), where)) from error


def to_plain(value: Any) -> Any:
    """The inverse: dicts, lists, text, numbers; every default written out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    return value


def _convert(wanted: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(args, value, path)
    if origin is typing.Literal:
        if value not in args or isinstance(value, bool) != any(isinstance(a, bool) for a in args if a == value):
            raise SettingsError(f"`{path}` is {_shown(value)}, expected {_expected(wanted)}{_near(value, args)}")
        return value
    if origin in (tuple, list) or (origin is not None and origin.__module__ == "collections.abc" and len(args) == 1):
        if not isinstance(value, (list, tuple)):
            raise SettingsError(f"`{path}` is {_shown(value)}, expected a list")
        return tuple(_convert(args[0], item, f"{path}[{i}]") for i, item in enumerate(value))
    if origin is not None:
        if not isinstance(value, Mapping):
            raise SettingsError(f"`{path}` is {_shown(value)}, expected a mapping")
        return {str(key): _convert(args[1], item, _dotted(path, str(key))) for key, item in value.items()}
    if is_dataclass(wanted):
        return from_plain(typing.cast("type[Any]", wanted), value, path)
    return _convert_scalar(wanted, value, path)


def _convert_union(args: tuple[Any, ...], value: Any, path: str) -> Any:
    options = [a for a in args if a is not type(None)]
    if value is None and len(options) < len(args):
        return None
    if len(options) == 1:
        return _convert(options[0], value, path)
    errors = []
    for option in options:
        try:
            return _convert(option, value, path)
        except SettingsError as error:
            errors.append(str(error))
    raise SettingsError(errors[0])


def _convert_scalar(wanted: Any, value: Any, path: str) -> Any:
    wrong = SettingsError(f"`{path}` is {_shown(value)}, expected {_expected(wanted)}")
    if wanted is bool or isinstance(value, bool):
        if wanted is not bool or not isinstance(value, bool):
            raise wrong
        return value
    if wanted is float and isinstance(value, (int, float)):
        return float(value)
    if wanted is int and isinstance(value, int):
        return value
    if wanted is str and isinstance(value, str):
        return value
    if wanted is Path and isinstance(value, (str, Path)):
        return Path(value).expanduser()
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum) and value in [member.value for member in wanted]:
        return wanted(value)
    if wanted is Any:
        return value
    raise wrong


def _names(cls: type[Any]) -> list[str]:
    return [item.name for item in dataclasses.fields(cls) if item.init]


def _placed(message: str, where: str) -> str:
    """A message of the dataclass itself, which knows only its own keys, with the dotted path in front."""
    if not where:
        return message
    placed = re.sub(r"^`(\w+)`", rf"`{where}.\1`", message)
    return placed if placed != message else f"in `{where}`: {message}"


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _near(value: Any, options: Iterable[Any]) -> str:
    near = difflib.get_close_matches(str(value), [str(o) for o in options], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _expected(wanted: Any) -> str:
    args = typing.get_args(wanted)
    if typing.get_origin(wanted) is typing.Literal:
        return "one of: " + ", ".join(str(a) for a in args)
    if typing.get_origin(wanted) in (typing.Union, types.UnionType):
        return " or ".join(_expected(a) for a in args if a is not type(None))
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return "one of: " + ", ".join(str(member.value) for member in wanted)
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names.get(wanted, "a section" if is_dataclass(wanted) else str(wanted))
