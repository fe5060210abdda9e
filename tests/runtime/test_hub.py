"""Calls to the hub: retries, checks of answers, error messages."""

import json

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from runtime import hub
from runtime.errors import UserError


def answer(status: int, **headers: str) -> httpx.Response:
    """Return an answer of the hub."""
    request = httpx.Request("GET", "https://hub.test/api")
    return httpx.Response(status, headers=headers, request=request)


def hub_error(status: int, **headers: str) -> HfHubHTTPError:
    """Return the library's error for an answer of the hub."""
    return HfHubHTTPError("refused", response=answer(status, **headers))


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the list of the seconds that retries wait, without waiting."""
    seconds: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", seconds.append)
    return seconds


def failing(errors: list[Exception]) -> "object":
    """Return an action that raises the errors one after the other, then returns "done"."""

    def action() -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    return action


def test_retries_wait_longer_each_time_or_as_the_hub_demands(
    naps: list[float], capsys: pytest.CaptureFixture
) -> None:
    assert hub.retry(failing([httpx.ReadError("cut"), OSError("reset"), hub_error(503)]), "file") == "done"
    assert naps == [1, 2, 4]
    assert (
        "file: it answered 503 Service Unavailable; waiting 4 s, then retry 3 of 3" in capsys.readouterr().err
    )

    naps.clear()
    assert hub.retry(failing([hub_error(429, **{"Retry-After": "7"})]), "file") == "done"
    assert naps == [7]


def test_the_last_error_is_raised(naps: list[float]) -> None:
    with pytest.raises(httpx.ReadError, match="second"):
        hub.retry(failing([httpx.ReadError("first"), httpx.ReadError("second")]), "file", tries=2)
    assert naps == [1]


@pytest.mark.parametrize(
    "error", [hub_error(404), hub_error(401), FileNotFoundError("x"), PermissionError("x")], ids=repr
)
def test_a_wrong_request_is_not_retried(error: Exception, naps: list[float]) -> None:
    with pytest.raises(type(error)):
        hub.retry(failing([error]), "file")
    assert naps == []


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_temporary_answers_are_retryable(status: int) -> None:
    assert hub.is_retryable(hub_error(status))


@pytest.mark.parametrize(
    "error, message",
    [
        (HFValidationError("x"), "a/b is not the name of a repository: use OWNER/NAME"),
        (GatedRepoError("x", response=answer(403)), "a/b is gated: accept its terms at .*/a/b, then log in"),
        (RepositoryNotFoundError("x", response=answer(404)), "a/b is not on the hub at .*, or it is private"),
        (
            hub_error(401),
            r"fails for a/b \(it answered 401 Unauthorized\): log in with `hf auth login`, or run",
        ),
        (hub_error(500), r"fails for a/b \(it answered 500 Internal Server Error\): run the same command"),
        (OfflineModeIsEnabled("x"), "a/b is needed from the hub, but HF_HUB_OFFLINE is set: unset it"),
        (httpx.UnsupportedProtocol("no protocol"), "is no address of a hub .*correct or unset HF_ENDPOINT"),
        (RevisionNotFoundError("x", response=answer(404)), "a/b has no such revision on the hub"),
        (
            json.JSONDecodeError("x", "<html>", 0),
            "sent no complete answer about a/b .*JSONDecodeError.*again",
        ),
        (httpx.ReadTimeout("slow\nhub"), r"fails for a/b \(ReadTimeout: slow hub\): run the same command"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_are_one_line_with_a_remedy(error: Exception, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised, hub.hub_errors("a/b"):
        raise error
    assert "\n" not in str(raised.value)


def test_the_address_of_the_hub_is_yielded() -> None:
    with hub.hub_errors("a/b") as endpoint:
        assert endpoint == huggingface_hub.constants.ENDPOINT


@pytest.mark.parametrize(
    "error",
    [
        OfflineModeIsEnabled("offline"),
        httpx.UnsupportedProtocol("ftp"),
        httpx.LocalProtocolError("x"),
        httpx.InvalidURL("x"),
        httpx.TooManyRedirects("x"),
        httpx.DecodingError("x"),
    ],
    ids=repr,
)
def test_what_cannot_heal_is_not_retried(error: Exception, naps: list[float]) -> None:
    with pytest.raises(type(error)):
        hub.retry(failing([error]), "file")
    assert naps == []


@pytest.mark.parametrize("revision", ["../../../../", "main", None, 7, "0" * 39, "0" * 40 + "\n", "A" * 40])
def test_a_revision_is_the_hash_of_a_commit(revision: object) -> None:
    with pytest.raises(ValueError):
        hub.checked_revision(revision)
    assert hub.checked_revision("0123456789" * 4) == "0123456789" * 4


@pytest.mark.parametrize("size", [None, -1, "7", 7.0, True])
def test_a_size_is_a_number_of_bytes(size: object) -> None:
    with pytest.raises(ValueError):
        hub.checked_size(size)
    assert hub.checked_size(0) == 0


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), AttributeError("x"), RecursionError("x")])
def test_an_answer_of_other_content_is_one_line(error: Exception) -> None:
    with (
        pytest.raises(UserError, match="sends what no hub sends about a/b .*HF_ENDPOINT"),
        hub.valid_answers("a/b"),
    ):
        raise error


def test_passwords_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://me:secret@mirror.test")
    hub.hub_filesystem.cache_clear()
    huggingface_hub.HfFileSystem.clear_instance_cache()
    try:
        with pytest.raises(UserError) as raised, hub.hub_errors("a/b") as endpoint:
            assert endpoint == "http://mirror.test"
            raise httpx.ConnectError("cannot reach http://me:secret@mirror.test/api")
        assert "secret" not in str(raised.value) and "http://mirror.test/api" in str(raised.value)
    finally:
        hub.hub_filesystem.cache_clear()
        huggingface_hub.HfFileSystem.clear_instance_cache()
