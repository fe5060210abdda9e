"""Datasets of the hub: read in order, only the bytes that are needed, and faults in one line."""

import socket

import corpus_hub
import huggingface_hub
import pytest
from corpus_hub import DATASET, FAULTS, ROWS, read, texts
from hub import Hub

from dataprep.sources import hub_ranges
from runtime import hub as runtime_hub
from runtime.errors import UserError

server = corpus_hub.server


def test_the_hub_is_read_in_order_and_by_split(server: Hub) -> None:
    assert read() == ROWS
    assert read("val") == ROWS[80:]
    assert server.naps == []


def test_only_the_text_of_the_row_groups_asked_for_is_moved(server: Hub) -> None:
    ranges, _ = hub_ranges(DATASET, 1, None)
    texts(ranges[:1])
    server.requests.clear()
    assert texts(ranges[1:2]) == ROWS[10:20]
    moved, wanted = (
        sum(size for path, size in server.requests if "resolve" in path),
        sum(map(len, ROWS[10:20])),
    )
    assert wanted < moved < 1.3 * wanted  # with the page's header; the footer is known by now
    assert moved < len(server.repos[DATASET.repo]["data/train-0.parquet"]) / 3


@pytest.mark.parametrize("fault", FAULTS)
def test_a_transient_fault_changes_nothing(server: Hub, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    match, options = FAULTS[fault]
    server.fault(match, **options)
    assert read() == ROWS
    assert server.faults == [] and server.naps != []


def test_the_wait_that_the_hub_demands_is_kept(server: Hub) -> None:
    server.fault("/api/datasets/owner/corpus", status=429, retry_after=17)
    assert read() == ROWS
    assert server.naps == [17]


@pytest.mark.parametrize(
    "match, options, words",
    [
        ("/api/", {"status": 503, "times": 99}, r"the hub at .* fails for .*answered 503.*later"),
        ("/api/", {"status": 404, "code": "RepoNotFound"}, "is not on the hub at .*hf auth login"),
        ("/api/", {"status": 403}, "the hub at .* fails for .*answered 403.*hf auth login"),
        ("/resolve/", {"status": 401, "code": "GatedRepo"}, "is gated: accept its terms at .*owner/corpus"),
    ],
)
def test_a_lasting_refusal_is_one_line(server: Hub, match: str, options: dict, words: str) -> None:
    server.fault(match, **options)
    with pytest.raises(UserError, match=words) as error:
        read()
    assert "\n" not in str(error.value)
    assert (server.naps == [1, 2, 4]) == ("503" in words)  # a lasting fault is not retried


def test_missing_and_damaged_files_are_named(server: Hub) -> None:
    files = server.repos[DATASET.repo]
    files["data/train-1.parquet"] = files["data/train-1.parquet"][:5000]
    with pytest.raises(UserError, match="train-1.parquet on the hub is not a complete Parquet file"):
        read()
    del files["data/val-0.parquet"], files["data/train-1.parquet"]
    huggingface_hub.HfFileSystem.clear_instance_cache()
    runtime_hub.hub_filesystem.cache_clear()
    with pytest.raises(UserError, match=r"holds no data/val-\*.parquet any more"):
        read()


def test_an_answer_that_is_cut_short_is_one_line(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(*_: object) -> None:
        raise ConnectionError("the connection ended")

    monkeypatch.setattr("dataprep.sources._hub_files", cut)
    with pytest.raises(
        UserError, match="the hub sent no complete answer about .*the connection ended.*rerun later"
    ):
        read()


def test_a_flipped_byte_is_seen(server: Hub) -> None:
    damaged = bytearray(server.repos[DATASET.repo]["data/val-0.parquet"])
    damaged[damaged.index(b"document 85 words")] ^= 1
    server.repos[DATASET.repo]["data/val-0.parquet"] = bytes(damaged)
    with pytest.raises(OSError, match="CRC"):
        read()


def test_a_hub_that_is_not_reached_is_named(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}"
        )
        with pytest.raises(UserError, match="the hub at .* fails for .*ConnectError.*later"):
            read()
