"""Servers that answer what no hub answers: one line, nothing outside the target folder, nothing without end."""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hub import REVISION, Hub, blob, connect

import download_model_weight
from runtime import errors, hub_client
from runtime import hub as runtime_hub

REPO = "me/mine"
CONFIG = b'{"model_type": "llama"}'
ENTRY = {"rfilename": "config.json", "size": len(CONFIG), "blobId": blob(CONFIG)}
INFO = {"id": REPO, "sha": REVISION, "siblings": [ENTRY]}
MARGIN = 1 << 20  # bytes that may be written beyond what was announced

Answer = tuple[int, bytes | Iterable[bytes], dict[str, str]]


def as_json(value: object, status: int = 200, **headers: str) -> Answer:
    """Return an answer of the API."""
    return status, json.dumps(value).encode(), headers


def info(**fields: object) -> Answer:
    """Return the description of the repository with other fields."""
    return as_json({**INFO, **fields})


def entry(**fields: object) -> Answer:
    """Return the description of a repository whose file has other fields."""
    return info(siblings=[{**ENTRY, **fields}])


def endless() -> Iterator[bytes]:
    """Yield bytes without end."""
    return itertools.repeat(b"x" * 65536)


PAGE = {"Content-Type": "text/html"}
INFO_ANSWERS: dict[str, Callable[[], Answer]] = {
    "sha that climbs": lambda: info(sha="../../../../"),
    "sha of a path": lambda: info(sha="/etc/passwd"),
    "sha null": lambda: info(sha=None),
    "sha number": lambda: info(sha=7),
    "sha branch": lambda: info(sha="main"),
    "siblings null": lambda: info(siblings=None),
    "siblings number": lambda: info(siblings=5),
    "siblings of strings": lambda: info(siblings=["config.json"]),
    "no file": lambda: info(siblings=[]),
    "size null": lambda: entry(size=None),
    "size negative": lambda: entry(size=-1),
    "size text": lambda: entry(size="many"),
    "size too small": lambda: entry(size=5),
    "size too large": lambda: entry(size=5_000),
    "hash null": lambda: entry(blobId=None),
    "hash of another file": lambda: entry(blobId="0" * 40),
    "lfs without hash": lambda: entry(lfs={"size": 5}),
    "name number": lambda: entry(rfilename=5),
    "name null": lambda: entry(rfilename=None),
    "name climbs": lambda: entry(rfilename="../config.json"),
    "name absolute": lambda: entry(rfilename="/tmp/config.json"),
    "name with NUL": lambda: entry(rfilename="config\0.json"),
    "name with a line": lambda: entry(rfilename="a\nconfig.json"),
    "dates of numbers": lambda: info(createdAt=5, lastModified={}),
    "a list": lambda: as_json([1, 2]),
    "null": lambda: as_json(None),
    "a string": lambda: as_json("ok"),
    "deep": lambda: (200, b"[" * 100_000, {}),
    "no JSON": lambda: (200, b"ok", {}),
    "not UTF-8": lambda: (200, b'{"sha": "\xff\xfe"}', {}),
    "empty": lambda: (200, b"", {}),
    "endless JSON": lambda: (200, itertools.chain([b'{"sha": "'], endless()), {}),
    "captive portal": lambda: (200, b"<html>log in", PAGE),
    "captive portal without a type": lambda: (200, b"<html>log in", {}),
    "compressed": lambda: (200, b"\x1f\x8b\x08", {"Content-Encoding": "gzip"}),
    "redirect loop": lambda: (302, b"", {"Location": f"/api/models/{REPO}"}),
    "redirect to a file": lambda: (302, b"", {"Location": "file:///etc/passwd"}),
    "wait of a day": lambda: (429, b"", {"Retry-After": "86400"}),
    "wait of a year": lambda: (429, b"", {"RateLimit": '"api";r=0;t=31536000'}),
    "unauthorized": lambda: (401, b"", {}),
    "teapot": lambda: (418, b"{}", {}),
}
FILE_ANSWERS: dict[str, Callable[[], Answer]] = {
    "file endless": lambda: (200, endless(), {}),
    "file endless after a range": lambda: (206, endless(), {}),
    "file too long": lambda: (200, b"x" * 5_000_000, {}),
    "file too short": lambda: (200, b"{", {}),
    "file page": lambda: (200, b"<html>log in", PAGE),
    "file compressed": lambda: (200, b"\x1f\x8b\x08", {"Content-Encoding": "gzip"}),
    "file redirect loop": lambda: (302, b"", {"Location": f"/{REPO}/resolve/{REVISION}/config.json"}),
    "file gone": lambda: (404, b"", {"X-Error-Code": "EntryNotFound"}),
    "file other": lambda: (200, CONFIG[::-1], {}),
    "file no range": lambda: (416, b"", {}),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub with one model; waiting takes no time."""
    naps: list[float] = []
    monkeypatch.setattr(runtime_hub.time, "sleep", naps.append)
    monkeypatch.setattr(hub_client, "MAX_ANSWER_BYTES", 2 * MARGIN)
    with Hub({}, {REPO: {"config.json": CONFIG}}) as hub, connect(hub, monkeypatch):
        hub.naps = naps
        yield hub


@pytest.mark.parametrize("name", [*INFO_ANSWERS, *FILE_ANSWERS])
def test_a_hostile_answer_is_one_line(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    part = "/resolve/" if name in FILE_ANSWERS else "/api/"
    build = (INFO_ANSWERS | FILE_ANSWERS)[name]
    original = hub.content
    monkeypatch.setattr(hub, "content", lambda path, span: build() if part in path else original(path, span))
    target = tmp_path / "a" / "b" / "checkpoints"
    (tmp_path / "a" / "thesis.txt").parent.mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("mine")
    monkeypatch.setattr(
        "sys.argv", ["download_model_weight.py", "--repo_id", REPO, "--save_checkpoint_dir", str(target)]
    )
    with pytest.raises(SystemExit) as stopped:
        errors.run_cli(download_model_weight.main)

    err = capsys.readouterr().err
    assert stopped.value.code == 2 and "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == 1, err
    written = [path for path in tmp_path.rglob("*") if path.is_file() and target not in path.parents]
    assert written == [tmp_path / "a" / "thesis.txt"] and written[0].read_text() == "mine"
    assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) <= 5_000 + MARGIN
    assert sum(hub.naps) <= 4 * hub_client.MAX_WAIT
    assert not list(target.glob("[!.]*"))
