# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses <-> plain JSON data, driven by their annotations, so that types, checks and schema cannot
disagree.

Chosen: eighty lines over `typing`. Rejected: pydantic and attrs, because the robot's base install is numpy alone.
`conform` is called by each `__post_init__`: after construction every field has its annotated type, floats are finite.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from runtime.errors import ContractError

T = TypeVar("T")


OMITTED = {"omitted": True}  # metadata of a field that, being None, leaves no key behind: older files lack it too
_FIELD_TYPES: dict[type, dict[str, Any]] = {}


def field_types(cls: type) -> dict[str, Any]:
    """Annotated type of each dataclass field, in declaration order."""
    if cls not in _FIELD_TYPES:
        hints = get_type_hints(cls)
        _FIELD_TYPES[cls] = {field.name: hints[field.name] for field in dataclasses.fields(cls)}
    return _FIELD_TYPES[cls]


def omittable(cls: type) -> frozenset[str]:
    """Fields declared with `metadata=OMITTED`."""
    return frozenset(field.name for field in dataclasses.fields(cls) if field.metadata.get("omitted"))


def optional_inner(hint: Any) -> Any | None:
    """`X` when `hint` is `X | None`, else None."""
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return None


def tuple_items(hint: Any, length: int) -> tuple[Any, ...] | None:
    """Item types for a tuple annotation: repeated for `tuple[X, ...]`, as written otherwise; None if not a tuple."""
    if get_origin(hint) is not tuple:
        return None
    args = get_args(hint)
    return (args[0],) * length if len(args) == 2 and args[1] is Ellipsis else args


def conform(instance: Any) -> None:
    """Check and coerce every field of a frozen dataclass in place.

    ContractError names class, field, found, expected.
    """
    for name, hint in field_types(type(instance)).items():
        value = _coerce(getattr(instance, name), hint, f"{type(instance).__name__}.{name}")
        object.__setattr__(instance, name, value)


def _coerce(value: Any, hint: Any, where: str) -> Any:
    inner = optional_inner(hint)
    if inner is not None:
        return None if value is None else _coerce(value, inner, where)
    if get_origin(hint) is tuple:
        return _coerce_tuple(value, hint, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _coerce_enum(value, hint, where)
    if hint is float:
        return _coerce_float(value, where)
    if hint is str and isinstance(value, str):
        return _encodable(value, where)
    if hint is int:
        if not isinstance(value, bool) and isinstance(value, numbers.Integral):
            return int(value)
    elif isinstance(value, hint):
        return value
    raise ContractError(f"{where}: found {value!r} ({type(value).__name__}), expected {hint.__name__}")


def _encodable(value: str, where: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ContractError(
            f"{where}: found {value!r}, expected text that UTF-8 can encode (no lone surrogates)"
        ) from None
    return str(value)


def _coerce_float(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ContractError(f"{where}: found {value!r} ({type(value).__name__}), expected a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ContractError(f"{where}: found {number}, expected a finite number")
    return number


def _coerce_enum(value: Any, hint: type[Enum], where: str) -> Enum:
    try:
        return hint(value)
    except ValueError:
        allowed = ", ".join(repr(member.value) for member in hint)
        raise ContractError(f"{where}: found {value!r}, allowed: {allowed}") from None


def _coerce_tuple(value: Any, hint: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise ContractError(f"{where}: found {value!r} ({type(value).__name__}), expected a sequence")
    items = tuple_items(hint, len(value)) or ()
    if len(items) != len(value):
        raise ContractError(f"{where}: found {len(value)} items, expected {len(items)}")
    return tuple(_coerce(item, kind, f"{where}[{i}]") for i, (item, kind) in enumerate(zip(value, items, strict=True)))


def encode(value: Any) -> Any:
    """Plain JSON data (dict, list, str, int, float, bool, None) of a conforming dataclass."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {name: getattr(value, name) for name in field_types(type(value))}
        return {name: encode(v) for name, v in kept.items() if v is not None or name not in omittable(type(value))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    return value


def decode(cls: type[T], data: Any, where: str) -> T:
    """Build `cls` from JSON data; unknown and missing keys are errors; ContractError carries the JSON path `where`."""
    if not isinstance(data, Mapping):
        raise ContractError(f"{where}: found {type(data).__name__}, expected an object with the keys of {cls.__name__}")
    hints = field_types(cls)
    unknown, missing = sorted(set(data) - set(hints)), sorted(set(hints) - set(data) - omittable(cls))
    if unknown:
        raise ContractError(f"{where}: unknown keys {unknown}, allowed: {sorted(hints)}")
    if missing:
        raise ContractError(f"{where}: missing keys {missing}, expected all of {sorted(hints)}")
    given = {name: hint for name, hint in hints.items() if name in data}
    arguments = {name: _decode_value(data[name], hint, f"{where}.{name}") for name, hint in given.items()}
    try:
        return cls(**arguments)
    except ContractError as error:
        raise ContractError(f"{where}: {error}") from None


def _decode_value(value: Any, hint: Any, where: str) -> Any:
    inner = optional_inner(hint)
    if inner is not None:
        return None if value is None else _decode_value(value, inner, where)
    if dataclasses.is_dataclass(hint):
        return decode(hint, value, where)  # type: ignore[arg-type]
    if isinstance(value, list) and (items := tuple_items(hint, len(value))) is not None and len(items) == len(value):
        return tuple(
            _decode_value(v, kind, f"{where}[{i}]") for i, (v, kind) in enumerate(zip(value, items, strict=True))
        )
    return value
