"""Downloads of single files: their hashes, servers without ranges, answers that end early, damaged parts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub import REVISION, Hub, connect

from modelfiles.hub_download import HubFile, fetch, file_hash, list_files
from runtime import hub as runtime_hub
from runtime.errors import UserError

REPO = "me/mine"
CONTENT = bytes(range(256)) * 400  # 100 kB


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Yield a hub with one large file, one small one, and one outside of the repository."""
    monkeypatch.setattr(runtime_hub.time, "sleep", lambda seconds: None)
    files = {"weights.pt": CONTENT, "config.json": b"{}", "../evil.json": b"{}", "inner/x.json": b"{}"}
    with Hub({}, {REPO: files}) as hub, connect(hub, monkeypatch):
        yield hub


def resolved(hub: Hub) -> list[int]:
    """Return the number of bytes of each answer that carried a file."""
    return [size for path, size in hub.requests if "/resolve/" in path]


def answer_files_with(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, change: Callable[[int, bytes, dict], tuple]
) -> None:
    """Change the (status, body, headers) of the hub's answers that carry a file."""
    original = hub.content

    def content(path: str, span: str | None) -> tuple:
        answer = original(path, span)
        return change(*answer) if "/resolve/" in path else answer

    monkeypatch.setattr(hub, "content", content)


def test_only_the_top_level_of_a_repository_is_listed(hub: Hub) -> None:
    revision, files = list_files(REPO)
    assert revision == REVISION
    assert sorted(files) == ["config.json", "weights.pt"]
    assert files["weights.pt"].size == len(CONTENT)
    assert files["weights.pt"].sha256
    assert files["config.json"].sha256 is None


@pytest.mark.parametrize("name", ["config.json", "weights.pt"])
def test_files_arrive_as_they_are_and_once(hub: Hub, name: str, tmp_path: Path) -> None:
    file = list_files(REPO)[1][name]
    path = fetch(REPO, file, tmp_path)
    assert path.read_bytes() == hub.models[REPO][name]
    assert fetch(REPO, file, tmp_path) == path
    assert resolved(hub) == [file.size]
    assert [other.name for other in tmp_path.iterdir()] == [name]


def test_a_download_resumes_at_the_byte_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "weights.pt.part").write_bytes(CONTENT[:30_000])
    hub.fault("/resolve/", cut=20_000)
    assert fetch(REPO, list_files(REPO)[1]["weights.pt"], tmp_path).read_bytes() == CONTENT
    assert resolved(hub) == [len(CONTENT) - 30_000, len(CONTENT) - 50_000]


def test_a_damaged_part_is_downloaded_again(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for part in (b"x" * 30_000, CONTENT + b"too long"):
        (tmp_path / "weights.pt.part").write_bytes(part)
        path = fetch(REPO, list_files(REPO)[1]["weights.pt"], tmp_path)
        assert path.read_bytes() == CONTENT
        assert "does not match the hub's hash: downloading it again" in capsys.readouterr().out
        path.unlink()


def test_a_file_that_arrives_damaged_twice_is_refused(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_files_with(hub, monkeypatch, lambda status, body, headers: (status, body[::-1], headers))
    with pytest.raises(UserError, match="weights.pt of me/mine arrives damaged .its sha256"):
        fetch(REPO, list_files(REPO)[1]["weights.pt"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_small_files_have_the_hash_of_git(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    git_hash = "ce013625030ba8dba906f756967f9e9ca394464a"  # of git hash-object
    assert file_hash(tmp_path / "hello", HubFile("hello", "", 6, None, git_hash)) == git_hash


def test_a_server_without_ranges_is_read_from_the_start(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_files_with(hub, monkeypatch, lambda status, body, headers: (200, CONTENT, {}))
    hub.fault("/resolve/", cut=50_000)
    assert fetch(REPO, list_files(REPO)[1]["weights.pt"], tmp_path).read_bytes() == CONTENT
    assert len(resolved(hub)) == 2  # it is not taken for damaged and downloaded a third time


@pytest.mark.parametrize("status", [206, 200])
def test_an_empty_answer_is_retried_and_ends_in_one_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    answer_files_with(hub, monkeypatch, lambda *answer: (status, b"", {}))
    with pytest.raises(UserError, match="ended too early") as raised:
        fetch(REPO, list_files(REPO)[1]["weights.pt"], tmp_path)
    assert "\n" not in str(raised.value)
    assert len(resolved(hub)) == 4
