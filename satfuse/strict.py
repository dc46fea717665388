"""Dataclasses from plain data (TOML, JSON); unknown keys and wrong types are refused."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from satfuse.errors import ConfigError

T = TypeVar("T")
Hint = Any  # a type, or a form of `typing`: these have no common type
Value = Any  # checked against a hint at run time

# the words of a TOML file, which is where most of these values are written
_WORDS = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    tuple: "a list",
    list: "a list",
    dict: "a table",
}


def from_dict(cls: type[T], data: Mapping[str, Any], where: str) -> T:
    """Build a dataclass from a dictionary whose keys are its fields.

    Whole numbers pass for `float`, lists for tuples, and dictionaries for nested dataclasses; true
    and false are no numbers. The checks of the dataclass itself (`__post_init__`) are part of it.

    Parameters
    ----------
    cls : a dataclass whose fields are plain types, `Any`, `Literal`, dataclasses, or tuples, lists,
        dictionaries and unions of these.
    data : values by field name; fields with a default may be absent.
    where : what the data are, such as the path of a file; every message begins with it.

    Raises
    ------
    ConfigError
        An unknown or missing key, or a value that is not allowed; the message names it, and what
        is allowed.
    """
    try:
        built: T = _build(cls, data, "")
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    return built


def _build(cls: Hint, data: Mapping[str, Any], parent: str) -> Value:
    """`parent` is the path of the enclosing keys: "" or, for example, "batches."."""
    known = {f.name: f for f in fields(cls)}
    if unknown := [f"{parent}{key}" for key in data if key not in known]:
        keys = ", ".join(map(repr, unknown))
        raise ConfigError(f"unknown key {keys}; known: {', '.join(known)}")
    required = [k for k, f in known.items() if f.default is f.default_factory is MISSING]
    if missing := [f"{parent}{key}" for key in required if key not in data]:
        raise ConfigError(f"missing key {', '.join(map(repr, missing))}")
    hints = get_type_hints(cls)
    return cls(**{key: _value(data[key], hints[key], f"{parent}{key}") for key in data})


def _value(value: Value, hint: Hint, key: str) -> Value:
    """The value, converted to what its type hint asks for."""
    kind: Hint = get_origin(hint) or hint
    parts = get_args(hint)
    if kind is Any or (kind is Literal and value in parts):
        return value
    if kind in (Union, UnionType):
        for part in parts:
            with suppress(ConfigError):
                return _value(value, part, key)
    if is_dataclass(kind) and isinstance(value, dict):
        return _build(kind, value, f"{key}.")
    if kind is dict and isinstance(value, dict):
        value_hint = parts[1] if parts else Any
        return {k: _value(v, value_hint, f"{key}.{k}") for k, v in value.items()}
    if kind in (tuple, list) and isinstance(value, tuple | list):
        return kind(_items(value, hint, key))
    if kind is float and type(value) is int:
        return float(value)
    # bool is a subclass of int, but true is no number
    is_plain = isinstance(kind, type) and (kind is bool or not isinstance(value, bool))
    if is_plain and isinstance(value, kind):
        return value
    raise ConfigError(f"{key} = {value!r} must be {_allowed(hint)}")


def _items(values: Sequence[Value], hint: Hint, key: str) -> list[Value]:
    """The values of a list, which may be of any length for `list[T]` and `tuple[T, ...]`."""
    hints = get_args(hint) or (Any, ...)
    if get_origin(hint) is list or hints[-1] is ...:
        hints = hints[:1] * len(values)
    if len(hints) != len(values):
        raise ConfigError(f"{key} = {values!r} must be a list of {len(hints)}")
    return [_value(v, h, f"{key}[{i}]") for i, (v, h) in enumerate(zip(values, hints, strict=True))]


def _allowed(hint: Hint) -> str:
    """What a type hint allows, in words. None is left out, since TOML has no word for it."""
    kind: Hint = get_origin(hint) or hint
    if kind is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if kind in (Union, UnionType):
        return " or ".join(_allowed(part) for part in get_args(hint) if part is not NoneType)
    return "a table" if is_dataclass(kind) else _WORDS.get(kind, str(kind))
