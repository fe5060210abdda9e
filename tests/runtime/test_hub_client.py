"""Limits of the hub's client: time, bytes, speed, and the waits that answers demand."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from huggingface_hub.utils import httpx

from runtime import hub_client
from runtime.hub_client import MAX_ANSWER_BYTES, MAX_WAIT, demanded_wait

URL = "https://hub.test/api/models/a/b"


def limited(chunks: list[bytes], url: str = URL, status: int = 200, **headers: str) -> httpx.Response:
    """Return an answer after our hook has seen it."""
    response = httpx.Response(
        status, headers=headers, content=iter(chunks), request=httpx.Request("GET", url)
    )
    response.headers.pop("Transfer-Encoding", None)
    hub_client._limit_response(response)
    return response


def test_every_request_has_a_time_limit_and_keeps_its_own() -> None:
    request = httpx.Request("GET", URL, extensions={"timeout": {"connect": 3.0, "read": None}})
    hub_client._limit_request(request)
    limit = hub_client.TIME_LIMIT
    assert request.extensions["timeout"] == {"connect": 3.0, "read": limit, "write": limit, "pool": limit}
    assert request.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({}, None),
        ({"Retry-After": "17"}, 17),
        ({"retry-after": " 0 "}, 0),
        ({"Retry-After": "86400"}, MAX_WAIT),
        ({"Retry-After": "9" * 5000}, MAX_WAIT),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 -0000"}, 0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Mon, 99 Foo 99999 99:99:99 GMT"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 56),
        ({"RateLimit": '"api";r=0;t=99999'}, MAX_WAIT),
        ({"RateLimit": '"api";r=3;t=55', "Retry-After": "4"}, 4),
        ({"RateLimit": "nonsense"}, None),
    ],
)
def test_the_wait_that_an_answer_demands(headers: dict, seconds: int | None) -> None:
    assert demanded_wait(httpx.Headers(headers)) == seconds


@pytest.mark.parametrize("seconds, wait", [(60, 60), (1e6, MAX_WAIT), (-60, 0)])
def test_a_date_to_wait_for(seconds: float, wait: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)
    assert abs(demanded_wait(httpx.Headers({"Retry-After": date})) - wait) <= 5


def test_the_library_waits_no_longer_than_we_do() -> None:
    headers = limited([], status=429, **{"Retry-After": "86400", "RateLimit": '"api";r=0;t=70000'}).headers
    assert headers["Retry-After"] == str(MAX_WAIT) and "RateLimit" not in headers


@pytest.mark.parametrize(
    "url, headers, is_limited",
    [
        (URL, {}, True),
        (URL, {"Content-Length": str(10 * MAX_ANSWER_BYTES)}, True),
        ("https://hub.test/a/b/resolve/main/x.bin", {}, True),
        ("https://hub.test/a/b/resolve/main/x.bin", {"Content-Length": str(10 * MAX_ANSWER_BYTES)}, False),
    ],
)
def test_an_answer_without_end_is_broken_off(
    url: str, headers: dict, is_limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_client, "MAX_ANSWER_BYTES", 1000)
    response = limited([b"x" * 300] * 9, url, **headers)
    if is_limited:
        with pytest.raises(httpx.ReadError, match="does not end after 1,000 bytes"):
            response.read()
    else:
        assert len(response.read()) == 2700


def test_an_answer_that_drips_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 8))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with pytest.raises(httpx.ReadTimeout, match="8 bytes came in 64 seconds"):
        limited([b"x"] * 100).read()


@pytest.mark.parametrize(
    "headers, words",
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "a web page came instead"),
        ({"Content-Encoding": "gzip"}, "compressed"),
    ],
)
def test_what_no_hub_answers_is_refused(headers: dict, words: str) -> None:
    with pytest.raises(httpx.HTTPError, match=words):
        limited([b"x"], **headers)


def test_an_error_page_keeps_its_status() -> None:
    assert limited([b"x"], status=502, **{"Content-Type": "text/html"}).status_code == 502
