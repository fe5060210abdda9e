"""Flags that decide how rows are read: --rename, --ignore and --skip_bad_rows."""

import argparse

from config import Parser
from dataprep.forms import FORMS, HISTORY_COLUMN, INPUT_COLUMNS, MARK_COLUMNS, SYSTEM_COLUMNS
from dataprep.turns import CONTENT_KEYS, LEARN_KEYS, ROLE_KEYS, ROLES, RowOptions

ROW_FLAGS = ("rename", "ignore", "skip_bad_rows")


def add_row_flags(parser: Parser) -> None:
    """Add the flags to a script's parser."""
    parser.add_argument(
        "--rename",
        nargs="+",
        action="extend",
        default=[],
        metavar="OLD=NEW",
        help="read a column, a key of a turn or a role under another name, such as body=text",
    )
    parser.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY",
        help="read rows without a column, a key of a turn, a type of content or a role, such as tools",
    )
    parser.add_argument(
        "--skip_bad_rows", action="store_true", help="skip malformed rows and count them, instead of stopping"
    )


def row_options(parser: Parser, args: argparse.Namespace) -> RowOptions:
    """Return the values of the flags; a wrong one exits with code 2."""
    names = readable_names()
    renames = []
    for rename in args.rename:
        old, equals, new = rename.rpartition("=")
        if not old or not equals:
            parser.error(f"--rename {rename} must be like OLD=NEW: --rename body=text")
        if new not in names:
            parser.error(
                f"--rename {rename}: {new!r} is not read; names that are: {', '.join(sorted(names))}"
            )
        renames.append((old, new))
    return RowOptions(tuple(renames), tuple(sorted({*args.ignore})), args.skip_bad_rows)


def readable_names() -> set[str]:
    """Return all names of columns, keys and roles that rows are read by."""
    columns = {column for form in FORMS for column in form.columns}
    beside = {*INPUT_COLUMNS, *SYSTEM_COLUMNS, HISTORY_COLUMN, *MARK_COLUMNS}
    return columns | beside | {*ROLE_KEYS, *CONTENT_KEYS, *LEARN_KEYS, *ROLES}
