"""Errors that end a script with one line, and the function that runs a script's main."""

import errno
import os
import select
import sys
from collections.abc import Callable

# What a file may be the matter with that its user can mend.
USER_FIXABLE_ERRNOS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
)


class UserError(Exception):
    """A mistake that the user can mend: one line that says what is wrong, where, and what to do."""


class RunError(Exception):
    """A run that cannot go on through no typing mistake: one line that says what happened and how to go on."""


class LocalRankError(RunError):
    """One that a rank meets alone, so that no other says it."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's main; errors print one line on stderr. Exit codes: 2 user's mistake, 1 failed run, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # what a terminal has no character for
    try:
        main()
    except (UserError, RunError) as error:
        # The ranks of a machine meet the same error, and one says it.
        if isinstance(error, LocalRankError) or os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout.fileno(), 0)
        if not output.poll(0):
            raise  # another pipe's
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # who reads the output has seen enough
        raise SystemExit(1) from None
    except OSError as error:
        if error.errno not in USER_FIXABLE_ERRNOS:
            raise
        print(f"error: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        raise SystemExit(1 if error.errno in (errno.ENOSPC, errno.EDQUOT) else 2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
