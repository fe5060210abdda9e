"""Check of values that were read from a file against type hints: the file may be damaged, or a stranger's."""

import types
import typing
from collections.abc import Mapping


def wrong_value(values: Mapping[str, object], hints: Mapping[str, object]) -> str | None:
    """Return what is wrong with the first value that is not what its hint says; None if all are right.

    Lists stand for tuples, as in JSON; names without a hint may hold anything.
    """
    for name, hint in hints.items():
        if name in values and not fits(values[name], hint):
            return f"{name} is {repr(values[name])[:40]}"
    return None


def fits(value: object, hint: object) -> bool:
    """Return True if a value is what a hint says: numbers, texts, None, literals, unions, lists, tuples and dicts."""
    origin = typing.get_origin(hint) or hint
    parts = typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is typing.Literal:
        return isinstance(value, str) and value in parts
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(fits(each, parts[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and (not parts or all(fits(each, parts[1]) for each in value.values()))
    if origin is object:
        return True
    if origin is float:
        return type(value) in (int, float)
    if origin in (None, types.NoneType):
        return value is None
    return type(value) is origin  # True is no int
