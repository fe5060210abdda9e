"""A run's metrics in an outside service, Weights & Biases or trackio: sent from a thread, so that no step waits."""

import atexit
import contextlib
import os
import queue
import secrets
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runtime.errors import UserError
from runtime.files import write_text
from runtime.requirements import is_installed

TRACKIO = "trackio==0.43.0"  # as in pyproject.toml
PROJECT = "smolllama"
MAX_WAITING = 10_000  # rows that wait for the service, some MB; more are left out there
FINISH_SECONDS = 20  # how long the end of a run waits for the service; torchrun kills 30 s after SIGTERM
UPLOAD_SECONDS = 15  # of them, how long wandb may upload


class Service(Protocol):
    """A run in an outside service, whose methods may raise anything, be slow, or never return."""

    def log(self, step: int, values: dict) -> None:
        """Send the values of one step; a step may come again, after a rollback or on resume."""

    def finish(self, failed: bool) -> None:
        """Send what is left, and end the run."""

    def abandon(self) -> None:
        """Let go of a service that fails or hangs, so that Python can exit."""


class Tracker:
    """Sender of rows to a service: none of its faults stops or slows a step, and a run's end waits a bounded time."""

    def __init__(self, name: str, start: Callable[[], Service]):
        self.name = name
        self.waiting: queue.Queue[tuple[int, dict] | None] = queue.Queue(MAX_WAITING)
        self.service: Service | None = None
        self.has_room = True
        self.finished = False
        self.failed = False
        self.given_up = False
        self.thread = threading.Thread(target=self._send_all, args=(start,), name=name, daemon=True)
        self.thread.start()

    def log(self, step: int, values: dict) -> None:
        """Queue one row; where the service is slow or hangs until there is no room for it, leave it out there."""
        if not self.thread.is_alive():
            return
        try:
            self.waiting.put_nowait((step, values))
        except queue.Full:
            if self.has_room:
                self._say("does not keep up and gets only some of the rows, but the run continues")
            self.has_room = False

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Send what waits and end the run in the service; after `seconds`, give up."""
        if self.finished:
            return
        self.finished = True
        deadline = time.monotonic() + seconds
        with contextlib.suppress(queue.Full):
            self.waiting.put(None, timeout=seconds)
        self.thread.join(max(0.0, deadline - time.monotonic()))

        if self.thread.is_alive():
            self.given_up = True
            self._say(f"has not taken all rows within {seconds:g} s")
            if self.service:
                self.service.abandon()

    def _finish_failed(self) -> None:
        """End the run in the service as a failed one, if the process ends without having done so."""
        self.failed = not self.finished
        self.finish()

    def _send_all(self, start: Callable[[], Service]) -> None:
        """Start the service, and send it one row after the other until the end."""
        try:
            service = start()
            # For an error that ends this process. The hooks of Python's exit run in reverse order: this one before that
            # of wandb, which waits for its own process without end.
            atexit.register(self._finish_failed)
            self.service = service
            while row := self.waiting.get():
                service.log(*row)
            service.finish(self.failed)
        except Exception as error:  # an optional service: its faults, of any kind, must not stop training
            if self.given_up:
                return
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._say(f"gets no more rows ({reason})")
            if self.service:
                self.service.abandon()

    def _say(self, fault: str) -> None:
        """Print a fault as one line."""
        print(f"{self.name} {fault}; metrics.jsonl has all of them", file=sys.stderr)


def check_tracker(name: str) -> None:
    """Raise UserError where the package of a --tracker is missing."""
    if name == "trackio" and not is_installed("trackio"):
        raise UserError(f"--tracker trackio needs the package trackio: pip install {TRACKIO}")


def start_tracker(folder: Path, name: str, wandb: str, settings: dict) -> Tracker | None:
    """Return a tracker of the run in a folder, or None: `name` is that of --tracker, `wandb` is --wandb."""
    if name == "trackio":
        return Tracker(name, lambda: TrackioRun(folder, settings))
    if name == "wandb" and (mode := wandb_mode(wandb)) != "disabled":
        return Tracker(name, lambda: WandbRun(folder, mode, settings))
    return None


def _read_or_make_id(folder: Path, service: str) -> str:
    """Return the id under which a service knows the run: kept in the run's folder, it outlives resumes and restarts."""
    path = folder / f"{service}_id"
    if not path.is_file():
        write_text(path, secrets.token_hex(4))
    return path.read_text(encoding="utf-8").strip()


