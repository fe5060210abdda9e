"""Deals are played: the run, its faults, what the printed line says; then its end, compared with an unbroken run."""

import fcntl
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from deal_hooks import at, full_disk, marked, no_space, not_finite, note_rows, send, stall, wait_for
from deals import STEPS, Config, Deal, Fault
from forks import Forked, fork
from injected_faults import assert_same_run, flip
from toy import metrics, toy_dataset

import checkpoint
from runtime.errors import UserError

NAME = "deal"
DATASETS = {"toy": "text", "toy-instruct": "instruct", "toy-preference": "preference"}
PEERS_SECONDS = 2  # that the other ranks have when one has failed; then torchrun ends them
RUN_SECONDS = 240
STALL_MINUTES = 0.1  # a busy machine may take seconds for what is no stall

# The only lines with which a run may end, by fault. Each names a remedy, which is tried.
FULL_LINES = (
    r"the checkpoint of step \d+ could not be written to .*; the newest is \S+: make room, then rerun with --resume",
    r"the checkpoint of step \d+ could not be written to .*; the newest is none: make room, then start again with the "
    r"same command",
    r".*: No space left on device: make room there; saved checkpoints are complete: fix it and rerun with --resume",
    r".*: No space left on device: make room there; nothing is saved yet: fix it and start again with the same command",
)
GOOD_ENDS = (
    "stopped after step [1-5] of 6, saved in ",
    "stopped before the first step: start again with the same command",
    "done: ",
    "nothing left to do: step 6 of 6",
)
REFUSALS = (
    r"another process is at work in .*: wait for it, or stop it first",
    r"no model in .*: give a run folder, .*",
)


class Place:
    """A folder with toy data, and an unbroken run of each configuration, made once for all processes of a session."""

    def __init__(self, folder: Path):
        self.folder = folder
        with self.locked():
            if not (folder / "data").exists():
                for name, kind in DATASETS.items():
                    toy_dataset(folder / "partial", name, 200, kind)
                (folder / "partial").rename(folder / "data")

    def locked(self) -> "Lock":
        """Return a lock among the processes of the session."""
        return Lock(self.folder / "lock")

    def unbroken(self, config: Config) -> Path:
        """Return the folder of an unbroken run."""
        run = self.folder / "runs" / re.sub(r"\W+", "-", str(config))
        with self.locked():
            if not (run / f"step_{STEPS:06d}").exists():
                settings = {**config.settings(), **self.init_of(config.stage, self.folder)}
                before = arm_bad_steps(config)
                whole = fork(self.folder, run_name=run.name, ranks=config.ranks, before=before, **settings)
                assert whole.wait(RUN_SECONDS) == [0] * config.ranks, whole.said
        return run

    def init_of(self, stage: str, folder: Path) -> dict[str, Path]:
        """Return the flag --init_from of a DPO run in a folder, which has a copy of the model."""
        if stage != "D":
            return {}
        start = folder / "runs" / "start"
        if not start.exists():
            if folder == self.folder:
                done = fork(folder, run_name="start", **Config("S", 1, "adamw", "ddp", 1).settings())
                assert done.wait(RUN_SECONDS) == [0], done.said
            else:
                shutil.copytree(self.folder / "runs" / "start", start)
        return {"init_from": start}


