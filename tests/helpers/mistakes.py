"""A user's mistakes as rows of tables, and the run of one in this process, in a folder with data and models."""

import importlib
import io
import runpy
import shlex
import shutil
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import prepared
import pytest
from mistaken_files import FOLDER_NAME, SETTINGS
from stand_ins import load_app
from toy import ROOT, flags

from runtime import errors

EXIT_USER_ERROR = 2
STAGE = ("train", "dataset")
# A run that a row has not stopped would be a small one; what the row types comes first.
SMALL = {
    "trainer.py": {name: value for name, value in SETTINGS.items() if name not in STAGE},
    "data.py": {"tokenizer": "bytes", "num_proc": 1},
    "evaluation.py": {"device": "cpu"},
    "inference_sft.py": {"device": "cpu", "max_length": 3},
}


@dataclass(frozen=True)
class Mistake:
    """What a user types, in a folder of examples, and the essential words of the line that answers.

    {tmp} is the folder. `at` is the file that says it, or file and function, where several files say the same words;
    `begins` is the begin of the line.
    """

    command: str
    words: str
    at: str = ""
    begins: str = "error: "
    stdin: str | None = None  # None: a terminal, at which nobody types
    environment: dict[str, str] = field(default_factory=dict)


class Terminal(io.TextIOWrapper):
    """Standard input that is a terminal, at which nobody types anything."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())

    def isatty(self) -> bool:
        """Return True."""
        return True


def name_of(mistake: Mistake) -> str:
    """Return the name of a row's test: what was typed."""
    return mistake.command[:100]


def main_of(script: str) -> Callable[[], None]:
    """Return the function that a script calls."""
    if script == "gradio/app.py":
        return load_app().main
    if script.startswith("benchmarks/"):
        return lambda: runpy.run_path(str(ROOT / script), run_name="__main__")
    module = {"tokenizer.py": "dataprep.tokenizer_script"}.get(script)
    module = module or script.removesuffix(".py").replace("/", ".")
    return importlib.import_module(module).main


def check_mistake(
    mistake: Mistake, folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run a row's command; check the exit code, the one line, its place, and that no file was written or changed."""
    script, *words = shlex.split(mistake.command.replace(FOLDER_NAME, str(folder)))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr("sys.argv", [script, *words, *small_settings(script, words)])
    monkeypatch.setattr("sys.stdin", typed(mistake.stdin))
    monkeypatch.setattr("dataprep.prepare.ProcessPoolExecutor", prepared.Inline)
    monkeypatch.setattr("dataprep.worker._end_with_main", lambda: None)
    monkeypatch.setattr("data.start_forkserver", lambda: None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("runtime.distributed.BENCHMARK_TRIES", 1)
    for name, value in mistake.environment.items():
        monkeypatch.setenv(name, value)

    main = main_of(script)
    before = state_of(folder)
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        errors.run_cli(main)
    monkeypatch.undo()

    printed = capsys.readouterr().err
    assert stopped.value.code == EXIT_USER_ERROR, printed
    lines = printed.splitlines()
    assert len(lines) == 1 and lines[0].startswith(mistake.begins), printed
    words = mistake.words.replace(FOLDER_NAME, str(folder))
    assert words in lines[0], printed
    assert is_said_at(mistake.at, stopped.value), trace_of(stopped.value)
    assert changes(before, state_of(folder)) == []
    for unfinished in (folder / "data").glob(".x.*"):  # finished units are kept, and would stop the next row
        shutil.rmtree(unfinished)


def small_settings(script: str, typed: list[str]) -> list[str]:
    """Return the flags that make a script's work small, but for those that are typed."""
    names = {word.split("=")[0] for word in typed}
    settings = SMALL.get(script, {})
    if script == "data.py" and names & {"--show", "--stories"}:
        settings = {}
    return flags({name: value for name, value in settings.items() if f"--{name}" not in names})


def typed(text: str | None) -> io.TextIOWrapper:
    """Return a standard input that is a pipe with a text, or a terminal."""
    return (
        Terminal() if text is None else io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogateescape")))
    )


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file below a folder; of a folder, that it is there."""
    state = {}
    for path in folder.rglob("*"):
        facts = path.lstat()
        state[str(path.relative_to(folder))] = (
            (-1, 0) if path.is_dir() else (facts.st_size, facts.st_mtime_ns)
        )
    return state


def changes(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> list[str]:
    """Return what was written, changed or removed; the finished units of data.py and its cache may stay."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return [name for name in names if ".partial" not in name and Path(name).name != ".verified"]


def trace_of(error: BaseException | None) -> str:
    """Return the tracebacks of an error and of those that it hides."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error, chain=False)) + str(error.__cause__ or "")
        error = error.__context__
    return text


def is_said_at(place: str, error: BaseException) -> bool:
    """Return True if an error was raised in a file, or in a file's function; True for no place."""
    path, _, function = place.partition(" ")
    lines = trace_of(error).splitlines()
    return not place or any(f'{path}", line' in line and line.rstrip().endswith(function) for line in lines)
