"""A run in an outside service: sent from a thread, one run however often it starts, and never in the way of a step."""

import http.server
import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import QUIET, ROOT, toy_dataset, trainer

from runtime.errors import UserError
from training import tracker
from training.metrics import Metrics, read_metrics
from training.tracker import (
    FINISH_SECONDS,
    TRACKIO,
    UPLOAD_SECONDS,
    Tracker,
    check_tracker,
    wandb_mode,
)

RESUMED = "import sys; from pathlib import Path; from training.metrics import Metrics\n"
RESUMED += "metrics = Metrics(Path(sys.argv[1]), 'auto', {'max_lr': 1.0}, int(sys.argv[2]), sys.argv[3])\n"
RESUMED += "for step in range(int(sys.argv[2]) + 1, 5): metrics.write(step, 'train', {'loss': 1.0})\n"
RESUMED += "metrics.write(4, 'val', {'loss': 2.0})\n"
FAILING = "import time\nwhile not metrics.tracker.service: time.sleep(0.05)\n1 / 0"


class FakeWandb:
    """Stands for the module and for its run; raises in the methods that are to fail."""

    def __init__(self, logged_in: bool, failing: str):
        self.logged_in, self.failing, self.calls = logged_in, failing, []

    def note(self, name: str, what: object) -> None:
        self.calls.append((name, what))
        if name == self.failing:
            raise RuntimeError("no network")

    def login(self, **options: object) -> bool:
        self.note("login", options)
        return self.logged_in

    def Settings(self, **options: object) -> dict:
        return options

    def init(self, **options: object) -> "FakeWandb":
        self.note("init", options)
        return self

    def define_metric(self, name: str, step_metric: str | None = None) -> None:
        self.note("define_metric", (name, step_metric))

    def log(self, values: dict) -> None:
        self.note("log", values)

    def finish(self, exit_code: int = 0) -> None:
        self.note("finish", exit_code)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Puts a fake in the place of wandb, which no variable of the environment configures."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)

    def install(logged_in: bool = True, failing: str = "") -> FakeWandb:
        module = FakeWandb(logged_in, failing)
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return install


@pytest.mark.parametrize(
    "mode, logged_in, becomes",
    [
        ("auto", True, "online"),
        ("auto", False, "offline"),
        ("online", True, "online"),
        ("online", False, "offline"),
        ("offline", True, "offline"),
    ],
)
def test_wandb_is_started_without_asking(
    fake, tmp_path: Path, mode: str, logged_in: bool, becomes: str, capsys: pytest.CaptureFixture
) -> None:
    module = fake(logged_in)
    metrics = Metrics(tmp_path, mode, {"max_lr": 1.0})
    metrics.write(7, "train", {"loss": 2.5})
    metrics.close()
    calls = dict(module.calls)
    assert calls["init"]["mode"] == becomes and calls["init"]["config"] == {"max_lr": 1.0}
    # Gone at the end, it is not waited for: torchrun kills what has not ended 30 s after SIGTERM.
    assert calls["init"]["settings"]["finish_timeout"] == UPLOAD_SECONDS < FINISH_SECONDS < 30
    assert calls["log"] == {"step": 7, "train/loss": 2.5} and calls["finish"] == 0
    assert calls.get("login", {}).get("prompt", False) is False and ("login" in calls) == (mode != "offline")
    assert ("wandb login" in capsys.readouterr().err) == (mode == "online" and not logged_in)


