"""HTTP client of the Hugging Face hub, with limits that its library does not set: of time, bytes and waiting."""

import functools
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from huggingface_hub.utils import httpx, parse_ratelimit_headers, set_client_factory
from huggingface_hub.utils._http import default_client_factory

TIME_LIMIT = 10.0  # seconds without an answer after which a request is tried again
MAX_WAIT = 330  # seconds; the hub's rate limits are counted in windows of 300
MAX_ANSWER_BYTES = 64 << 20  # of an answer of the API, and of one that does not say its size
SLOW_SECONDS = 60.0  # after which an answer must have come at MIN_BYTES_PER_SECOND
MIN_BYTES_PER_SECOND = 1_000
API_PATH = "/api/"


@functools.cache
def use_limited_client() -> None:
    """Give the hub's library a client with our limits; it is the client of all its requests in this process."""
    set_client_factory(_limited_client)


def _limited_client() -> httpx.Client:
    """Return the library's own client with hooks of ours."""
    client = default_client_factory()
    client.event_hooks["request"].append(_limit_request)
    client.event_hooks["response"].append(_limit_response)
    return client


def _limit_request(request: httpx.Request) -> None:
    """Set the time limits (connect, read, write, pool) that a request does not have, and ask for plain bytes.

    A compressed answer would have no size that is known before.
    """
    limits = httpx.Timeout(TIME_LIMIT).as_dict()
    explicit = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {name: explicit.get(name) or limit for name, limit in limits.items()}
    request.headers["Accept-Encoding"] = "identity"


def _limit_response(response: httpx.Response) -> None:
    """Limit the bytes and the time of an answer, and the wait that it demands; refuse what no hub answers."""
    headers = response.headers
    if response.status_code == httpx.codes.OK and headers.get("Content-Type", "").startswith("text/html"):
        raise httpx.RemoteProtocolError("a web page came instead: does this network ask for a log-in?")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise httpx.DecodingError("the answer is compressed, which nobody asked for")

    seconds = demanded_wait(headers)
    headers.pop("RateLimit", None)
    if seconds is not None:
        headers["Retry-After"] = str(seconds)  # the library waits for it, too, and reads no dates

    is_unlimited = "Content-Length" in headers and API_PATH not in response.url.path
    response.stream = _LimitedStream(response.stream, None if is_unlimited else MAX_ANSWER_BYTES)


def demanded_wait(headers: httpx.Headers) -> int | None:
    """Return the seconds to wait by RateLimit or Retry-After (seconds or a date), at most MAX_WAIT; None without."""
    rate_limit = parse_ratelimit_headers(headers)
    if rate_limit and rate_limit.remaining == 0:
        return min(rate_limit.reset_in_seconds + 1, MAX_WAIT)  # they are rounded down

    retry_after = headers.get("Retry-After", "").strip()
    if retry_after.isdecimal():
        return min(int(retry_after[:9]), MAX_WAIT)  # Python refuses to read thousands of digits
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0, round(seconds)), MAX_WAIT)


class _LimitedStream(httpx.SyncByteStream):
    """Body of an answer that ends with an error when it is too long (limit None: of any length) or too slow."""

    def __init__(self, stream: httpx.SyncByteStream, limit: int | None):
        self.stream = stream
        self.limit = limit

    def __iter__(self) -> Iterator[bytes]:
        received = 0
        t0 = time.monotonic()
        for chunk in self.stream:
            received += len(chunk)
            if self.limit is not None and received > self.limit:
                raise httpx.ReadError(f"the answer does not end after {self.limit:,} bytes")
            seconds = time.monotonic() - t0
            if seconds > SLOW_SECONDS and received < MIN_BYTES_PER_SECOND * seconds:
                raise httpx.ReadTimeout(f"{received:,} bytes came in {seconds:.0f} seconds")
            yield chunk

    def close(self) -> None:
        self.stream.close()
