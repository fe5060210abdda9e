"""Facts about torchrun, the launcher: which launch started this rank, and whether torchrun still runs."""

import os
import sys
import threading
import time
from pathlib import Path

from runtime.files import write_text

LAUNCH_FILE = "launch"  # in the run's folder: --rdzv-id of the torchrun that started the run
NO_LAUNCH_ID = "none"  # torchrun's value when no --rdzv-id was given
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


def save_launch_id(run: Path) -> None:
    """Write the id of the torchrun launch that started a run into the run's folder."""
    launch_id = os.environ.get("TORCHELASTIC_RUN_ID")
    if launch_id:
        write_text(run / LAUNCH_FILE, launch_id)


def restarted_by_torchrun(run: Path) -> bool:
    """Return True if torchrun has restarted these ranks, or changed their number, in the middle of this run.

    torchrun counts its restarts, but not the machines that join and leave. After those, the run's folder is
    recognised by the --rdzv-id of the command that started it.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0:
        return True

    launch_id = os.environ.get("TORCHELASTIC_RUN_ID", NO_LAUNCH_ID)
    path = run / LAUNCH_FILE
    return launch_id != NO_LAUNCH_ID and path.is_file() and path.read_text(encoding="utf-8") == launch_id