@pytest.mark.parametrize("name, mode", [("wandb", "disabled"), ("none", "online")])
def test_without_a_tracker_no_package_is_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, mode: str
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    metrics = Metrics(tmp_path, mode, {}, tracker=name)
    metrics.write(1, "train", {"loss": 1.0})
    metrics.close()
    assert metrics.tracker is None
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("failing", ["import", "login", "init", "log", "finish"])
def test_wandb_never_stops_a_run(
    fake, failing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    module = fake(failing=failing)
    if failing == "import":
        monkeypatch.setitem(sys.modules, "wandb", None)
    metrics = Metrics(tmp_path, "auto", {})
    for step in (1, 2, 3):
        metrics.write(step, "train", {"loss": 1.0})
    metrics.close()
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    said = capsys.readouterr().err
    assert said.startswith("wandb ") and said.count("\n") == 1  # once, and no traceback
    names = [name for name, _ in module.calls]
    assert names.count("log") == {"log": 1, "finish": 3}.get(failing, 0)


@pytest.mark.parametrize(
    "flag, variable, mode",
    [
        ("auto", None, "auto"),
        ("auto", "disabled", "disabled"),
        ("auto", "offline", "offline"),
        ("auto", "dryrun", "offline"),
        ("auto", "online", "online"),
        ("auto", "nonsense", "auto"),
        ("online", "disabled", "online"),
        ("disabled", "online", "disabled"),
    ],
)
def test_the_flag_goes_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, flag: str, variable: str | None, mode: str
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable:
        monkeypatch.setenv("WANDB_MODE", variable)
    assert wandb_mode(flag) == mode


def test_names_of_the_environment_and_the_id_of_an_earlier_start_are_used(
    fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fake()
    Metrics(tmp_path / ".", "auto", {}).close()
    init = dict(first.calls)["init"]
    run_id = (tmp_path / "wandb_id").read_text()
    assert (init["project"], init["name"], init["id"]) == ("smolllama", tmp_path.name, run_id)

    second = fake()
    monkeypatch.setenv("WANDB_PROJECT", "foxes")
    monkeypatch.setenv("WANDB_NAME", "red")
    Metrics(tmp_path, "auto", {}, resume_step=3).close()
    init = dict(second.calls)["init"]
    assert (init["project"], init["name"]) == ("foxes", "red")
    assert (init["id"], init["resume"]) == (run_id, "allow")


def test_steps_that_come_again_are_values_of_new_rows(fake, tmp_path: Path) -> None:
    """wandb drops rows whose own step is smaller than an earlier one, so it gets none from us."""
    module = fake()
    metrics = Metrics(tmp_path, "auto", {})
    for step in (1, 2, 3):
        metrics.write(step, "train", {"loss": float(step)})
    metrics.go_back(1)
    metrics.write(2, "train", {"loss": 20.0})
    metrics.close()
    assert ("define_metric", ("*", "step")) in module.calls
    rows = [what for name, what in module.calls if name == "log"]
    assert [(row["step"], row["train/loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 3.0), (2, 20.0)]


class StandIn:
    """A service whose calls take a while, or never return before `gate` is set."""

    def __init__(self, seconds: float = 0.0, gate: threading.Event | None = None):
        self.seconds, self.gate = seconds, gate
        self.steps: list[int] = []
        self.abandoned = False
        self.failed: bool | None = None

    def log(self, step: int, values: dict) -> None:
        if self.gate:
            self.gate.wait()
        time.sleep(self.seconds)
        self.steps.append(step)

    def finish(self, failed: bool) -> None:
        self.failed = failed

    def abandon(self) -> None:
        self.abandoned = True


def test_a_slow_service_slows_no_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    service = StandIn(seconds=1.0)
    monkeypatch.setattr(tracker, "WandbRun", lambda *values: service)
    metrics = Metrics(tmp_path, "online", {})
    start = time.perf_counter()
    for step in range(50):
        metrics.write(step, "train", {"loss": 1.0})
    assert time.perf_counter() - start < 1.0  # a row takes the service that long

    start = time.perf_counter()
    metrics.tracker.finish(seconds=0.2)
    assert time.perf_counter() - start < 1.0
    assert service.abandoned and "within 0.2 s" in capsys.readouterr().err
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 50


def test_rows_that_find_no_room_are_left_out_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(tracker, "MAX_WAITING", 4)
    service = StandIn(gate=threading.Event())
    sender = Tracker("wandb", lambda: service)
    for step in range(100):
        sender.log(step, {})
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("wandb does not keep up")

    # It answers again: what waited is sent in order, and the run ends there.
    service.gate.set()
    sender.finish()
    assert service.steps == sorted(service.steps) and 4 <= len(service.steps) <= 6
    assert service.failed is False and not service.abandoned
    sender.log(101, {})
    assert capsys.readouterr().err == ""


def test_a_service_that_hangs_at_its_start_is_given_up(capsys: pytest.CaptureFixture) -> None:
    gate = threading.Event()

    def start() -> StandIn:
        gate.wait()
        raise RuntimeError("too late to be of interest")

    sender = Tracker("wandb", start)
    sender.log(1, {})
    sender.finish(seconds=0.1)
    gate.set()
    sender.thread.join()
    assert (
        capsys.readouterr().err
        == "wandb has not taken all rows within 0.1 s; metrics.jsonl has all of them\n"
    )


@pytest.mark.parametrize(
    "signal, said", [("SIGKILL", "gets no more rows"), ("SIGSTOP", "not taken all rows")]
)
def test_the_process_ends_though_that_of_wandb_is_dead_or_hangs(
    tmp_path: Path, signal: str, said: str
) -> None:
    """Else wandb's hook prints a traceback at Python's exit, or waits for its process without end."""
    code = (
        "import signal, subprocess, sys, time, os\n"
        "from pathlib import Path; from training import tracker\n"
        "tracker.FINISH_SECONDS = 2\n"
        "sender = tracker.start_tracker(Path(sys.argv[1]), 'wandb', 'offline', {})\n"
        "while not sender.service: time.sleep(0.05)\n"
        "core = sender.service.run._wl._connection._proc._process\n"
        f"core.send_signal(signal.{signal}); time.sleep(0.2)\n"
        "for step in range(20): sender.log(step, {'loss': 1.0}); time.sleep(0.01)\n"
        "sender.finish(2)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env=plain_environment(tmp_path),
    )
    assert result.returncode == 0
    assert said in result.stderr and result.stderr.count("\n") == 1


def plain_environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment without settings of trackers, in which our modules are found."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("WANDB_", "TRACKIO_", "HF_"))
    }
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """Address of a local server, and the requests that it gets."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            seen.append(self.requestline)
            self.send_error(500)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *values: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


def wandb_records(path: Path) -> Iterator[object]:
    """The records of a file of wandb's: blocks of 32 KiB as in LevelDB's log, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, record = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + 7])
        position += 7 + size
        record += data[position - size : position]
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(record)
            record = b""


def test_offline_sends_nothing_and_a_resumed_run_keeps_its_id_and_all_rows(
    requests: tuple[str, list[str]], tmp_path: Path
) -> None:
    """The second start makes steps 3 and 4 again; an error ends it."""
    address, seen = requests
    run = tmp_path / "run"
    run.mkdir()
    for step, end in (
        (0, "metrics.go_back(2); metrics.write(3, 'train', {'loss': 3.0}); metrics.close()"),
        (2, FAILING),
    ):
        subprocess.run(
            [sys.executable, "-c", RESUMED + end, str(run), str(step), "wandb"],
            env=plain_environment(tmp_path, WANDB_BASE_URL=address),
            capture_output=True,
        )

    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.name for path in files} == {f"run-{(run / 'wandb_id').read_text()}.wandb"}
    rows, codes = [], []
    for path in files:
        for record in wandb_records(path):
            if record.HasField("history"):
                values = {"/".join(item.nested_key): item.value_json for item in record.history.item}
                rows.append((int(values["step"]), values.get("train/loss"), values.get("val/loss")))
            if record.HasField("exit"):
                codes.append(record.exit.exit_code)
    first = [(step, "1", None) for step in (1, 2, 3, 4)] + [(4, None, "2"), (3, "3", None)]
    assert rows == first + [(3, "1", None), (4, "1", None), (4, None, "2")]
    assert codes == [0, 1]
    assert seen == []


def test_two_runs_of_the_trainer_are_one_run(tmp_path: Path) -> None:
    """The first one stops after step 3, but has saved step 2: steps 3 to 6 come from the second."""
    toy_dataset(tmp_path / "data")
    stand_in = (
        "import json, types\n"
        "seen = open('seen.jsonl', 'a')\n"
        "def note(name, what): print(json.dumps([name, what]), file=seen, flush=True)\n"
        "class Fake(types.ModuleType):\n"
        "    def login(self, **options): return True\n"
        "    def Settings(self, **options): return options\n"
        "    def init(self, **options): note('init', [options['id'], options['resume']]); return self\n"
        "    def define_metric(self, *values, **options): pass\n"
        "    def log(self, values): note('log', values['step'])\n"
        "    def finish(self, exit_code=0): note('finish', exit_code)\n"
        "sys.modules['wandb'] = Fake('wandb')\n"
    )
    fails = "step = trainer.train_step\nsteps = []\n"
    fails += (
        "def failing(*values):\n    steps.append(1)\n    assert len(steps) < 4\n    return step(*values)\n"
    )
    fails += "trainer.train_step = failing\n"
    assert trainer(tmp_path, code=stand_in + fails, wandb="online").returncode == 1
    resumed = trainer(tmp_path, "--resume", code=stand_in, wandb="online")
    assert resumed.returncode == 0, resumed.stderr

    calls = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    run_id = (tmp_path / "runs" / "P-toy" / "wandb_id").read_text()
    assert [what for name, what in calls if name == "init"] == [[run_id, "allow"]] * 2
    assert [what for name, what in calls if name == "finish"] == [1, 0]
    steps = [what for name, what in calls if name == "log"]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4, 5, 6] and steps.count(3) > 1