class Lock:
    """A lock on a file, against other processes."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> None:
        self.file = self.path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *error: object) -> None:
        self.file.close()


def arm_bad_steps(config: Config) -> Callable[[int], None]:
    """Return what arms a process with the steps of a configuration that are not finite."""

    def before(rank: int) -> None:
        if config.bad_steps:
            not_finite(config.bad_steps, config.bad)

    return before


def wait_like_torchrun(process: Forked) -> list[int]:
    """Return the exit status of each rank; when one has failed, the others are ended a little later."""
    codes: dict[int, int] = {}
    end, killed = time.monotonic() + RUN_SECONDS, False
    while len(codes) < len(process.pids):
        for pid in set(process.pids) - codes.keys():
            done, status = os.waitpid(pid, os.WNOHANG)
            codes |= {pid: os.waitstatus_to_exitcode(status)} if done else {}
        if any(codes.values()):
            end = min(end, time.monotonic() + PEERS_SECONDS)
        if time.monotonic() > end and not killed:
            assert any(codes.values()), f"still running after {RUN_SECONDS} s:\n{process.said}"
            killed = True
            for pid in set(process.pids) - codes.keys():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[pid] for pid in process.pids]


class Course:
    """One deal in a folder of its own, with its own copy of the data."""

    def __init__(self, deal: Deal, place: Place, folder: Path):
        self.deal, self.place, self.folder = deal, place, folder
        self.config = deal.config
        self.run = folder / "runs" / NAME
        self.rng = random.Random(deal.seed)
        self.ranks = self.config.ranks
        self.starts = 0
        shutil.copytree(place.folder / "data", folder / "data", ignore=shutil.ignore_patterns("reference"))
        (folder / "runs").mkdir()
        self.whole = place.unbroken(self.config)
        self.init = place.init_of(self.config.stage, folder)

    def start(
        self, *words: str, arm: Callable[[int], object] | None = None, fresh: bool = False, **changes: object
    ) -> Forked:
        """Start the run, or resume it where there is a checkpoint, as a person or torchrun would."""
        self.starts += 1
        number, bad = self.starts, arm_bad_steps(self.config)

        def before(rank: int) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
            bad(rank)
            if self.deal.ranks_after:
                note_rows(self.folder / f"rows-{number}-{rank}")
            if arm:
                arm(rank)

        environment = {}
        if self.deal.under_torchrun:
            environment = {"TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": str(number - 1)}
            environment |= {"GROUP_WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": str(self.ranks)}
        resumed = bool(checkpoint.steps(self.run)) and not fresh and not self.deal.under_torchrun
        init = {} if resumed or "--resume" in words else self.init
        settings = {
            **self.config.settings(changes.get("ranks", self.ranks)),
            "save_checkpoint_iter": self.deal.save_every,
            "keep_checkpoints": self.deal.keep,
            "stall_minutes": 30,
            "run_name": NAME,
            "ranks": self.ranks,
            **init,
            **changes,
        }
        words = ("--resume", *words) if resumed else words
        return fork(self.folder, *words, before=before, environment=environment, **settings)

    def arm(self, fault: Fault, deed: Callable[[], object]) -> Callable[[int], object]:
        """Return what arms the ranks of a fault with a deed, which leaves the mark of the fault."""

        def before(rank: int) -> None:
            if fault.rank in (rank, None):
                at(fault.hook, fault.call, marked(self.mark(fault), deed))

        return before

    def mark(self, fault: Fault) -> Path:
        """Return the file that shows that a fault's moment came."""
        number = [each is fault for each in self.deal.faults].index(True)  # two of them may be equal
        return self.folder / f"mark-{number}"

    def came(self, fault: Fault) -> bool:
        """Check that the moment of a fault came; that of a second one may lie before the place of the resumed run."""
        came = self.mark(fault).exists()
        assert came or fault is not self.deal.faults[0], f"the moment never came: {fault}"
        return came

    def check_saved(self, lost_steps: int | None = None) -> None:
        """Check that all checkpoints are whole, and that the newest is no further from the last step than promised."""
        saved = checkpoint.steps(self.run)
        for step in saved:
            checkpoint.verify_checkpoint(step, resumed=True)
        if lost_steps is None or self.config.bad_steps or not (self.run / "metrics.jsonl").is_file():
            return
        rows = metrics_up_to_a_cut(self.run)
        newest = int(saved[-1].name.removeprefix("step_")) if saved else 0
        assert newest >= max(rows, default=0) - lost_steps, (newest, rows)

    def finish(self) -> None:
        """Let the run end, and compare it with the unbroken one."""
        done = self.start()
        assert wait_like_torchrun(done) == [0] * self.ranks, done.said
        assert "Traceback" not in done.said, done.said
        self.check_saved()
        if self.ranks != self.config.ranks:
            self.check_rows()
        else:
            assert_same_run(self.run, self.whole)
        assert (self.run / "latest").read_text() == f"step_{STEPS:06d}"

    def check_rows(self) -> None:
        """Check that each step took its rows, in order, each once, whatever the number of ranks was."""
        taken: dict[int, dict[int, list[int]]] = {}
        for number in range(1, self.starts + 1):
            for file in self.folder.glob(f"rows-{number}-*"):
                for line in file.read_text().splitlines():
                    step, rows = line.split(": ")
                    taken.setdefault(int(step), {}).setdefault(number, []).extend(map(int, rows.split()))
        size = self.config.rows
        for step in range(1, STEPS + 1):
            rows = taken[step][max(taken[step])]
            assert sorted(rows) == list(range((step - 1) * size, step * size)), (step, taken)
        assert [row["step"] for row in metrics(self.run)] == list(range(1, STEPS + 1))
        assert (self.run / f"step_{STEPS:06d}").is_dir()


def metrics_up_to_a_cut(run: Path) -> list[int]:
    """Return the training steps in the metrics, whose last line a kill may have cut."""
    return [
        int(step)
        for step in re.findall(r'\{"step": (\d+), "split": "train"', (run / "metrics.jsonl").read_text())
    ]


