"""Client of the Hugging Face hub: time limits, retries, and its errors in one line."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator

import huggingface_hub
import pyarrow as pa
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import httpx, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from runtime.errors import UserError

TIME_LIMIT = 10.0  # seconds without an answer after which a request is tried again
MAX_MESSAGE = 200  # characters of another library's error message
RETRYABLE_CODES = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS)
LOGIN_CODES = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)

# The hub's own errors are one of the first two; an answer that was cut short may be neither JSON nor Parquet.
READ_ERRORS = (OSError, httpx.HTTPError, json.JSONDecodeError, pa.ArrowInvalid)


@functools.cache
def hub_filesystem() -> huggingface_hub.HfFileSystem:
    """Return the file system of the hub, after setting TIME_LIMIT for requests where the library sets no limit."""
    set_client_factory(_client_with_time_limit)
    return huggingface_hub.HfFileSystem()


def _client_with_time_limit() -> httpx.Client:
    """Return the library's own client with one more hook."""
    client = default_client_factory()
    client.event_hooks["request"].append(_set_time_limit)
    return client


def _set_time_limit(request: httpx.Request) -> None:
    """Set the time limits (connect, read, write, pool) that a request does not have."""
    limits = httpx.Timeout(TIME_LIMIT).as_dict()
    explicit = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {name: explicit.get(name) or limit for name, limit in limits.items()}


def retry(action: Callable[[], object], name: str, tries: int = 4) -> object:
    """Return the action's result; on network errors retry after 1, 2, 4 seconds, or as long as the hub demands."""
    for attempt in range(tries):
        try:
            return action()
        except READ_ERRORS as error:
            if attempt == tries - 1 or not is_retryable(error):
                raise
            seconds = _seconds_to_wait(error, attempt)
            print(
                f"{name}: {short_error(error)}; retry {attempt + 1} of {tries - 1} in {seconds} s",
                flush=True,
            )
            time.sleep(seconds)


def _seconds_to_wait(error: Exception, attempt: int) -> int:
    """Return the Retry-After of the hub's answer, else 1, 2, 4 seconds for attempts 0, 1, 2."""
    if isinstance(error, HfHubHTTPError):
        retry_after = error.response.headers.get("Retry-After", "")
        if retry_after.isdigit():
            return int(retry_after)
    return 2**attempt


def is_retryable(error: Exception) -> bool:
    """Return True if a second try may succeed: not after an answer that the request itself is wrong."""
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        return code in RETRYABLE_CODES or code >= httpx.codes.INTERNAL_SERVER_ERROR
    return not isinstance(error, (FileNotFoundError, PermissionError))


def short_error(error: Exception) -> str:
    """Return an error in a few words on one line."""
    if isinstance(error, HfHubHTTPError):
        return f"it answered {error.response.status_code} {error.response.reason_phrase}"
    return " ".join(f"{type(error).__name__}: {error}".split())[:MAX_MESSAGE]


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[str]:
    """Yield the hub's address; raise the hub's errors inside the context as UserError with one line."""
    endpoint = hub_filesystem().endpoint
    try:
        yield endpoint
    except HFValidationError:
        raise UserError(f"{repo} is not the name of a repository: use OWNER/NAME") from None
    except GatedRepoError:
        raise UserError(
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repo} is not on the hub at {endpoint}, or it is private: log in with `hf auth login`"
        ) from None
    except (HfHubHTTPError, httpx.HTTPError, OfflineModeIsEnabled) as error:
        remedy = "run the same command again later; files that are already here are kept"
        if isinstance(error, HfHubHTTPError) and error.response.status_code in LOGIN_CODES:
            remedy = f"log in with `hf auth login`, or {remedy}"
        raise UserError(f"the hub at {endpoint} fails for {repo} ({short_error(error)}): {remedy}") from None
