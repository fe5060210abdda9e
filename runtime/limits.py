"""Limits that the system sets to a process: open files and processor cores."""

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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


@contextmanager
def bounded(seconds: float, more_bytes: int) -> Iterator[None]:
    """Limit the time of Python code, and the memory that it gets from the system where that can be limited.

    It is meant for milliseconds of a stranger's code, such as a chat template. Raises TimeoutError or MemoryError.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    timer = threading.Timer(
        seconds, ctypes.pythonapi.PyThreadState_SetAsyncExc, (thread, ctypes.py_object(TimeoutError))
    )
    timer.daemon = True
    timer.start()
    try:
        with _bounded_memory(more_bytes):
            yield
    except TimeoutError:
        raise TimeoutError(f"it takes longer than {seconds:g} seconds") from None
    except MemoryError:
        raise MemoryError(f"it takes more than {more_bytes / 1e9:.0f} GB of memory") from None
    finally:
        timer.cancel()


@contextmanager
def _bounded_memory(more_bytes: int) -> Iterator[None]:
    """Limit the address space of this process to what it has and some bytes more; nowhere but on Linux."""
    size = Path("/proc/self/statm")
    if resource is None or not size.is_file():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(size.read_text().split()[0]) * resource.getpagesize() + more_bytes
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
