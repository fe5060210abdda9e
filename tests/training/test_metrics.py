"""The record of a run: rows on disk whatever happens, wandb only where it can be had."""

import http.server
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy import ROOT

from training.metrics import FINISH_SECONDS, WANDB_ID, Metrics, read_metrics, wandb_mode

Calls = list[tuple[str, object]]


class FakeWandb:
    """Stands for the module and for its run; raises in the methods that are to fail."""

    def __init__(self, logged_in: bool, failing: str):
        self.logged_in, self.failing, self.calls = logged_in, failing, []
        self.id = "a1b2c3d4"

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

    def log(self, values: dict, step: int) -> None:
        self.note("log", (step, values))

    def finish(self) -> None:
        self.note("finish", None)


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


@pytest.mark.parametrize("line", [b'{"step": 2, "spl', b"5", b'{"a": 1}', b"null", b"\xff\xfe"])
def test_rows_end_at_the_first_line_that_is_not_whole(tmp_path: Path, line: bytes) -> None:
    good = b'{"step": 1, "split": "train", "loss": 2.5}\n'
    (tmp_path / "metrics.jsonl").write_bytes(good + line + b"\n" + good)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "split": "train", "loss": 2.5}]


def test_rows_are_on_disk_at_once(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path, "disabled", {})
    metrics.write(1, "train", {"loss": 2.5, "tokens": 100})
    metrics.write(1, "val", {"loss": 2.0, "tokens": 100})
    rows = [
        json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]  # before the end
    assert (
        rows
        == [
            {"step": 1, "split": "train", "loss": 2.5, "tokens": 100},
            {"step": 1, "split": "val", "loss": 2.0, "tokens": 100},
        ]
        == read_metrics(tmp_path / "metrics.jsonl")
    )
    metrics.close()


def test_rows_wait_for_room_on_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """No file may grow past 100 bytes for three rows: a row is written in part, the rest and the next ones later."""
    metrics, path = Metrics(tmp_path, "disabled", {}), tmp_path / "metrics.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    metrics.write(1, "train", {"loss": 1.0, "tokens": 100})
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        for step in (2, 3, 4):
            metrics.write(step, "train", {"loss": 1.0, "tokens": 100})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == 100 and [row["step"] for row in read_metrics(path)] == [1]
    metrics.write(5, "train", {"loss": 1.0, "tokens": 100})
    metrics.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4, 5]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "rows wait for room; the run continues" in said


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    rows = [{"step": 1, "split": "train"}, {"step": 2, "split": "val"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "lo')
    assert read_metrics(path) == rows


def test_a_resumed_run_forgets_what_it_makes_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(tmp_path, "disabled", {})
    for step in range(1, 6):
        metrics.write(step, "train", {"loss": float(step)})
    metrics.close()
    with path.open("a") as file:
        file.write('{"step": 6, "spl')
    metrics = Metrics(tmp_path, "disabled", {}, resume_step=3)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    metrics.write(4, "train", {"loss": 0.5})
    metrics.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 0.5),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


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
    assert (
        calls["init"]["settings"]["finish_timeout"] == FINISH_SECONDS <= 60
    )  # gone at the end, it is not waited for
    assert calls["log"] == (7, {"train/loss": 2.5}) and "finish" in calls
    assert calls.get("login", {}).get("prompt", False) is False and ("login" in calls) == (mode != "offline")
    assert ("wandb login" in capsys.readouterr().err) == (mode == "online" and not logged_in)


def test_disabled_wandb_is_not_even_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    metrics = Metrics(tmp_path, "disabled", {})
    assert metrics.wandb is None
    metrics.close()


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
    assert (init["project"], init["name"], init["id"]) == ("smolllama", tmp_path.name, None)
    assert (tmp_path / WANDB_ID).read_text() == first.id

    second = fake()
    monkeypatch.setenv("WANDB_PROJECT", "foxes")
    monkeypatch.setenv("WANDB_NAME", "red")
    Metrics(tmp_path, "auto", {}, resume_step=3).close()
    init = dict(second.calls)["init"]
    assert (init["project"], init["name"]) == ("foxes", "red")
    assert (init["id"], init["resume"]) == (first.id, "allow")


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


def test_offline_sends_nothing_and_a_resumed_run_keeps_its_id(
    requests: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, seen = requests
    code = (
        "import sys; from pathlib import Path; from training.metrics import Metrics\n"
        "metrics = Metrics(Path(sys.argv[1]), 'auto', {}, int(sys.argv[2]))\n"
        "metrics.write(int(sys.argv[2]) + 1, 'train', {'loss': 1.0})\n"
        "assert metrics.wandb; metrics.close()"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"WANDB_BASE_URL": address, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    run = tmp_path / "run"
    run.mkdir()
    for step in (0, 1):
        subprocess.run([sys.executable, "-c", code, str(run), str(step)], env=environment, check=True)

    folders = list((run / "wandb").glob("offline-run-*"))
    assert len(folders) >= 1
    assert {folder.name.rpartition("-")[2] for folder in folders} == {(run / WANDB_ID).read_text()}
    assert len({path.name for folder in folders for path in folder.glob("*.wandb")}) == 1
    assert seen == []
