"""Guard of the page's functions: what others may call, and a plain answer to a call that fits no function."""

import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import gradio as gr

BAD_REQUEST = 400
NOT_FOUND = 404
TOO_LARGE = 413
MAX_BODY = 4_000_000  # bytes; the kept conversations are the most that the page itself sends
CALLS = ("/run/", "/api/", "/call/", "/queue/join")
# What Gradio's components raise for a value of a kind that they do not take.
BAD_VALUES = (gr.Error, TypeError, ValueError, KeyError, IndexError, AttributeError)


class Page(gr.Blocks):
    """Blocks that answer a call with wrong values in one line, without a traceback on the server."""

    async def preprocess_data(self, *args: object, **options: object) -> list:
        """Return the values of a call as the functions get them."""
        try:
            return await super().preprocess_data(*args, **options)
        except BAD_VALUES as error:
            raise gr.Error(
                f"this call has values that the page never sends: {error}", print_exception=False
            ) from None


class Refusal(NamedTuple):
    """Answer to a call that is refused: its status and the reason."""

    status: int
    reason: str


class ApiGuard:
    """ASGI middleware that passes on calls of public functions, and those that the page itself makes.

    `functions` are those of gr.Blocks by their number.
    """

    def __init__(self, app: ASGIApp, functions: Mapping[int, object]):
        self.app = app
        self.functions = functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with the reason of a refusal, or pass the request on."""
        is_call = scope["type"] == "http" and scope["method"] == "POST"
        if not is_call or not any(part in scope["path"] for part in CALLS):
            await self.app(scope, receive, send)
            return

        body = await read_body(receive)
        headers = Headers(scope=scope)
        if body is None:
            refusal = Refusal(TOO_LARGE, f"a call has at most {MAX_BODY:,} bytes")
        else:
            refusal = self.refusal(scope["path"], headers, body)
        if refusal:
            response = PlainTextResponse(refusal.reason, refusal.status)
            await response(scope, receive, send)
            return
        await self.app(scope, replay(body, receive), send)

    def refusal(self, path: str, headers: Headers, body: bytes) -> Refusal | None:
        """Return why a call is refused; None for one that is passed on."""
        try:
            call = json.loads(body)
            values = call["data"]
            number = call.get("fn_index")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return Refusal(BAD_REQUEST, 'a call is a JSON object with "data", a list of values')
        if not isinstance(values, list):
            return Refusal(BAD_REQUEST, '"data" is a list of values')

        name = path.rstrip("/").rpartition("/")[2]
        is_named = number is None
        if is_named:
            number = next((n for n, each in self.functions.items() if each.api_name == name), None)
        function = self.functions.get(number) if type(number) is int else None
        if function is None:
            return Refusal(NOT_FOUND, f"the page has no function {name if is_named else number!r}")

        is_public = function.api_visibility == "public"
        if not is_public and (is_named or not is_own_request(headers)):
            return Refusal(NOT_FOUND, "this function is a part of the page and cannot be called by others")
        counts = {len(function.inputs), sum(not each.skip_api for each in function.inputs)}
        if function.fn is not None and not function.cancels and len(values) not in counts:
            return Refusal(BAD_REQUEST, f"this function takes {min(counts)} values, not {len(values)}")
        return None


def is_own_request(headers: Headers) -> bool:
    """Return True for a request of the page itself: a browser names the origin of whatever it posts."""
    own_names = (headers.get("host"), headers.get("x-forwarded-host"))
    return urlsplit(headers.get("origin", "")).netloc in own_names


async def read_body(receive: Receive) -> bytes | None:
    """Return the body of a request; None for one that is too large."""
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            return None
    return body


def replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives a body that was read already, and then what comes after it."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again
