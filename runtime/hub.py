"""Calls to the Hugging Face hub: retries, checks of its answers, and its errors in one line."""

import contextlib
import functools
import json
import re
import sys
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
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx

from runtime.errors import UserError
from runtime.hub_client import demanded_wait, use_limited_client

MAX_MESSAGE = 200  # characters of another library's error message
RETRYABLE_CODES = (httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_EARLY, httpx.codes.TOO_MANY_REQUESTS)
LOGIN_CODES = (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN)
PASSWORD = re.compile(r"(?<=//)[^/\s]*@")  # user:password@ of an address

# The hub's own errors are one of the first two; an answer that was cut short may be neither JSON nor Parquet.
READ_ERRORS = (OSError, httpx.HTTPError, httpx.InvalidURL, json.JSONDecodeError, pa.ArrowException)
ADDRESS_ERRORS = (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError)
# A second try does not help: wrong requests, and answers that no hub gives.
LASTING_ERRORS = (
    *ADDRESS_ERRORS,
    FileNotFoundError,
    PermissionError,
    OfflineModeIsEnabled,
    httpx.TooManyRedirects,
    httpx.DecodingError,
)


@functools.cache
def hub_filesystem() -> huggingface_hub.HfFileSystem:
    """Return the file system of the hub, with the limits of our client."""
    use_limited_client()
    return huggingface_hub.HfFileSystem()


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
                f"{name}: {short_error(error)}; waiting {seconds} s, then retry {attempt + 1} of {tries - 1}",
                file=sys.stderr,
                flush=True,
            )
            time.sleep(seconds)


def _seconds_to_wait(error: Exception, attempt: int) -> int:
    """Return the wait that the hub's answer demands, else 1, 2, 4 seconds for attempts 0, 1, 2."""
    if isinstance(error, HfHubHTTPError):
        seconds = demanded_wait(error.response.headers)
        if seconds is not None:
            return seconds
    return 2**attempt


def is_retryable(error: Exception) -> bool:
    """Return True if a second try may succeed: not after an answer that the request itself is wrong."""
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        return code in RETRYABLE_CODES or code >= httpx.codes.INTERNAL_SERVER_ERROR
    return not isinstance(error, LASTING_ERRORS)


def short_error(error: Exception) -> str:
    """Return an error in a few words on one line, without passwords."""
    if isinstance(error, HfHubHTTPError):
        return f"it answered {error.response.status_code} {error.response.reason_phrase}"
    return without_password(" ".join(f"{type(error).__name__}: {error}".split()))[:MAX_MESSAGE]


def without_password(address: str) -> str:
    """Return an address, or a text with one, without user name and password."""
    return PASSWORD.sub("", address)


def checked_revision(revision: object) -> str:
    """Return the revision of an answer, which names folders. Raises ValueError if it is no commit's hash."""
    if not isinstance(revision, str) or not re.fullmatch("[0-9a-f]{40}", revision):
        raise ValueError(f"{revision!r} is no revision")
    return revision


def checked_size(size: object) -> int:
    """Return the size of a file in an answer. Raises ValueError if it is none."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"{size!r} is no size of a file")
    return size


@contextlib.contextmanager
def valid_answers(repo: str) -> Iterator[None]:
    """Raise UserError for the errors that a library, or we, raise for an answer with other content than a hub's."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, (*READ_ERRORS, HFValidationError)):
            raise
        raise UserError(
            f"{_address()} sends what no hub sends about {repo} ({short_error(error)}): is HF_ENDPOINT right?"
        ) from None


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[str]:
    """Yield the hub's address; raise the hub's errors inside the context as UserError with one line."""
    endpoint = _address()
    remedy = "run the same command again later; files that are already here are kept"
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
    except RevisionNotFoundError:
        raise UserError(f"{repo} has no such revision on the hub at {endpoint} (any more)") from None
    except OfflineModeIsEnabled:
        raise UserError(f"{repo} is needed from the hub, but HF_HUB_OFFLINE is set: unset it") from None
    except ADDRESS_ERRORS as error:
        raise UserError(
            f"{endpoint} is no address of a hub ({short_error(error)}): correct or unset HF_ENDPOINT"
        ) from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{endpoint} sent no complete answer about {repo} ({short_error(error)}): {remedy}"
        ) from None
    except (HfHubHTTPError, httpx.HTTPError) as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code in LOGIN_CODES:
            remedy = f"log in with `hf auth login`, or {remedy}"
        raise UserError(f"the hub at {endpoint} fails for {repo} ({short_error(error)}): {remedy}") from None


def _address() -> str:
    """Return the hub's address, as it may be printed."""
    return without_password(hub_filesystem().endpoint)
