"""Facts about torchrun, the launcher: which launch started this rank, and whether torchrun still runs."""

import os
import socket
import sys
import threading
import time
from pathlib import Path

from runtime.errors import UserError
from runtime.files import write_text

LAUNCH_FILE = "launch"  # in the run's folder: the launch that started the run
NO_LAUNCH_ID = "none"  # torchrun's value when no --rdzv-id was given
LAUNCH_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
POLL_SECONDS = 1.0


def is_local_main_process() -> bool:
    """Return True on the first rank of this machine, which reads what the machine's ranks share."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def exit_when_torchrun_dies() -> None:
    """Start a thread that ends this process when torchrun is gone.

    Without it, orphaned ranks would keep the run's folder locked against the ranks that are started next.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return

    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(POLL_SECONDS)

        print("torchrun is gone, so this rank exits: start again with --resume", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_launch_variables() -> None:
    """Raise UserError where the environment describes a launch of several ranks by halves."""
    values = {name: os.environ.get(name) for name in LAUNCH_VARIABLES}
    if values["RANK"] is None and values["WORLD_SIZE"] is None:
        return

    missing = [name for name, value in values.items() if value is None]
    if missing:
        given = next(name for name, value in values.items() if value is not None)
        raise UserError(
            f"the environment has {given} but not {', '.join(missing)}: start with torchrun, which sets all of "
            f"them, or unset {given}"
        )
    for name in ("RANK", "MASTER_PORT"):
        if not values[name].isdecimal():
            raise UserError(f"{name}={values[name]} in the environment is no number: start with torchrun")
    if int(values["RANK"]) >= int(values["WORLD_SIZE"]):
        raise UserError(
            f"RANK={values['RANK']} in the environment is not below WORLD_SIZE={values['WORLD_SIZE']}: start with "
            "torchrun"
        )


def launch_id() -> str | None:
    """Return a name that this launch shares with its restarts, and with no other launch; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    if name == NO_LAUNCH_ID:
        return f"{socket.gethostname()}-{os.getppid()}"  # torchrun itself, which outlives its restarts
    return name


def save_launch_id(run: Path) -> None:
    """Write the name of the launch that started a run into the run's folder."""
    if name := launch_id():
        write_text(run / LAUNCH_FILE, name)


def restarted_by_torchrun(run: Path) -> bool:
    """Return True if torchrun has restarted these ranks, or changed their number, in the middle of this run.

    The run's folder tells, not torchrun's count of restarts: it does not count machines that join and leave, and a
    launch may fail before it has begun its run, while an older run of that name is still there.
    """
    path = run / LAUNCH_FILE
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace") == launch_id()
