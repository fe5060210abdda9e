"""Check of Python and its packages at the start of a script: one line instead of the traceback of a failed import.

Older Pythons must be able to read this file, and the first lines of every script, so they use no syntax newer than 3.8.
"""

import importlib.util
import os
import shlex
import sys
import urllib.parse

MIN_PYTHON = (3, 11)
EXIT_USER_ERROR = 2  # as in runtime/errors.py, which older Pythons cannot read
COMMON = ("numpy", "tiktoken", "tokenizers", "tqdm")  # all scripts need them
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ON_WINDOWS = os.name == "nt"


def require(*packages: str) -> None:
    """Exit with one line and code 2 if this Python is too old or lacks a package; COMMON is always included.

    No package is imported: that takes seconds.
    """
    require_python()
    _defuse_hub_address()
    for package in packages + COMMON:
        if not is_installed(package):
            _exit(f"{package} is not installed in this Python ({sys.executable})", remedy(package))


def _defuse_hub_address() -> None:
    """Change a malformed HF_ENDPOINT so that importing the hub's library survives it.

    Without its scheme it is still no address: runtime/hub.py says so to who needs the hub, and nobody else has to care.
    """
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        _ = urllib.parse.urlsplit(address).port
    except ValueError:
        os.environ["HF_ENDPOINT"] = address.replace("://", "//", 1)


def require_python() -> None:
    """Exit with one line and code 2 if this Python is too old."""
    if sys.version_info < MIN_PYTHON:
        current = ".".join(map(str, sys.version_info[:2]))
        oldest = ".".join(map(str, MIN_PYTHON))
        _exit(f"this Python ({sys.executable}) is {current}, older than {oldest}", remedy())


def is_installed(package: str) -> bool:
    """Return True if a package can be imported.

    A folder of that name in the current folder, such as gradio/ or wandb/ here, is no installed package: the spec of
    a folder without __init__.py has no origin.
    """
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def remedy(package: str = "") -> str:
    """Return the command to type: it activates .venv, or installs if there is none or it is already active.

    gradio, which only the page needs, may be added to any environment.
    """
    if _activation():
        return _activation()
    if package == "gradio":
        return "pip install gradio"
    if ON_WINDOWS:
        return "python -m pip install " + _from_here(ROOT)
    return "bash " + _from_here(os.path.join(ROOT, "install.sh"))


def _activation() -> str:
    """Return the command that activates .venv; "" if there is none or it is already active."""
    folder = os.path.join(ROOT, ".venv")
    script = os.path.join(folder, "bin", "activate")
    if ON_WINDOWS:
        script = os.path.join(folder, "Scripts", "activate")

    is_active = os.path.realpath(sys.prefix) == os.path.realpath(folder)
    if is_active or not os.path.isfile(script):
        return ""
    if ON_WINDOWS:
        return _from_here(script)
    return "source " + _from_here(script)


def _from_here(path: str) -> str:
    """Return a path as it is typed in the current folder."""
    if os.path.realpath(os.getcwd()) == os.path.realpath(ROOT):
        path = os.path.relpath(path, ROOT)
    if ON_WINDOWS:
        return f'"{path}"'
    return shlex.quote(path)


def _exit(fault: str, command: str) -> None:
    """Print the fault and the command that helps, and exit."""
    print(f"error: {fault}: {command}", file=sys.stderr)
    raise SystemExit(EXIT_USER_ERROR)
