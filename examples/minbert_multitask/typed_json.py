"""Dataclasses as JSON values and back, checked against their annotations on the way back."""

import math
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints


def to_plain(value: object) -> object:
    """Returns a value as JSON can hold it: dataclasses are objects, tuples lists, NaN and infinities null."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(value: Any, kind: Any, *, place: str) -> Any:
    """Returns what :func:`to_plain` was given; a null where a float must be is NaN.

    Args:
        value: A JSON value.
        kind: The type annotation it must fit: a dataclass, ``dict[str, X]``, ``tuple[X, ...]``, ``X | None``,
            a plain type, or Any.
        place: What an error calls the value.

    Raises:
        ValueError: If it does not fit.
    """
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return None if value is None else from_plain(value, arguments[0], place=place)
    if not isinstance(value, _json_types(origin)) or (isinstance(value, bool) and kind not in (bool, Any)):
        raise ValueError(f"{place} must be {getattr(origin, '__name__', kind)}, got {str(value)[:40]!r}")
    if origin is dict:
        return {key: from_plain(item, arguments[1], place=f"{place}[{key!r}]") for key, item in value.items()}
    if origin is tuple:
        items = enumerate(value)
        return tuple(from_plain(item, arguments[0], place=f"{place}[{index}]") for index, item in items)
    if is_dataclass(origin):
        hints = get_type_hints(origin)
        if not _required(origin) <= value.keys() <= hints.keys():
            raise ValueError(f"{place} must have {', '.join(hints)}, got {str(list(value))[:80]}")
        return kind(**{n: from_plain(item, hints[n], place=f"{place}.{n}") for n, item in value.items()})
    return _number(value, place) if kind is float else value


def _required(kind: Any) -> set[str]:
    """Returns the names of a dataclass's fields that have no default: what older files lack has one."""
    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


def _number(value: float | None, place: str) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        raise ValueError(f"{place} must be float, got a whole number beyond its range") from None


def _json_types(kind: Any) -> Any:
    if kind is Any:
        return object
    return dict if is_dataclass(kind) else {tuple: list, float: (int, float, types.NoneType)}.get(kind, kind)
