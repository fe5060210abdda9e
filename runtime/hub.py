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
# The hub's own errors are one of the first two; an answer that was cut short may be neither JSON nor Parquet.
READ_ERRORS = (OSError, httpx.HTTPError, json.JSONDecodeError, pa.ArrowInvalid)


@functools.cache
def hub_filesystem() -> huggingface_hub.HfFileSystem:
    """The hub's files. No request waits for ever: ours is the time limit where the library sets none."""

    def limit_waiting(request: httpx.Request) -> None:
        given = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {
            what: given.get(what) or limit for what, limit in httpx.Timeout(TIME_LIMIT).as_dict().items()
        }

    def client() -> httpx.Client:
        made = default_client_factory()
        made.event_hooks["request"].append(limit_waiting)
        return made

    set_client_factory(client)
    return huggingface_hub.HfFileSystem()


def retry(action: Callable[[], object], what: str, tries: int = 4) -> object:
    """The action's result, tried again after 1, 2, 4 seconds, or as long as the hub asks, when the network stumbles."""
    for attempt in range(tries):
        try:
            return action()
        except READ_ERRORS as error:
            if attempt == tries - 1 or not is_retryable(error):
                raise
            asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
            wait = int(asked) if asked.isdigit() else 2**attempt
            print(
                f"{what}: {short_error(error)}; trying again in {wait} s ({attempt + 1} of {tries - 1})",
                flush=True,
            )
            time.sleep(wait)


def is_retryable(error: Exception) -> bool:
    """Whether a second try may succeed: not after an answer that the request itself is wrong."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 425, 429) or error.response.status_code >= 500
    return not isinstance(error, (FileNotFoundError, PermissionError))


def short_error(error: Exception) -> str:
    """An error in a few words on one line."""
    if isinstance(error, HfHubHTTPError):
        return f"it answered {error.response.status_code} {error.response.reason_phrase}"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def hub_errors(repo: str) -> Iterator[str]:
    """Yields the hub's address; what fails there becomes one line, as UserError."""
    endpoint = hub_filesystem().endpoint
    try:
        yield endpoint
    except HFValidationError:
        raise UserError(f"{repo} is not the name of a repository: it is like owner/name") from None
    except GatedRepoError:
        raise UserError(
            f"{repo} is gated: accept its terms at {endpoint}/{repo}, then log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"{repo} is not on the hub at {endpoint}, or it is private: log in with `hf auth login`"
        ) from None
    except (HfHubHTTPError, httpx.HTTPError, OfflineModeIsEnabled) as error:
        login = (
            "log in with `hf auth login`, or "
            if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403)
            else ""
        )
        raise UserError(
            f"the hub at {endpoint} fails for {repo} ({short_error(error)}): {login}run the same command again "
            "later; what is here so far is kept"
        ) from None