def only_line(process: Forked, lines: tuple[str, ...], ranks: int = 1) -> str:
    """Return the one error that a process has printed, which is one of these lines, without a traceback."""
    errors = [
        line.removeprefix("error: ") for line in process.said.splitlines() if line.startswith("error: ")
    ]
    assert len(errors) == 1, process.said
    assert any(re.fullmatch(line, errors[0]) for line in lines), process.said
    assert ranks > 1 or "Traceback" not in process.said, process.said
    return errors[0]


def play_kill(course: Course, fault: Fault) -> None:
    """SIGKILL: nothing saved is lost."""
    process = course.start(arm=course.arm(fault, send(signal.SIGKILL)))
    codes = wait_like_torchrun(process)
    if not course.came(fault):
        assert set(codes) == {0}, process.said
        return
    assert -signal.SIGKILL in codes, process.said
    course.check_saved(lost_steps=course.deal.save_every)


def play_signal(course: Course, fault: Fault) -> None:
    """A stop signal: the run saves and ends well; before it has begun, the process just ends."""
    number = getattr(signal, fault.detail[0])
    process = course.start(arm=course.arm(fault, send(number)))
    codes = wait_like_torchrun(process)
    if course.came(fault) and fault.hook == "start":
        assert set(codes) & {-number, 130}, process.said
        return
    assert set(codes) == {0}, process.said
    assert "Traceback" not in process.said, process.said
    last = process.said.splitlines()[-1]
    assert re.match("|".join(GOOD_ENDS), last), last
    course.check_saved(lost_steps=0)


def play_full_disk(course: Course, fault: Fault) -> None:
    """No room on the disk: a warning, or one line at the end; what was saved stays, and the line's remedy works."""
    form, *steps = fault.detail
    if form == "hook":
        arm = course.arm(fault, no_space)
    else:

        def arm(rank: int) -> None:
            full_disk(*steps, looks_free=form == "limit")

    process = course.start(arm=arm)
    codes = wait_like_torchrun(process)
    if form == "hook":
        course.came(fault)
    course.check_saved()
    if set(codes) == {0}:
        assert "warning: " in process.said, process.said
        assert "Traceback" not in process.said
        return
    assert 1 in codes, process.said
    line = only_line(process, FULL_LINES, course.ranks)
    if "rerun with --resume" in line:
        assert checkpoint.steps(course.run), f"nothing to resume: {line}"


def play_stall(course: Course, fault: Fault) -> None:
    """A rank hangs: the watchdog ends it, with its stacks."""
    process = course.start(arm=course.arm(fault, stall), stall_minutes=STALL_MINUTES)
    codes = wait_like_torchrun(process)
    assert 1 in codes and "Timeout (0:00:0" in process.said, process.said
    if course.mark(
        fault
    ).exists():  # else the machine was so slow that the watchdog took it for a stall before
        assert " in stall" in process.said, process.said
    course.check_saved(lost_steps=course.deal.save_every)


def play_second_process(course: Course, fault: Fault) -> None:
    """Another process of the same run is refused while the first is at work, wherever it is."""
    release = course.folder / "release"
    first = course.start(arm=course.arm(fault, wait_for(release, RUN_SECONDS)))
    wait_for(course.mark(fault), RUN_SECONDS)()
    course.came(fault)
    words = [word for word in fault.detail if word]
    second = course.start(*words, ranks=1, fresh=True)
    codes = wait_like_torchrun(second)
    if not (words and codes == [0] and "nothing left to do" in second.said):  # all is saved and evaluated
        assert codes == [2], second.said
        only_line(second, REFUSALS if words else REFUSALS[:1])
    release.touch()
    assert wait_like_torchrun(first) == [0] * course.ranks, first.said
    assert "Traceback" not in first.said, first.said


def play_rerun(course: Course, fault: Fault) -> None:
    """The same command again, without --resume: the older run is moved aside, whole."""
    play_kill(course, fault)
    saved = [step.name for step in checkpoint.steps(course.run)]
    done = course.start(fresh=True)
    assert wait_like_torchrun(done) == [0] * course.ranks, done.said
    aside = course.run.with_name(f"{NAME}.old1")
    assert f"an older run named {NAME} is now {aside}" in done.said
    assert [step.name for step in checkpoint.steps(aside)] == saved
    for step in checkpoint.steps(aside):
        checkpoint.verify_checkpoint(step, resumed=True)


def play_together(course: Course, fault: Fault) -> None:
    """Two DPO runs from one start: while one makes the reference, waits or is killed there, the other begins."""
    release = course.folder / "release"
    killed = fault.detail == ("killed",)

    def deed() -> None:
        wait_for(release, RUN_SECONDS)()
        if killed:
            send(signal.SIGKILL)()

    first = course.start(arm=course.arm(fault, deed))
    wait_for(course.mark(fault), RUN_SECONDS)()
    course.came(fault)
    second = course.start(run_name="other")
    end = time.monotonic() + RUN_SECONDS
    while "waiting for it" not in second.said and time.monotonic() < end:
        time.sleep(0.01)
    release.touch()
    assert (-signal.SIGKILL in wait_like_torchrun(first)) == killed, first.said
    assert wait_like_torchrun(second) == [0] * course.ranks, second.said
    assert "Traceback" not in second.said, second.said
    assert_same_run(course.run.with_name("other"), course.whole)


