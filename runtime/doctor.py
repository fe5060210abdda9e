"""Report of what this machine has for SmolLlama: python -m runtime.doctor, or bash install.sh doctor.

It imports third-party packages only where they are installed, so it also runs where nothing is.
"""

from runtime.requirements import is_installed, remedy, require_python

if __name__ == "__main__":
    require_python()

import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parent.parent
GIGABYTE = 1e9
FEW_OPEN_FILES = 1024  # a dataset of many files needs more


def python_note() -> str:
    """Return the interpreter's version and place, and whether the version is supported."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    note = "" if supported else ", not supported: use 3.11, 3.12 or 3.13"
    return f"{platform.python_version()} in {sys.prefix}{note}"


def packages_note() -> str:
    """Compare the installed packages with the pins of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    differing = []
    for name, pinned in (pin.split("==") for pin in project["dependencies"]):
        try:
            installed = version(name).split("+")[0]
        except PackageNotFoundError:
            installed = "missing"
        if installed != pinned:
            differing.append(f"{name} {installed} (wanted {pinned})")

    if differing:
        return f"{'; '.join(differing)}: {remedy()}"
    return f"all {len(project['dependencies'])} as pinned"


def torch_note() -> str:
    """Return torch's version and build."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    return f"{torch.__version__}, {build}, {torch.get_num_threads()} threads"


def device_note() -> str:
    """Name the device that training would use, and its memory."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / GIGABYTE
        count = torch.cuda.device_count()
        return f"{count} x {torch.cuda.get_device_name(0)}, {memory:.0f} GB"
    if torch.backends.mps.is_available():
        return f"mps, {torch.mps.recommended_max_memory() / GIGABYTE:.0f} GB"
    return f"cpu ({processor_name()})"


def processor_name() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def dtypes_note() -> str:
    """Return the measured speed of matrix products by dtype, on the device that training would use."""
    import torch

    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"

    speeds = []
    for dtype in (torch.float32, torch.bfloat16):
        speed = matmul_flops(device, dtype)
        speeds.append(f"{str(dtype).removeprefix('torch.')} {speed / 1e9:,.0f} GFLOP/s")
    return ", ".join(speeds)


def matmul_flops(device: str, dtype: "object", size: int = 1024, seconds: float = 0.5) -> float:
    """Return the FLOP/s of square matrix products within about `seconds`; one product at least."""
    import torch

    a = torch.ones(size, size, device=device, dtype=dtype)
    best = float("inf")
    end = time.perf_counter() + seconds
    while True:
        start = time.perf_counter()
        result = a @ a
        torch.get_device_module(device).synchronize()
        best = min(best, time.perf_counter() - start)
        del result
        if time.perf_counter() > end:
            return 2 * size**3 / best


def compiler_note() -> str:
    """Name the C++ compiler that torch.compile needs, and the C compiler of the CPU decoder."""
    compilers = [name for name in ("g++", "clang++", "cc", "gcc", "clang") if shutil.which(name)]
    if not compilers:
        return "none: no torch.compile on a CPU, and a slower decoder there"
    return ", ".join(compilers)


def cores_note() -> str:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return str(len(os.sched_getaffinity(0)))
    return str(os.cpu_count())


def memory_note() -> str:
    """Return the machine's memory."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # Windows has no sysconf
        return "unknown"
    return f"{total / GIGABYTE:.1f} GB"


def disk_note() -> str:
    """Return the free disk space where the repository is."""
    usage = shutil.disk_usage(ROOT)
    return f"{usage.free / GIGABYTE:.1f} GB free of {usage.total / GIGABYTE:.1f} GB"


def open_files_note() -> str:
    """Return the limit of open files."""
    try:
        import resource
    except ImportError:  # Windows
        return "unknown"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    advice = f", raise it with: ulimit -n {min(hard, 65536)}" if soft < FEW_OPEN_FILES else ""
    return f"{soft}{advice}"


def hub_note() -> str:
    """Say which hub is used, whether a token is stored, and whether offline mode is on. Sends nothing."""
    from huggingface_hub import constants, get_token

    login = "logged in" if get_token() else "not logged in (hf auth login)"
    offline = ", HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return f"{constants.ENDPOINT}, {login}{offline}"


def wandb_note() -> str:
    """Say how Weights & Biases would be used. Sends nothing."""
    mode = os.environ.get("WANDB_MODE", "auto")
    netrc = Path.home() / ".netrc"
    stored = netrc.is_file() and "wandb" in netrc.read_text(encoding="utf-8", errors="replace")
    login = "logged in" if stored or os.environ.get("WANDB_API_KEY") else "not logged in"
    return f"WANDB_MODE {mode}, {login}"


def git_note() -> str:
    """Return the commit of this checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def report() -> list[tuple[str, str]]:
    """Return (name, note) of everything that is looked at."""
    rows: list[tuple[str, str | None, Callable[[], str]]] = [
        ("SmolLlama", None, git_note),
        ("system", None, lambda: f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ("Python", None, python_note),
        ("packages", None, packages_note),
        ("torch", "torch", torch_note),
        ("device", "torch", device_note),
        ("matrix products", "torch", dtypes_note),
        ("compilers", None, compiler_note),
        ("cores", None, cores_note),
        ("memory", None, memory_note),
        ("disk", None, disk_note),
        ("open files", None, open_files_note),
        ("hub", "huggingface_hub", hub_note),
        ("wandb", "wandb", wandb_note),
    ]
    notes = []
    for name, package, note in rows:
        if package and not is_installed(package):
            notes.append((name, f"{package} is not installed: {remedy()}"))
            continue
        try:
            notes.append((name, note()))
        except (ImportError, OSError, RuntimeError) as error:  # such as a library that torch needs
            notes.append((name, f"fails ({type(error).__name__}: {' '.join(str(error).split())})"))
    return notes


def main() -> None:
    """Print the report."""
    for name, note in report():
        print(f"{name:16} {note}")


if __name__ == "__main__":
    main()
