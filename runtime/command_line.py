"""Command-line parser: flags from the fields of a dataclass, and one line on stderr for a wrong flag."""

import argparse
import dataclasses
import math
import sys
import typing
from collections.abc import Callable, Iterable


def setting(
    default: object,
    group: str,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> typing.Any:
    """Return a field of the settings with its default, the group of its flag, its help and the legal range."""
    limits = {"minimum": minimum, "maximum": maximum, "below": below}
    return dataclasses.field(default=default, metadata={"group": group, "help": help, **limits})


class Parser(argparse.ArgumentParser):
    """argparse that takes complete flag names only, and answers a wrong flag with one line and exit code 2."""

    def __init__(self, description: str, **options: object):
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def error(self, message: str) -> typing.NoReturn:
        """Print one line and exit with code 2."""
        print(f"error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)

    def add_fields(self, settings: type, wanted: Iterable[str]) -> None:
        """Add a flag for each field of a dataclass whose name or group is wanted.

        A field's metadata hold its "group" and "help". A flag that is not typed leaves nothing in the result.
        """
        hints = typing.get_type_hints(settings)
        groups: dict[str, argparse._ArgumentGroup] = {}
        for field in dataclasses.fields(settings):
            group = field.metadata["group"]
            if group in wanted or field.name in wanted:
                if group not in groups:
                    groups[group] = self.add_argument_group(group)
                options = flag_options(hints[field.name], field)
                groups[group].add_argument(f"--{field.name}", default=argparse.SUPPRESS, **options)


def flag_options(hint: type, field: dataclasses.Field) -> dict:
    """Return argparse's options for a field.

    X | None reads an X, X | Literal | None also the words, Literal alone gives choices, bool --x and --no-x.
    """
    text = field.metadata["help"]
    if field.default not in (None, ()):
        text += f" (default: {field.default})"
    options = {"help": text.replace("%", "%%")}

    words: tuple[str, ...] = ()
    if type(None) in typing.get_args(hint):
        hint, *others = (t for t in typing.get_args(hint) if t is not type(None))
        words = tuple(word for other in others for word in typing.get_args(other))
    if words:
        return {**options, "type": _value_or_word(hint, words), "metavar": hint.__name__.upper()}
    if typing.get_origin(hint) is typing.Literal:
        return {**options, "choices": typing.get_args(hint)}
    if hint is bool:
        return {**options, "action": argparse.BooleanOptionalAction}
    if typing.get_origin(hint) is tuple:
        return {**options, "nargs": "+", "action": "extend", "metavar": "TEXT"}
    return {**options, "type": hint, "metavar": hint.__name__.upper()}


def _value_or_word(kind: type, words: tuple[str, ...]) -> Callable[[str], object]:
    """Return a function that reads a value of a type, or one of the words."""

    def read(text: str) -> object:
        return text if text in words else kind(text)

    read.__name__ = f"{kind.__name__} or {' or '.join(words)}"  # argparse names it in its complaint
    return read


def range_errors(f: dataclasses.Field, value: float) -> Iterable[str]:
    """Yield why a number is outside the legal range of its field."""
    minimum, maximum, below = (f.metadata[name] for name in ("minimum", "maximum", "below"))

    # --clip inf is no clipping; no other setting may be infinite, and none may be NaN.
    if math.isnan(value) or (math.isinf(value) and f.name != "clip"):
        yield f"--{f.name} {value} is not a finite number"
    elif minimum is not None and value < minimum:
        yield f"--{f.name} {value} is below {minimum}"
    elif maximum is not None and value > maximum:
        yield f"--{f.name} {value} is above {maximum}"
    elif below is not None and value >= below:
        yield f"--{f.name} {value} must be below {below}"
