"""Limits that the system sets to a process: open files and processor cores."""

import os
from contextlib import suppress

try:
    import resource
except ImportError:  # Windows has none
    resource = None

USUAL_OPEN_FILES = 1024  # where the system does not tell


def raise_open_files() -> None:
    """Raise the limit of open files to what the system allows; login shells often begin with 1,024."""
    if resource is None:
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS allows less than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_files() -> int:
    """Return the number of files that this process may have open."""
    if resource is None:
        return USUAL_OPEN_FILES
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft > 0 else USUAL_OPEN_FILES  # infinity is negative on some systems


def usable_cores() -> int:
    """Return the number of cores that this process may use, such as those of a Slurm job."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