def test_a_missing_trackio_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "is_installed", lambda package: False)
    with pytest.raises(UserError, match=f"pip install {TRACKIO}"):
        check_tracker("trackio")
    check_tracker("wandb")
    check_tracker("none")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["trackio"] == [TRACKIO]


def test_the_trainer_checks_for_trackio_before_it_writes(tmp_path: Path) -> None:
    toy_dataset(tmp_path / "data")
    code = "import training.tracker; training.tracker.is_installed = lambda package: False"
    result = trainer(tmp_path, code=code, tracker="trackio")
    assert result.returncode == 2 and result.stderr.startswith("error: --tracker trackio needs")
    assert not (tmp_path / "runs").exists()


def test_trackio_stays_here_and_resumes_a_run(requests: tuple[str, list[str]], tmp_path: Path) -> None:
    """Though somebody is logged in to the hub, whose name trackio would ask for."""
    pytest.importorskip("trackio")
    address, seen = requests
    home = tmp_path / "trackio"
    environment = plain_environment(
        tmp_path,
        HF_ENDPOINT=address,
        HF_TOKEN="hf_token",
        TRACKIO_DIR=str(home),
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    for name in ("one", "two"):  # two runs of the same name in other folders stay two
        run = tmp_path / name / "P-toy"
        run.mkdir(parents=True)
        for step, end in ((0, "metrics.close()"), (2, FAILING)):
            arguments = [str(run), str(step), "trackio"]
            result = subprocess.run(
                [sys.executable, "-c", RESUMED + end, *arguments],
                env=environment,
                capture_output=True,
                text=True,
            )
            assert result.stdout == ""

    with sqlite3.connect(home / "smolllama.db") as database:
        rows = database.execute("select run_id, run_name, step from metrics order by id").fetchall()
    runs = sorted({row[:2] for row in rows})
    assert len(runs) == 2 and {name for _, name in runs} == {
        f"P-toy-{(tmp_path / name / 'P-toy' / 'trackio_id').read_text()}" for name in ("one", "two")
    }
    for run in runs:
        assert [row[2] for row in rows if row[:2] == run] == [1, 2, 3, 4, 4, 3, 4, 4]
    assert seen == []


def test_trackio_gets_all_values_of_a_run_of_the_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it starts, the trainer imports matplotlib, by which trackio looks for figures."""
    pytest.importorskip("trackio")
    monkeypatch.setitem(QUIET, "TRACKIO_DIR", str(tmp_path / "trackio"))
    toy_dataset(tmp_path / "data")
    result = trainer(tmp_path, tracker="trackio")
    assert result.returncode == 0 and "skipped" not in result.stderr

    with sqlite3.connect(tmp_path / "trackio" / "smolllama.db") as database:
        rows = database.execute("select step, metrics from metrics order by id").fetchall()
    written = read_metrics(tmp_path / "runs" / "P-toy" / "metrics.jsonl")
    expected = []
    for row in written:
        values = {name: value for name, value in row.items() if name not in ("step", "split")}
        expected.append((row["step"], {f"{row['split']}/{name}": value for name, value in values.items()}))
    assert [(step, json.loads(values)) for step, values in rows] == expected