def play_damage(course: Course, fault: Fault) -> None:
    """A file has a wrong bit or is cut: the run goes on exactly, or ends with one line whose remedy works."""
    how, place, name = fault.detail
    path = damaged_file(course, place, name)
    folder = path.parent
    if place == "data":
        folder = course.folder / "data" / str(course.config.settings()["dataset"])
    damage(path, how, course.rng)

    process = course.start()
    codes = wait_like_torchrun(process)
    if place in ("latest", "best", "part"):
        assert set(codes) == {0}, process.said
        return

    assert 2 in codes, f"{path}: {process.said}"
    line = only_line(process, (".*",), course.ranks)
    assert str(path.with_suffix("") if place == "table" else folder) in line, line
    REMEDIES[place](course, path, line)


def damaged_file(course: Course, place: str, name: str) -> Path:
    """Return the file that a fault damages."""
    data = course.folder / "data" / str(course.config.settings()["dataset"])
    newest = checkpoint.steps(course.run)[-1:] or [course.run]
    places = {
        "checkpoint": newest[0] / name,
        "data": data / name,
        "latest": course.run / "latest",
        "best": course.run / "best",
        "init": course.folder / "runs" / "start" / f"step_{STEPS:06d}" / name,
    }
    if place == "table":
        return course.rng.choice(sorted((data / "reference").glob(f"*{name}")))
    if place == "part":
        return next((data / "reference").glob("*.part.npz"))
    return places[place]


def damage(path: Path, how: str, rng: random.Random) -> None:
    """Turn a bit of a file over, or cut the file."""
    if not path.is_file() and path.name == "best":
        return  # nothing was evaluated yet
    if how == "flip":
        flip(path, rng)
    else:
        os.truncate(path, rng.randrange(path.stat().st_size))


def remedy_checkpoint(course: Course, path: Path, line: str) -> None:
    """Remove the damaged step, as the line says."""
    step = next(parent for parent in path.parents if parent.name.startswith("step_"))
    others = [folder.name for folder in checkpoint.steps(course.run) if folder != step]
    remedy = (
        f"remove that folder, --resume then continues from {others[-1]}"
        if others
        else "start again without it"
    )
    assert remedy in line, line
    shutil.rmtree(step)


def remedy_data(course: Course, path: Path, line: str) -> None:
    """Prepare the dataset again: here, copy it."""
    assert "prepare" in line and "again" in line, line
    data = course.folder / "data" / str(course.config.settings()["dataset"])
    for file in (course.place.folder / "data" / data.name).rglob("*"):
        if file.is_file() and "reference" not in file.parts:
            shutil.copy(file, data / file.relative_to(course.place.folder / "data" / data.name))


def remedy_table(course: Course, path: Path, line: str) -> None:
    """Delete table and checksum, and start the run again from its first weights."""
    assert "delete" in line and "start the run again from its first weights" in line, line
    path.with_suffix(".npy").unlink()
    if "delete both" in line:
        path.with_suffix(".sha256").unlink()
    done = course.start(fresh=True)
    assert wait_like_torchrun(done) == [0] * course.ranks, done.said


def remedy_init(course: Course, path: Path, line: str) -> None:
    """Take another copy of the model that the run starts from."""
    step = path.parent
    shutil.rmtree(step)
    shutil.copytree(course.place.folder / "runs" / "start" / step.name, step)


REMEDIES = {"checkpoint": remedy_checkpoint, "data": remedy_data, "table": remedy_table, "init": remedy_init}
PLAYS = {
    "kill": play_kill,
    "signal": play_signal,
    "full disk": play_full_disk,
    "stall": play_stall,
    "second process": play_second_process,
    "rerun": play_rerun,
    "together": play_together,
    "damage": play_damage,
}


def play(deal: Deal, place: Place, folder: Path) -> None:
    """Play a deal: its faults one after another, each followed by what is promised; then the run's end."""
    try:
        course = Course(deal, place, folder)
        for number, fault in enumerate(deal.faults):
            if number and deal.ranks_after:
                course.ranks = deal.ranks_after
            PLAYS[fault.kind](course, fault)
        course.ranks = deal.ranks_after or course.ranks
        course.finish()
    except (AssertionError, UserError, TimeoutError) as error:
        error.add_note(f"{deal}\nalone: python -m pytest tests/faults/test_deals.py --deal {deal.seed}")
        raise
