"""Errors that end a script with one line, and the function that runs a script's main."""

import os
import select
import sys
from collections.abc import Callable

from runtime.limits import raise_open_files
from runtime.os_errors import ADVICE, DISK_FULL, in_words

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
MAX_STANDARD_DESCRIPTOR = 2  # 0 stdin, 1 stdout, 2 stderr


class UserError(Exception):
    """Mistake that the user can fix: one line that names the fault, its place, and the remedy."""


class RunError(Exception):
    """Failure of a run that is no typing mistake: one line that says what happened and how to resume."""


class LocalRankError(RunError):
    """Failure of one rank alone, which no other rank reports."""


def run_cli(main: Callable[[], None]) -> None:
    """Run a script's main and print its errors as one line on stderr.

    Exit codes: 2 a user's mistake, 1 a failed run, 130 Ctrl-C.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # characters that the terminal's encoding does not have

    raise_open_files()
    try:
        main()
    except UserError as error:
        _report_once(error)
        raise SystemExit(EXIT_USER_ERROR) from None
    except RunError as error:
        _report_once(error)
        raise SystemExit(EXIT_FAILED) from None
    except BrokenPipeError:
        if not _stdout_is_closed():
            raise  # it is another pipe
        _discard_stdout()
        raise SystemExit(EXIT_FAILED) from None
    except OSError as error:
        if error.errno not in ADVICE:
            raise
        print(f"error: {one_line(in_words(error, 'the output'))}", file=sys.stderr)
        raise SystemExit(EXIT_FAILED if error.errno in DISK_FULL else EXIT_USER_ERROR) from None
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # of Path.resolve() before Python 3.13
            raise
        print(f"error: {one_line(str(error))}: remove the links that lead in a circle", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED) from None


def _open_closed_streams() -> None:
    """Open /dev/null in place of a closed stdin, stdout or stderr: no file that is opened later takes its number."""
    descriptor = os.open(os.devnull, os.O_RDWR)
    while descriptor <= MAX_STANDARD_DESCRIPTOR:
        os.set_inheritable(descriptor, True)
        descriptor = os.open(os.devnull, os.O_RDWR)
    os.close(descriptor)

    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def _report_once(error: Exception) -> None:
    """Print an error on one rank of the machine only: the others fail with the same error."""
    is_first_rank = os.environ.get("LOCAL_RANK", "0") == "0"
    if is_first_rank or isinstance(error, LocalRankError):
        print(f"error: {one_line(str(error))}", file=sys.stderr)


def one_line(text: str) -> str:
    """Return a text on one line; what would steer a terminal, such as in names in files of strangers, is spelled."""
    words = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in words)


def _stdout_is_closed() -> bool:
    """Return True if the reader of stdout (such as `head`) has closed it."""
    if not hasattr(select, "poll"):  # Windows: most likely it is stdout
        return True
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    return bool(output.poll(0))


def _discard_stdout() -> None:
    """Send the rest of stdout to /dev/null, so that flushing it at exit does not fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
