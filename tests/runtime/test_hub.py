"""Retries, time limits and error messages of the hub's client."""

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError
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
    assert "file: it answered 503 Service Unavailable; retry 3 of 3 in 4 s" in capsys.readouterr().out

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


def test_every_request_has_a_time_limit_and_keeps_its_own() -> None:
    request = httpx.Request("GET", "https://hub.test", extensions={"timeout": {"connect": 3.0, "read": None}})
    hub._set_time_limit(request)
    limit = hub.TIME_LIMIT
    assert request.extensions["timeout"] == {"connect": 3.0, "read": limit, "write": limit, "pool": limit}
