"""Stand-in for Windows: run a script in a process that lacks what only POSIX systems have.

    python without_posix.py MODULE ...            import modules of ours
    python without_posix.py SCRIPT.py ARGUMENTS   run a script

The libraries are imported before: they have versions of their own for Windows.
"""

import importlib
import multiprocessing
import os
import runpy
import select
import shutil
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "torch",
    "torch.distributed.tensor",
    "torch.distributed.checkpoint.state_dict",
    "torch.distributed.fsdp",
    "huggingface_hub.hf_file_system",
    "pyarrow.parquet",
)
SLOW_LIBRARIES = ("transformers", "gguf", "gradio", "wandb")
POSIX_MODULES = (
    "fcntl",
    "resource",
    "pwd",
    "grp",
    "termios",
    "tty",
    "pty",
    "syslog",
    "multiprocessing.forkserver",
)
# SIGKILL and os.statvfs stay: multiprocessing uses them here, and other means on Windows.
POSIX_SIGNALS = (
    "SIGUSR1",
    "SIGUSR2",
    "SIGHUP",
    "SIGQUIT",
    "SIGALRM",
    "SIGCHLD",
    "SIGPIPE",
    "SIGSTOP",
)
POSIX_FUNCTIONS = (
    "fork",
    "forkpty",
    "sysconf",
    "sched_getaffinity",
    "getuid",
    "geteuid",
    "getgid",
    "getloadavg",
    "killpg",
    "setsid",
    "mkfifo",
    "pread",
    "pwrite",
    "posix_fadvise",
    "posix_fallocate",
)


def remove_posix() -> None:
    """Remove modules, signals and functions that Windows lacks; on Windows itself nothing is to be removed."""
    if os.name == "nt":
        return

    for name in POSIX_MODULES:
        sys.modules[name] = None
    for name in POSIX_SIGNALS:
        delattr(signal, name)
    for name in POSIX_FUNCTIONS:
        delattr(os, name)
    del select.poll
    shutil._use_fd_functions = False
    multiprocessing.reduction.HAVE_SEND_HANDLE = False  # then there is no fork server

    really_open = os.open

    def open_no_folder(path: str, flags: int, *mode: int, **options: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return really_open(path, flags, *mode, **options)

    os.open = open_no_folder


def main() -> None:
    """Import modules, or run a script."""
    first, *arguments = sys.argv[1:]
    is_script = first.endswith(".py")
    libraries = LIBRARIES
    if not is_script:
        libraries += SLOW_LIBRARIES
    for library in libraries:
        importlib.import_module(library)
    sys.path[0] = str(ROOT)
    remove_posix()

    from runtime import files

    files.ON_WINDOWS = True
    if is_script:
        sys.argv = [first, *arguments]
        runpy.run_path(str(ROOT / first), run_name="__main__")
        return

    sys.path.append(str(ROOT / "gradio"))
    for module in (first, *arguments):
        importlib.import_module(module)
    print(len(arguments) + 1)


if __name__ == "__main__":
    main()