def wandb_mode(flag: str) -> str:
    """Return online, offline or disabled: --wandb if typed, else WANDB_MODE; auto where neither decides."""
    if flag != "auto":
        return flag
    # The modes that wandb documents, and their names in its earlier versions.
    known = {
        "online": "online",
        "run": "online",
        "offline": "offline",
        "dryrun": "offline",
        "disabled": "disabled",
    }
    return known.get(os.environ.get("WANDB_MODE", ""), "auto")


class WandbRun:
    """A run of Weights & Biases, online where somebody is logged in; it never prompts."""

    def __init__(self, folder: Path, mode: str, settings: dict):
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault(
            "WANDB_ERROR_REPORTING", "false"
        )  # or it would send something when offline, too
        import wandb  # seconds to import, and only one rank logs

        if mode != "offline" and not wandb.login(prompt=False, verify=False):
            if mode == "online":
                print(
                    "not logged in to wandb, so it records offline (to change that: wandb login)",
                    file=sys.stderr,
                )
            mode = "offline"
        quiet = wandb.Settings(
            console="off",
            silent=True,
            init_timeout=30,
            finish_timeout=UPLOAD_SECONDS,
            finish_timeout_raises=True,
            x_disable_stats=True,
        )
        self.folder = folder
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", folder.name),
            id=_read_or_make_id(folder, "wandb"),
            resume="allow",
            dir=folder,
            config=settings,
            settings=quiet,
            mode="offline" if mode == "offline" else "online",
        )

        # wandb's own steps only grow, and it drops rows with a smaller one, as they come after a rollback or on
        # resume. So it counts the rows, and our step is a value beside the others, drawn as the x axis.
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, step: int, values: dict) -> None:
        """Send the values of one step."""
        self.run.log({"step": step, **values})

    def finish(self, failed: bool) -> None:
        """Upload what is left; what a server does not take in time stays on disk."""
        try:
            if failed:
                self.run.finish(exit_code=1)
            else:
                self.run.finish()
        except TimeoutError:
            print(
                f"wandb has not uploaded all rows within {UPLOAD_SECONDS} s; to send the rest later: "
                f"wandb sync --include-online {self.folder / 'wandb'}",
                file=sys.stderr,
            )

    def abandon(self) -> None:
        """Kill wandb's own process, and unregister the hook by which Python's exit would wait for it."""
        import wandb

        with contextlib.suppress(AttributeError):  # private names, of the version that pyproject.toml pins
            connection = wandb.setup()._connection
            if connection.owns_service:
                connection._cleanup()
                connection._proc._process.kill()


class TrackioRun:
    """A run of trackio: a database in the home directory, which `trackio show` draws."""

    def __init__(self, folder: Path, settings: dict):
        # trackio asks of each value whether it is a figure, and fails while another thread imports the module.
        import matplotlib.figure  # noqa: F401

        with contextlib.redirect_stdout(sys.stderr):
            import trackio

            # It would send the hub's token to the hub, to ask for the name of its owner.
            trackio.Run._get_username = lambda run: None
            # A run is resumed by its name, so the name holds an id.
            self.run = trackio.init(
                project=PROJECT,
                name=f"{folder.name}-{_read_or_make_id(folder, 'trackio')}",
                config=settings,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: dict) -> None:
        """Store the values of one step; steps may repeat."""
        self.run.log(values, step=step)

    def finish(self, failed: bool) -> None:
        """Store what is left; trackio does not tell a failed run from others."""
        with contextlib.redirect_stdout(sys.stderr):
            self.run.finish()

    def abandon(self) -> None:
        """Leave its threads, for which Python's exit does not wait."""
