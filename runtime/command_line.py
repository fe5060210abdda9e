"""Command-line parser: flags from the fields of a dataclass, and one line on stderr for a wrong flag."""

import argparse
import dataclasses
import difflib
import math
import sys
import typing
from collections.abc import Callable, Iterable, Sequence

from runtime.errors import EXIT_USER_ERROR, one_line

MAY_BE_EMPTY = ("--prompt", "--system")  # flags whose value is a text; an empty one may be meant
MAX_SUGGESTIONS = 3
SIMILAR = 0.65  # from here on, two names of flags probably mean the same
MAX_VALUE = 40  # characters of a wrong value in a message
NUMBERS = {int: "an integer, such as 1000", float: "a number, such as 0.1"}


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
        for kind in NUMBERS:
            self.register("type", kind, _number_reader(kind))

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Return the values of the flags; a word that belongs to none exits with code 2."""
        words = self._check_words(sys.argv[1:] if args is None else list(args))
        values, unread = self.parse_known_args(words, namespace)
        if unread:
            self.error(f"{' '.join(unread)!r} belongs to no flag")
        return values

    def error(self, message: str) -> typing.NoReturn:
        """Print one line and exit with code 2."""
        print(f"error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)

    def _check_words(self, words: list[str]) -> list[str]:
        """Return the words; a value that begins with a dash, such as -1e-3, is joined to its flag: --max_lr=-1e-3.

        A flag that is unknown, has an empty value, or a value where it takes none exits with code 2.
        """
        flags = self._option_string_actions
        has_positionals = any(not action.option_strings for action in self._actions)
        checked: list[str] = []
        for number, word in enumerate(words):
            if word == "--":  # the words after it are no flags
                return checked + words[number:]

            name, equals, value = word.partition("=")
            before = flags.get(checked[-1]) if checked else None
            takes_value = before is not None and before.nargs != 0
            if takes_value and not word:
                self._check_empty(checked[-1])
            elif name in flags and equals and not value:
                self._check_empty(name)

            if name in flags:
                checked.append(word)
            elif not word.startswith("-") or word == "-":
                if before is not None and not takes_value and not has_positionals:
                    self.error(f"{checked[-1]} takes no value: drop {word!r}")
                checked.append(word)
            elif takes_value and (" " in word or not word.startswith("--")):
                checked[-1] += f"={word}"
            else:
                self.error(f"{name} is no flag of {self.prog}{self._suggestion(name)}")
        return checked

    def _check_empty(self, flag: str) -> None:
        """Exit with code 2 for a flag that may not be empty."""
        if flag not in MAY_BE_EMPTY:
            self.error(f"{flag} is empty: give a value, or drop the flag")

    def _suggestion(self, wrong: str) -> str:
        """Return the flags that a wrong one may mean: those with a similar name, or with its words in their help."""
        helps = {
            name: str(action.help).lower()
            for name, action in self._option_string_actions.items()
            if not name.startswith("--no-")
        }
        stem = wrong.strip("-").lower().replace("-", "_")
        names = [name for name in helps if name.lower() == wrong.lower()]
        bare = {name.lstrip("-"): name for name in helps}
        names += [bare[match] for match in difflib.get_close_matches(stem, bare, MAX_SUGGESTIONS, SIMILAR)]
        names += [name for name in helps if len(stem) > 1 and stem in name]
        if "_" in stem:
            words = stem.replace("_", " ")
            names += sorted(
                (name for name in helps if words in helps[name]), key=lambda name: helps[name].find(words)
            )

        *others, last = list(dict.fromkeys(names))[:MAX_SUGGESTIONS] or [""]
        if not last:
            return ""
        return f": did you mean {', '.join(others)}{' or ' if others else ''}{last}?"

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
        if text in words:
            return text
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r:.{MAX_VALUE}} is not {NUMBERS[kind]}, nor {' or '.join(words)}"
            ) from None

    return read


def _number_reader(kind: type[int] | type[float]) -> Callable[[str], float]:
    """Return a function that reads a number, and names a wrong one as a user would."""

    def read(text: str) -> float:
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r:.{MAX_VALUE}} is not {NUMBERS[kind]}") from None

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
