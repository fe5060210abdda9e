"""Exit codes and messages of run_cli, for each kind of error."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from toy import ROOT

from runtime.errors import LocalRankError, RunError, UserError, run_cli


def exit_of(error: BaseException) -> int:
    """Return the exit code of a script whose main raises an error."""

    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_cli(main)
    return stopped.value.code


@pytest.mark.parametrize(
    "error, code, line",
    [
        (UserError("wrong flag"), 2, "error: wrong flag"),
        (UserError("no file a\nb:\n  give another"), 2, "error: no file a b: give another"),
        (RunError("the run failed"), 1, "error: the run failed"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left", "x.bin"), 1, "error: x.bin: No space left: make room there"),
        (
            OSError(errno.EDQUOT, "Quota exceeded", "x.bin"),
            1,
            "error: x.bin: Quota exceeded: make room there",
        ),
        (PermissionError(errno.EACCES, "Denied", "x"), 2, "error: x: Denied: change its permissions"),
        (
            OSError(errno.EMFILE, "Too many files"),
            2,
            "error: the output: Too many files: raise the limit of open files with ulimit -n 4096",
        ),
        (UserError("a\nb \x1b[2J\u202e"), 2, "error: a b \\x1b[2J\\u202e"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture
) -> None:
    assert exit_of(error) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_other_errors_keep_their_traceback() -> None:
    def main() -> None:
        raise error

    for error in (OSError(errno.EIO, "I/O error"), ValueError("a bug")):
        with pytest.raises(type(error)):
            run_cli(main)


def test_one_rank_of_a_machine_reports_an_error_of_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert exit_of(UserError("of all ranks")) == 2
    assert exit_of(RunError("of all ranks")) == 1
    assert capsys.readouterr().err == ""

    assert exit_of(LocalRankError("of this rank")) == 1
    assert capsys.readouterr().err == "error: of this rank\n"


def test_a_reader_that_closes_the_pipe_ends_the_script_in_silence() -> None:
    code = "from runtime.errors import run_cli\nrun_cli(lambda: [print(n) for n in range(100_000)])"
    script = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert script.stdout.readline() == "0\n"
    script.stdout.close()
    assert script.stderr.read() == ""
    assert script.wait(timeout=60) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_an_empty_one_and_no_file_takes_its_place(closed: str, tmp_path: Path) -> None:
    code = """
import subprocess, sys
from runtime.errors import run_cli
def main():
    with open(sys.argv[1], "w") as file:
        print("out"); print("err", file=sys.stderr)
        subprocess.run(["echo", "from a process"])
        file.write(repr((sys.stdin.isatty(), sys.stdin.read(), file.fileno() > 2)))
run_cli(main)
"""
    written = tmp_path / "written"
    script = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", code, str(written)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert script.returncode == 0
    assert written.read_text() == repr((False, "", True))
    assert script.stdout == ("" if " >&-" in f" {closed}" else "out\nfrom a process\n")
    assert script.stderr == ("" if "2>&-" in closed else "err\n")


def test_another_broken_pipe_keeps_its_traceback() -> None:
    code = "from runtime.errors import run_cli\ndef main(): raise BrokenPipeError\nrun_cli(main)"
    script = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert script.returncode == 1
    assert "Traceback" in script.stderr


def test_a_system_without_poll_takes_a_broken_pipe_for_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none."""
    monkeypatch.delattr("select.poll")
    monkeypatch.setattr("runtime.errors._discard_stdout", lambda: None)
    assert exit_of(BrokenPipeError()) == 1


def test_links_in_a_circle_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    if sys.version_info < (3, 13):  # later ones do not mind
        with pytest.raises(SystemExit) as stopped:
            run_cli(lambda: (tmp_path / "loop").resolve())
        assert stopped.value.code == 2 and "links that lead in a circle" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="a bug"):
        run_cli(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))
